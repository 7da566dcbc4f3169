-- The tables of the service, for readers. Generated from a migrated database; a test compares. The statements that
-- create the tables are in migrations/, with the bodies of views and functions.

-- ========== schema mod_patron_blocks: all tenants ==========

-- Records that could not be applied and belong to no known tenant, or wait for their tenant
create table dead_letter (
    dead_letter_id uuid not null, -- UUIDv5 of the position of the record: a redelivery adds no row
    reason text not null, -- Name of a Reason of src/event
    field text, -- Member or header that breaks the rule; null if the rule names none
    rule text not null, -- The rule that the record breaks, in words
    topic text not null, -- Full name of the topic
    partition integer not null, -- Number of the partition
    offset bigint not null, -- Offset of the record
    cluster text not null default ''::text, -- Id of the Kafka cluster: part of the identity of a record without an id
    record_at timestamp with time zone, -- Timestamp of the record; null if it has none
    received_at timestamp with time zone not null, -- When the row was added, by the clock of the database
    key bytea, -- Key of the record
    headers jsonb not null, -- Header names and values as text, in order, without tokens
    payload bytea not null, -- Value of the record
    subjects uuid[] not null default '{}'::uuid[], -- UUIDs in key and value, at most 20: a patron, loan or fee/fine among them may lack the record
    tenant text, -- The tenant that cannot be written for now: the service retries the record. Null for all other records
    PRIMARY KEY (dead_letter_id),
);
CREATE INDEX dead_letter_subjects ON mod_patron_blocks.dead_letter USING gin (subjects);
CREATE INDEX dead_letter_waiting ON mod_patron_blocks.dead_letter USING btree (tenant, dead_letter_id) WHERE (tenant IS NOT NULL);

-- Dead letters that an operator discarded: housekeeping deletes them later
create table discarded_dead_letter (
    dead_letter_id uuid not null, -- Id of the dead letter
    reason text not null, -- Name of a Reason of src/event
    field text, -- Member or header that breaks the rule; null if the rule names none
    rule text not null, -- The rule that the record breaks, in words
    topic text not null, -- Full name of the topic
    partition integer not null, -- Number of the partition
    offset bigint not null, -- Offset of the record
    cluster text not null default ''::text, -- Id of the Kafka cluster: part of the identity of a record without an id
    record_at timestamp with time zone, -- Timestamp of the record; null if it has none
    received_at timestamp with time zone not null, -- When the dead letter was stored, by the clock of the database
    key bytea, -- Key of the record
    headers jsonb not null, -- Header names and values as text, in order, without tokens
    payload bytea not null, -- Value of the record
    subjects uuid[] not null default '{}'::uuid[], -- UUIDs in key and value, at most 20: a patron, loan or fee/fine among them may lack the record
    tenant text, -- The tenant that the record waited for; null for all other records
    discarded_at timestamp with time zone not null default clock_timestamp(), -- When the dead letter was discarded, by the clock of the database
    PRIMARY KEY (dead_letter_id),
);

-- Raised by the service; open until an operator, or the service, resolves it
create table incident (
    incident_id uuid not null, -- UUIDv5 of kind, topic, partition and offsets (or of kind and rebuild): the same finding is one incident
    kind text not null, -- Name of an IncidentKind of src/store
    tenant text, -- Tenant of the topic; null for a topic of a tenant collection
    topic text not null, -- Full name of the topic; empty for an incident of a rebuild
    partition integer not null, -- Number of the partition; -1 for an incident of a rebuild
    from_offset bigint not null, -- First offset of the range
    to_offset bigint not null, -- Offset after the last one of the range
    from_time timestamp with time zone, -- Timestamp of the last record before the range; null if unknown
    to_time timestamp with time zone, -- Timestamp of the first record after the range; null if unknown
    rebuild_id uuid, -- The rebuild that raised the incident; null for an incident of a topic
    detail text not null, -- Meaning and consequence, in words
    raised_at timestamp with time zone not null, -- When the incident was last raised, by the clock of the database
    resolved_at timestamp with time zone, -- When the incident was resolved; null while it is open
    resolved_by text, -- Who resolved the incident
    PRIMARY KEY (incident_id),
    constraint incident_kind_check CHECK ((kind ~ '^[a-z_]+$'::text)),
);
CREATE INDEX incident_open ON mod_patron_blocks.incident USING btree (topic, partition) WHERE (resolved_at IS NULL);
CREATE INDEX incident_rebuild ON mod_patron_blocks.incident USING btree (rebuild_id) WHERE (resolved_at IS NULL);

