-- Read positions of a tenant whose tables were returned to the Java module. Reading resumes there if the tenant comes back.
create table returned_position (
    tenant text not null,
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    last_record_at timestamptz,
    cluster text not null,
    primary key (tenant, topic, partition)
);
comment on table returned_position is 'Copy of ingest_position of tenants that went back to the Java module';
comment on column returned_position.tenant is 'The tenant';
comment on column returned_position.topic is 'Full name of the topic';
comment on column returned_position.partition is 'Number of the partition';
comment on column returned_position.next_offset is 'Offset of the next record to read';
comment on column returned_position.last_record_at is 'Timestamp of the record before next_offset; null if unknown';
comment on column returned_position.cluster is 'Id of the Kafka cluster to which the offset belongs';
