-- Who works on a tenant job.

-- Whoever has lost a job to another instance may not write for it any more.
alter table tenant_job add column holder uuid;
comment on column tenant_job.holder is 'Who took it last: made for each taking';