-- Progress reports of the running instances; an old report is deleted after an hour
create table ingest_instance (
    instance uuid not null, -- Id of the instance, new at each start
    reported_at timestamp with time zone not null, -- When the instance last reported, by the clock of the database
    compared_at timestamp with time zone, -- When the instance last compared its positions with the ends of the log; null before the first time
    owned_version bigint not null, -- Number of changes of owned: other instances read owned only after a change
    owned jsonb not null, -- Numbers of the partitions with a known position, by topic
    behind jsonb not null, -- Partitions with records that are not applied, and stopped partitions
    callbacks jsonb not null, -- When the last event arrived over HTTP, by tenant; only tenants without a topic
    PRIMARY KEY (instance),
);

-- Read positions of topics of tenant collections
create table ingest_position (
    topic text not null, -- Full name of the topic
    partition integer not null, -- Number of the partition
    next_offset bigint not null, -- Offset of the next record to read
    last_record_at timestamp with time zone, -- Timestamp of the record before next_offset; null if unknown
    cluster text not null default ''::text, -- Id of the Kafka cluster to which the offset belongs
    PRIMARY KEY (topic, partition),
);

-- Rebuilds, summary exports and tenant jobs, ended ones included; a row is deleted 90 days after its job has ended, of a tenant job 30 days
create table job (
    id uuid not null, -- Id of the job, as in its path; each event of a summary export contains it
    kind text not null, -- Kind of the job: two kinds share this table and no row
    tenant text not null, -- The tenant
    request jsonb not null, -- The request: source, scope and options of a rebuild; topic and selection of a summary export; the body of POST /_/tenant
    status text not null default 'waiting'::text, -- Stage of the job
    requested_by text not null, -- Id of the staff user, or name of the part of the service that requested it
    requested_at timestamp with time zone not null, -- When it was requested, by the clock of the database
    started_at timestamp with time zone, -- When an instance first claimed it
    ended_at timestamp with time zone, -- When it ended; null while it is open
    lease_holder uuid, -- Random id of the current lease; each claim makes a new one
    lease_expires_at timestamp with time zone, -- End of the lease: until then only the holder works on the job; after a release the earliest time of the next claim, or null
    cancel_requested boolean not null default false, -- Whether the rebuild has to end without further changes; a summary export ends at once instead
    progress jsonb not null default '{}'::jsonb, -- Progress at the last renewal of the lease: stage and counts of a rebuild; total, acknowledged summaries and last patron of a summary export
    error text, -- Why it failed, or was not applied
    messages jsonb not null default '[]'::jsonb, -- Messages for the client: skipped records, refused tokens, whether mod-pubsub was informed
    read_group text, -- Rebuilds with the same value read the topics that their tenants share in one pass; null for a rebuild that reads alone
    summary jsonb, -- Number of differences by kind
    loans_read integer not null default 0, -- Number of open loans read from the storage modules
    fees_fines_read integer not null default 0, -- Number of open fees/fines read from the storage modules
    skipped_records integer not null default 0, -- Number of unreadable records of the storage modules: the rows of these records stay as they are
    token_refusals integer not null default 0, -- Number of consecutive refusals of a token
    PRIMARY KEY (id),
    constraint job_check CHECK (((status = ANY (ARRAY['waiting'::text, 'done'::text, 'failed'::text, 'cancelled'::text])) OR ((kind = 'rebuild'::text) AND (status = ANY (ARRAY['reading'::text, 'comparing'::text, 'compared'::text, 'applying'::text]))) OR ((kind = 'summary_export'::text) AND (status = 'publishing'::text)) OR ((kind = 'tenant'::text) AND (status = 'enabling'::text)))),
    constraint job_kind_check CHECK ((kind = ANY (ARRAY['rebuild'::text, 'summary_export'::text, 'tenant'::text]))),
);
CREATE INDEX job_ended ON mod_patron_blocks.job USING btree (kind, ended_at) WHERE (ended_at IS NOT NULL);
CREATE INDEX job_open ON mod_patron_blocks.job USING btree (kind, requested_at) WHERE (ended_at IS NULL);
CREATE INDEX job_tenant ON mod_patron_blocks.job USING btree (tenant, kind, requested_at);

