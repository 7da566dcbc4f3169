-- How far ingest has read the topics of this tenant.
create table ingest_position (
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    last_record_at timestamptz,
    cluster text not null default '',
    primary key (topic, partition)
) with (fillfactor = 50);
comment on table ingest_position is 'Read positions, written in the transaction that commits the records before next_offset';
comment on column ingest_position.topic is 'Full name of the topic';
comment on column ingest_position.partition is 'Number of the partition';
comment on column ingest_position.next_offset is 'Offset of the next record to read';
comment on column ingest_position.last_record_at is 'Timestamp of the record before next_offset; null if unknown';
comment on column ingest_position.cluster is 'Id of the Kafka cluster to which the offset belongs';
