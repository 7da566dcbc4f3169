-- How far the topics of a tenant were read when its tables were given back to the Java module: where reading
-- goes on when the tenant comes again.
create table given_back (
    tenant text not null,
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    last_record_at timestamptz,
    cluster text not null,
    primary key (tenant, topic, partition)
);
comment on table given_back is 'Positions of tenants that went back to the Java module, as in each tenant''s ingest_position';