-- The acts of operators that concern no single tenant
create table operator_action (
    number bigint not null generated always as identity, -- The number of the act, in order of begin
    at timestamp with time zone not null default clock_timestamp(), -- When the act began, by the clock of the database
    actor text not null, -- Id of the staff user; console-port or command-line if the door knows no user
    door text not null, -- Where the act came from: console, http or command-line
    action text not null, -- Name of an Action of src/services/operator_actions.rs
    subject text, -- Id or query of the records that the act concerns; null if the act concerns the tenant
    reason text, -- The reason that the operator gave; null if the door asks for none
    request_id text, -- The header X-Okapi-Request-Id; null if absent
    detail jsonb not null default '{}'::jsonb, -- What the act changed, as JSON; each action has its own members
    outcome text not null default 'started'::text, -- started until the act ends; unknown if the database did not report the end. An act that stays started belongs to an instance that stopped
    ended_at timestamp with time zone, -- When the act ended, by the clock of the database
    PRIMARY KEY (number),
    constraint operator_action_door_check CHECK ((door = ANY (ARRAY['console'::text, 'http'::text, 'command-line'::text]))),
    constraint operator_action_outcome_check CHECK ((outcome = ANY (ARRAY['started'::text, 'done'::text, 'failed'::text, 'unknown'::text]))),
);

-- Copy of ingest_position of tenants that went back to the Java module
create table returned_position (
    tenant text not null, -- The tenant
    topic text not null, -- Full name of the topic
    partition integer not null, -- Number of the partition
    next_offset bigint not null, -- Offset of the next record to read
    last_record_at timestamp with time zone, -- Timestamp of the record before next_offset; null if unknown
    cluster text not null, -- Id of the Kafka cluster to which the offset belongs
    PRIMARY KEY (tenant, topic, partition),
);

-- Tenants for which the module is or was enabled
create table tenant (
    tenant text not null, -- Tenant id
    enabled boolean not null, -- Whether the module is enabled for the tenant now
    enabled_at timestamp with time zone not null default clock_timestamp(), -- When the tenant was last enabled, by the clock of the database: identifies the enabling; an upgrade keeps it
    module_id text not null, -- module_to of the last enabling, for example mod-patron-blocks-2.0.0
    changed_at timestamp with time zone not null, -- When the row was last written
    initial_fill_id uuid, -- The rebuild that loads what happened before the enabling; null once it has ended
    incomplete_before timestamp with time zone, -- The state lacks events from before this instant; null if it lacks none
    PRIMARY KEY (tenant),
    constraint tenant_tenant_check CHECK ((tenant ~ '^[a-z][a-z0-9_]{0,30}$'::text)),
);
CREATE TRIGGER tenant_enabled BEFORE UPDATE OF enabled ON mod_patron_blocks.tenant FOR EACH ROW WHEN ((new.enabled AND (NOT old.enabled))) EXECUTE FUNCTION mod_patron_blocks.set_enabled_at();

-- Sets tenant.enabled_at when a tenant is enabled again
create function set_enabled_at() returns trigger;

-- ========== schema <tenant>_mod_patron_blocks: one tenant ==========

-- One row: settings of the last detection
create table block_event_settings (
    singleton boolean not null default true, -- Always true: the table has one row
    approaching_percent smallint, -- A patron within so many percent of a limit approaches it; null before the first detection
    lease_holder uuid, -- The instance that may change this row
    lease_expires_at timestamp with time zone, -- End of the lease, unless its holder renews it: then any instance may acquire it
    PRIMARY KEY (singleton),
    constraint block_event_settings_singleton_check CHECK (singleton),
);

-- At most one row: the reactions to uncertain evaluations
create table certainty_policy (
    singleton boolean not null default true, -- Always true: the table has at most one row
    policy jsonb not null, -- The policy as the API returns it
    updated_at timestamp with time zone not null, -- When the policy was last replaced, by the clock of the database
    updated_by text, -- Id of the staff user who replaced the policy; null if unknown
    PRIMARY KEY (singleton),
    constraint certainty_policy_singleton_check CHECK (singleton),
);

