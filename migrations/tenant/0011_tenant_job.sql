-- Jobs have moved to the module's schema: one begins before its tenant's schema is there.
drop table tenant_job;
