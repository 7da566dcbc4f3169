-- What each instance reports about its partitions, once a second. Together the reports show how far a tenant's events are applied.
create table ingest_instance (
    instance uuid primary key,
    reported_at timestamptz not null,
    compared_at timestamptz,
    owned_version bigint not null,
    owned jsonb not null,
    behind jsonb not null,
    callbacks jsonb not null
) with (fillfactor = 50);
comment on table ingest_instance is 'Progress reports of the running instances; an old report is deleted after an hour';
comment on column ingest_instance.instance is 'Id of the instance, new at each start';
comment on column ingest_instance.reported_at is 'When the instance last reported, by the clock of the database';
comment on column ingest_instance.compared_at is 'When the instance last compared its positions with the ends of the log; null before the first time';
comment on column ingest_instance.owned_version is 'Number of changes of owned: other instances read owned only after a change';
comment on column ingest_instance.owned is 'Numbers of the partitions with a known position, by topic';
comment on column ingest_instance.behind is 'Partitions with records that are not applied, and stopped partitions';
comment on column ingest_instance.callbacks is 'When the last event arrived over HTTP, by tenant; only tenants without a topic';