-- Records of this tenant that could not be applied
create table dead_letter (
    dead_letter_id uuid not null, -- UUIDv5 of the position of the record: a redelivery adds no row
    reason text not null, -- Name of a Reason of src/event
    field text, -- Member or header that breaks the rule; null if the rule names none
    rule text not null, -- The rule that the record breaks, in words
    topic text not null, -- Full name of the topic
    partition integer not null, -- Number of the partition
    offset bigint not null, -- Offset of the record
    cluster text not null default ''::text, -- Id of the Kafka cluster: part of the identity of a record without an id
    record_at timestamp with time zone, -- Timestamp of the record; null if it has none
    received_at timestamp with time zone not null, -- When the row was added, by the clock of the database
    key bytea, -- Key of the record
    headers jsonb not null, -- Header names and values as text, in order, without tokens
    payload bytea not null, -- Value of the record
    subjects uuid[] not null default '{}'::uuid[], -- UUIDs in key and value, at most 20: a patron, loan or fee/fine among them may lack the record
    PRIMARY KEY (dead_letter_id),
);
CREATE INDEX dead_letter_received ON dead_letter USING btree (received_at DESC, dead_letter_id);
CREATE INDEX dead_letter_subjects ON dead_letter USING gin (subjects);

-- Dead letters that an operator discarded: housekeeping deletes them later
create table discarded_dead_letter (
    dead_letter_id uuid not null, -- Id of the dead letter
    reason text not null, -- Name of a Reason of src/event
    field text, -- Member or header that breaks the rule; null if the rule names none
    rule text not null, -- The rule that the record breaks, in words
    topic text not null, -- Full name of the topic
    partition integer not null, -- Number of the partition
    offset bigint not null, -- Offset of the record
    cluster text not null default ''::text, -- Id of the Kafka cluster: part of the identity of a record without an id
    record_at timestamp with time zone, -- Timestamp of the record; null if it has none
    received_at timestamp with time zone not null, -- When the dead letter was stored, by the clock of the database
    key bytea, -- Key of the record
    headers jsonb not null, -- Header names and values as text, in order, without tokens
    payload bytea not null, -- Value of the record
    subjects uuid[] not null default '{}'::uuid[], -- UUIDs in key and value, at most 20: a patron, loan or fee/fine among them may lack the record
    discarded_at timestamp with time zone not null default clock_timestamp(), -- When the dead letter was discarded, by the clock of the database
    PRIMARY KEY (dead_letter_id),
);
CREATE INDEX discarded_dead_letter_subjects ON discarded_dead_letter USING gin (subjects);

-- One row for each fee/fine that an event named; a closed one stays as a tombstone until it is pruned
create table fee_fine (
    fee_fine_id uuid not null, -- Id of the fee/fine
    balance_stamp bytea, -- Register balance: stamp of the newest balance
    balance numeric, -- Register balance: the amount that is owed
    loan_id uuid, -- Register balance: the loan that the fee/fine belongs to; null for none
    type_stamp bytea, -- Register type: stamp
    fee_fine_type_id uuid, -- Register type: id of the type
    user_stamp bytea, -- Register owner: stamp
    user_id uuid, -- Register owner: the patron who owes it; null until an event names one: the row counts for nobody
    horizon bytea not null default '\x'::bytea, -- Evidence that is older does not open the fee/fine: as loan.horizon
    prune_horizon bytea, -- As loan.prune_horizon
    is_open boolean not null generated always as (COALESCE(((balance <> (0)::numeric) AND (balance_stamp >= horizon) AND (user_id IS NOT NULL)), false)) stored, -- Derived: whether the fee/fine counts for its owner
    previous_user uuid, -- Before the last write: user_id
    previous_open boolean not null default false, -- Before the last write: is_open
    previous_balance numeric not null default 0, -- Before the last write: the balance that counted
    PRIMARY KEY (fee_fine_id),
);
CREATE INDEX fee_fine_open ON fee_fine USING btree (user_id) INCLUDE (loan_id, balance) WHERE is_open;
CREATE INDEX fee_fine_waiting ON fee_fine USING btree (fee_fine_id) WHERE ((user_id IS NULL) AND (balance <> (0)::numeric));

