-- Exports of summaries (POST /patron-blocks/user-summaries/iteration): the summary of each patron, published once to a topic.
create table summary_export (
    id uuid primary key,
    tenant text not null,
    topic text not null,
    event_type text not null,
    patron_group text,
    changed_since timestamptz,
    status text not null default 'waiting'
        check (status in ('waiting', 'publishing', 'done', 'failed', 'cancelled')),
    requested_by text not null,
    requested_at timestamptz not null,
    started_at timestamptz,
    ended_at timestamptz,
    lease_holder uuid,
    lease_expires_at timestamptz,
    total bigint,
    published bigint not null default 0,
    last_user uuid,
    error text
);
create index summary_export_open on summary_export (requested_at) where ended_at is null;
create index summary_export_tenant on summary_export (tenant, requested_at);

comment on table summary_export is 'Exports of summaries, ended ones included; a row is deleted 90 days after its export has ended';
comment on column summary_export.id is 'Id of the export; each of its events contains it';
comment on column summary_export.tenant is 'The tenant';
comment on column summary_export.topic is 'Full name of the topic';
comment on column summary_export.event_type is 'Type of the published events';
comment on column summary_export.patron_group is 'Only patrons of this group; null for all groups';
comment on column summary_export.changed_since is 'Only patrons who have changed since then; null for all patrons';
comment on column summary_export.status is 'Stage of the export';
comment on column summary_export.requested_by is 'Id of the staff user, or name of the part of the service that requested it';
comment on column summary_export.requested_at is 'When it was requested, by the clock of the database';
comment on column summary_export.started_at is 'When an instance first claimed it';
comment on column summary_export.ended_at is 'When it ended; null while it is open';
comment on column summary_export.lease_holder is 'Random id of the current lease; each claim makes a new one';
comment on column summary_export.lease_expires_at is 'End of the lease, or after a release the earliest time of the next claim';
comment on column summary_export.total is 'Number of summaries to publish; null until it is known';
comment on column summary_export.published is 'Number of summaries that the broker has acknowledged';
comment on column summary_export.last_user is 'Last patron, in the order of ids, whose summary the broker has acknowledged';
comment on column summary_export.error is 'Why it failed; null if it did not';
