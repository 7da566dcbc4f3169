-- The acts of operators that concern no single tenant, from the command line.
create table operator_action (
    number bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    door text not null check (door in ('console', 'http', 'command-line')),
    action text not null,
    subject text,
    reason text,
    request_id text,
    detail jsonb not null default '{}',
    outcome text not null default 'started' check (outcome in ('started', 'done', 'failed', 'unknown')),
    ended_at timestamptz
);
comment on table operator_action is 'The acts of operators that concern no single tenant';
comment on column operator_action.number is 'The number of the act, in order of begin';
comment on column operator_action.at is 'When the act began, by the clock of the database';
comment on column operator_action.actor is 'Id of the staff user; console-port or command-line if the door knows no user';
comment on column operator_action.door is 'Where the act came from: console, http or command-line';
comment on column operator_action.action is 'Name of an Action of src/services/operator_actions.rs';
comment on column operator_action.subject is 'Id or query of the records that the act concerns; null if the act concerns the tenant';
comment on column operator_action.reason is 'The reason that the operator gave; null if the door asks for none';
comment on column operator_action.request_id is 'The header X-Okapi-Request-Id; null if absent';
comment on column operator_action.detail is 'What the act changed, as JSON; each action has its own members';
comment on column operator_action.outcome is 'started until the act ends; unknown if the database did not report the end. An act that stays started belongs to an instance that stopped';
comment on column operator_action.ended_at is 'When the act ended, by the clock of the database';