-- One row: how far old rows have been removed
create table housekeeping (
    singleton boolean not null default true, -- Always true: the table has one row
    started_at timestamp with time zone, -- When an instance last started housekeeping; other instances skip it for an interval
    prune_horizon bytea, -- Loans and fees/fines that are closed and older may have been removed; null if none was ever removed (prefix of a stamp)
    inbox_oldest timestamp with time zone, -- Oldest inbox.received_at at the end of the last scan of the whole inbox
    inbox_complete_since timestamp with time zone, -- The inbox has every event that occurred and arrived since then; null if it never lost one
    PRIMARY KEY (singleton),
    constraint housekeeping_prune_horizon_check CHECK ((length(prune_horizon) = 8)),
    constraint housekeeping_singleton_check CHECK (singleton),
);

-- Applied events: deduplication and history in one
create table inbox (
    event_key uuid not null, -- Id of the envelope, else UUIDv5 of cluster, topic, partition, offset and timestamp
    identified_by text not null, -- Rule that gave event_key: an IdentifiedBy of src/event
    kind text not null, -- Kind of the event: a Kind of src/event
    subject uuid, -- The loan, the fee/fine or the patron; null for an event about all loans of the tenant
    user_id uuid, -- The patron that the event names; null if it names none
    occurred_at timestamp with time zone not null, -- When it happened
    timed_by text not null, -- Rule that gave occurred_at: a TimedBy of src/event
    stamp bytea not null, -- Rank of the event in the total order (src/event/stamp.rs)
    topic text, -- Full name of the topic
    partition integer, -- Number of the partition; negative for an event that came over HTTP
    offset bigint, -- Offset of the record
    received_at timestamp with time zone not null, -- When it was applied, by the clock of the database
    payload bytea not null, -- Value of the record; empty for a user record, which holds personal data
    PRIMARY KEY (event_key),
);
CREATE INDEX inbox_subject ON inbox USING btree (subject);
CREATE TRIGGER inbox_rows_deleted AFTER DELETE ON inbox REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION record_inbox_removal();
CREATE TRIGGER inbox_truncated AFTER TRUNCATE ON inbox FOR EACH STATEMENT EXECUTE FUNCTION record_inbox_removal();

-- Read positions, written in the transaction that commits the records before next_offset
create table ingest_position (
    topic text not null, -- Full name of the topic
    partition integer not null, -- Number of the partition
    next_offset bigint not null, -- Offset of the next record to read
    last_record_at timestamp with time zone, -- Timestamp of the record before next_offset; null if unknown
    cluster text not null default ''::text, -- Id of the Kafka cluster to which the offset belongs
    PRIMARY KEY (topic, partition),
);

