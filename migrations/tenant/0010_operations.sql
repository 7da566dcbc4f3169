-- For operators: whose offsets these are, and what waits. An offset means nothing without its cluster: a
-- topic may move to another one, or be made anew.
alter table ingest_position add column cluster text not null default '';
comment on column ingest_position.last_record_at is 'Timestamp of the record before next_offset';
comment on column ingest_position.cluster is 'Id of the Kafka cluster that the offset belongs to';

alter table dead_letter add column cluster text not null default '';
comment on column dead_letter.cluster is 'Id of the Kafka cluster: part of the identity of a record without an id';

-- What waits is counted for operators; such rows are few, and so the indexes are small.
create index loan_waiting on loan (loan_id)
    where check_out_stamp is null and snapshot_stamp is null and closed_stamp is null;
create index fee_fine_waiting on fee_fine (fee_fine_id) where user_id is null and balance <> 0;