-- One row for each loan that an event named; a closed loan stays as a tombstone until it is pruned
create table loan (
    loan_id uuid not null, -- Id of the loan
    check_out_stamp bytea, -- Register check-out: stamp of the newest check-out
    check_out_user uuid, -- Register check-out: the borrower
    check_out_due_date timestamp with time zone, -- Register check-out: the due date
    grace_duration integer, -- Register check-out: length of the grace period in units of grace_interval; null for none
    grace_interval text, -- Register check-out: unit of the grace period
    grace_minutes bigint, -- Register check-out: the grace period in minutes
    snapshot_stamp bytea, -- Register snapshot: stamp of the newest open snapshot of a storage module
    snapshot_user uuid, -- Register snapshot: the borrower
    due_stamp bytea, -- Register due: stamp of the newest due-date change or snapshot
    changed_due_date timestamp with time zone, -- Register due: the due date; takes precedence over check_out_due_date
    due_by_recall boolean, -- Register due: whether a recall set the due date
    lost_stamp bytea, -- Register lost: stamp
    lost_value boolean, -- Register lost: whether the item is lost
    claimed_stamp bytea, -- Register claimed returned: stamp
    claimed_value boolean, -- Register claimed returned: whether the patron claims to have returned the item
    closed_stamp bytea, -- Stamp of the newest evidence that the loan is closed; only a later open snapshot reopens the loan
    fallback_user uuid, -- A patron that another event named: the borrower until a check-out or snapshot names one
    horizon bytea not null default '\x'::bytea, -- Evidence that is older does not open the loan: the greater of prune horizon and snapshot horizon (8 bytes, prefix of a stamp)
    prune_horizon bytea, -- Prune horizon of the tenant when the row was inserted: the part of horizon that does not depend on the borrower; null if nothing had been pruned
    user_id uuid generated always as (loan_owner(check_out_stamp, check_out_user, snapshot_stamp, snapshot_user, fallback_user)) stored, -- Derived: the borrower
    due_date timestamp with time zone generated always as (COALESCE(changed_due_date, check_out_due_date)) stored, -- Derived: the due date
    recall boolean not null generated always as (COALESCE(due_by_recall, false)) stored, -- Derived: whether the loan is recalled
    lost boolean not null generated always as (COALESCE(lost_value, false)) stored, -- Derived: whether the item is lost
    claimed_returned boolean not null generated always as (COALESCE(claimed_value, false)) stored, -- Derived: whether the item is claimed returned
    overdue_from timestamp with time zone generated always as (timezone('UTC'::text, (timezone('UTC'::text, COALESCE(changed_due_date, check_out_due_date)) + (((COALESCE(grace_minutes, (0)::bigint) + 1))::double precision * '00:01:00'::interval)))) stored, -- Derived: first instant at which the loan is overdue
    is_open boolean not null generated always as ((COALESCE((GREATEST(check_out_stamp, snapshot_stamp) >= horizon), false) AND ((closed_stamp IS NULL) OR COALESCE((snapshot_stamp > closed_stamp), false)))) stored, -- Derived: whether the loan counts for its borrower
    previous_user uuid, -- Before the last write: user_id
    previous_open boolean not null default false, -- Before the last write: is_open
    previous_lost boolean not null default false, -- Before the last write: whether the row counted as lost
    previous_claimed boolean not null default false, -- Before the last write: whether the row counted as claimed returned
    previous_recall boolean not null default false, -- Before the last write: whether the row counted as recalled
    PRIMARY KEY (loan_id),
    constraint loan_grace_duration_check CHECK ((grace_duration > 0)),
    constraint loan_grace_interval_check CHECK ((grace_interval = ANY (ARRAY['Minutes'::text, 'Hours'::text, 'Days'::text, 'Weeks'::text, 'Months'::text]))),
    constraint loan_grace_minutes_check CHECK ((grace_minutes > 0)),
);
CREATE INDEX loan_open ON loan USING btree (user_id, overdue_from) INCLUDE (recall, claimed_returned, due_date) WHERE is_open;
CREATE INDEX loan_waiting ON loan USING btree (loan_id) WHERE ((check_out_stamp IS NULL) AND (snapshot_stamp IS NULL) AND (closed_stamp IS NULL));

-- Messages to publish, and those that were published lately
create table message_outbox (
    sequence bigint not null, -- Order of the messages: of two messages about a patron the greater number is the later one
    id uuid not null, -- Id of the event: a consumer recognises a duplicate by it
    kafka_topic text not null, -- Full name of the topic
    key text not null, -- Key of the record
    headers jsonb not null, -- Headers of the record, as an object of texts
    payload text not null, -- Value of the record
    status text not null default 'NEW'::text, -- NEW until the broker has acknowledged the message, then SENT
    created_at timestamp with time zone not null default now(), -- When the message was written, by the clock of the database
    sent_at timestamp with time zone, -- When the broker acknowledged it; null while it is NEW
    PRIMARY KEY (sequence),
    constraint message_outbox_status_check CHECK ((status = ANY (ARRAY['NEW'::text, 'SENT'::text]))),
);
CREATE INDEX message_outbox_new ON message_outbox USING btree (sequence) WHERE (status = 'NEW'::text);

-- The acts of operators: each row is added before its act begins
create table operator_action (
    number bigint not null generated always as identity, -- The number of the act, in order of begin
    at timestamp with time zone not null default clock_timestamp(), -- When the act began, by the clock of the database
    actor text not null, -- Id of the staff user; console-port or command-line if the door knows no user
    door text not null, -- Where the act came from: console, http or command-line
    action text not null, -- Name of an Action of src/services/operator_actions.rs
    subject text, -- Id or query of the records that the act concerns; null if the act concerns the tenant
    reason text, -- The reason that the operator gave; null if the door asks for none
    request_id text, -- The header X-Okapi-Request-Id; null if absent
    detail jsonb not null default '{}'::jsonb, -- What the act changed, as JSON; each action has its own members
    outcome text not null default 'started'::text, -- started until the act ends; unknown if the database did not report the end. An act that stays started belongs to an instance that stopped
    ended_at timestamp with time zone, -- When the act ended, by the clock of the database
    PRIMARY KEY (number),
    constraint operator_action_door_check CHECK ((door = ANY (ARRAY['console'::text, 'http'::text, 'command-line'::text]))),
    constraint operator_action_outcome_check CHECK ((outcome = ANY (ARRAY['started'::text, 'done'::text, 'failed'::text, 'unknown'::text]))),
);

-- Patron groups, by source
create table patron (
    user_id uuid not null, -- Id of the patron
    users_group text, -- Group in the last response of the users module; null if that had none
    users_group_at timestamp with time zone, -- When the users module was last asked, by the clock of the database; null if never
    topic_group text, -- Group in the newest record of topic users.users; null if that had none
    topic_group_stamp bytea, -- Stamp of that record; null if there was none
    topic_group_at timestamp with time zone, -- Time of that record, or of its arrival if its clock is ahead
    PRIMARY KEY (user_id),
    constraint patron_topic_group CHECK (((topic_group_stamp IS NULL) = (topic_group_at IS NULL))),
);

-- The six conditions
create table patron_block_conditions (
    id uuid not null, -- Id of the condition
    jsonb jsonb not null, -- The whole record
    creation_date timestamp without time zone, -- When it was created, in UTC
    created_by text, -- Who created it; the service does not set it
    PRIMARY KEY (id),
);

-- Limits per patron group and condition
create table patron_block_limits (
    id uuid not null, -- Id of the limit
    jsonb jsonb not null, -- The whole record
    creation_date timestamp without time zone, -- When it was created, in UTC: the order of blocks in an answer
    created_by text, -- Id of the user who created it
    conditionid uuid, -- Id of its condition, as in the record
    PRIMARY KEY (id),
    constraint patron_block_limits_conditionid_fkey FOREIGN KEY (conditionid) REFERENCES patron_block_conditions(id),
);
CREATE INDEX patron_block_limits_conditionid_idx ON patron_block_limits USING btree (conditionid);

-- A cache of loan and fee_fine; a recount must equal it at every commit
create table patron_counter (
    user_id uuid not null, -- Id of the patron
    summary_id uuid not null default gen_random_uuid(), -- Stable id of the summary of the patron, a UUID of version 4 as FOLIO requires
    version bigint not null default 1, -- Increases with each change of an open loan or fee/fine
    open_loans integer not null, -- Open loans, including those that are claimed returned
    lost_loans integer not null, -- Open loans that are lost and not claimed returned
    claimed_returned_loans integer not null, -- Open loans that are claimed returned
    recalled_loans integer not null, -- Open loans that are recalled and not claimed returned
    open_fees_fines integer not null, -- Open fees/fines
    fee_fine_balance numeric not null, -- Sum of all open balances, including those of claimed returned loans
    PRIMARY KEY (user_id),
);

-- Snapshot horizons of single patrons: one row per patron with an applied complete snapshot
create table patron_horizon (
    user_id uuid not null, -- Id of the patron
    horizon bytea not null, -- Start of the newest complete snapshot of the patron (prefix of a stamp)
    PRIMARY KEY (user_id),
    constraint patron_horizon_horizon_check CHECK ((length(horizon) = 8)),
);

-- Changes whose patrons are not in pending_patron yet
create table pending_group (
    number bigint not null generated always as identity, -- Order of the changes
    patron_group text, -- The patron group that the change concerns; null for all patrons
    cause text not null, -- Name of a Cause of src/blocks
    PRIMARY KEY (number),
);

-- Patrons to evaluate again; a patron may have several rows
create table pending_patron (
    low_priority boolean not null default false, -- Whether the row comes from a change of limits or settings, which concerns many patrons: claimed after all others
    number bigint not null generated always as identity, -- Order of claiming
    user_id uuid not null, -- Id of the patron
    cause text not null, -- Name of a Cause of src/blocks
    PRIMARY KEY (low_priority, number),
);

-- Last published blocks of each patron, and when time alone may change them
create table published_patron (
    user_id uuid not null, -- Id of the patron
    blocked jsonb, -- Last published blocks; null if the patron has none
    approaching jsonb, -- Last published limits that the patron approaches; null if there are none
    reevaluate_at timestamp with time zone, -- When the next loan becomes overdue, or an overdue recall a day older; null if time changes nothing
    PRIMARY KEY (user_id),
);
CREATE INDEX published_patron_reevaluate_at ON published_patron USING btree (reevaluate_at) WHERE (reevaluate_at IS NOT NULL);

-- Loans and fees/fines for which a rebuild found a difference
create table rebuild_difference (
    rebuild_id uuid not null, -- The rebuild
    subject uuid not null, -- Id of the loan or fee/fine
    is_loan boolean not null, -- Whether the subject is a loan
    user_id uuid, -- The patron in the target state, or else in the current state; null if neither names one
    kind text not null, -- Open only in the current state, only in the target state, in both with a difference, or different without effect on any answer
    registers text[] not null, -- Names of the registers that differ
    current_state jsonb, -- The subject in the current state; null if it is unknown there
    target_state jsonb, -- The subject in the target state; null if it is unknown there
    applied boolean not null default false, -- Whether an insignificant difference was applied; for all others see rebuild_patron.applied_at
    constraint rebuild_difference_kind_check CHECK ((kind = ANY (ARRAY['only_current'::text, 'only_target'::text, 'differs'::text, 'insignificant'::text]))),
);
CREATE UNIQUE INDEX rebuild_difference_subject ON rebuild_difference USING btree (rebuild_id, user_id, subject);

-- Patrons for whom a rebuild found differences
create table rebuild_patron (
    rebuild_id uuid not null, -- The rebuild
    user_id uuid not null, -- Id of the patron
    loans integer not null, -- Number of loans with a significant difference
    fees_fines integer not null, -- Number of fees/fines with a significant difference
    counters boolean not null, -- Whether the counters differ from a recount of the rows
    current_loans integer, -- Number of open loans in the current state
    target_loans integer, -- Number of open loans in the target state
    blocked_before text[], -- Ids of the conditions that block the patron in the current state; null if the patron group is unknown
    blocked_after text[], -- Ids of the conditions that block the patron in the target state; null if the patron group is unknown
    applied_at timestamp with time zone, -- When the target state was applied; null if it was not
    PRIMARY KEY (rebuild_id, user_id),
);

-- At most one row: snapshot horizon of the whole tenant
create table tenant_horizon (
    singleton boolean not null default true, -- Always true: the table has at most one row
    horizon bytea not null, -- Start of the newest complete snapshot: what it lacks of older loans and fees/fines is closed (prefix of a stamp)
    loans_horizon bytea, -- When storage last deleted all loans; concerns no fee/fine; null if never
    PRIMARY KEY (singleton),
    constraint tenant_horizon_horizon_check CHECK ((length(horizon) = 8)),
    constraint tenant_horizon_loans_horizon_check CHECK ((length(loans_horizon) = 8)),
    constraint tenant_horizon_singleton_check CHECK (singleton),
);

-- What each open loan and fee/fine counts for its patron
create view counted (
    user_id uuid, -- Id of the patron
    loans integer, -- 1 for a loan
    lost integer, -- 1 for a loan that is lost and not claimed returned
    claimed integer, -- 1 for a loan that is claimed returned
    recalled integer, -- 1 for a loan that is recalled and not claimed returned
    fees integer, -- 1 for a fee/fine
    balance numeric, -- Balance of a fee/fine, 0 for a loan
);

-- Summary of each patron who has anything open
create view user_summary (
    id uuid, -- Id of the summary
    jsonb jsonb, -- The summary
    user_id uuid, -- Id of the patron
    creation_date timestamp without time zone, -- Always null: reports of the Java module select it
    created_by text, -- Always null: reports of the Java module select it
);

-- Adds the patron groups of a limit that has changed
create function add_pending_group_of_limit() returns trigger;

-- Adds the patron groups that have a limit of a condition that has changed
create function add_pending_groups_of_condition() returns trigger;

-- Adds a patron whose group has changed
create function add_pending_patron_of_group() returns trigger;

-- Adds the patrons whose counters were written
create function add_pending_patrons() returns trigger;

-- Creates or drops the triggers; returns whether that changed anything
create function enable_block_events(enabled boolean) returns boolean;

-- Text without accents, as reports compare it
create function f_unaccent(text) returns text;

-- The borrower of a loan, by its registers
create function loan_owner(check_out_stamp bytea, check_out_user uuid, snapshot_stamp bytea, snapshot_user uuid, fallback_user uuid) returns uuid;

-- The value with the greater stamp
create function newer(new_stamp bytea, new anyelement, old_stamp bytea, old anyelement) returns anyelement;

-- Moves housekeeping.inbox_complete_since past the removed events
create function record_inbox_removal() returns trigger;
