//! The lists of all statements, for the tests that prepare them.

use super::{
    Statement,
    ingest::{dead_letters, discarded_dead_letters, event_history, inbox, inbox_tail, positions},
    java,
    messages::{exports, outbox, pending_patrons},
    migrate, operator_actions,
    rebuild::{differences, shadow, shadow_load},
    settings::{certainty_policy, conditions, limits},
    state::{
        dated_loans, evidence, group_sizes, merge, open_items, patrons, prune, rows, subjects,
    },
};

/// All statements with a placeholder; a test prepares each of them on a migrated schema.
pub const STATEMENTS: &[&[&Statement]] = &[
    certainty_policy::STATEMENTS,
    conditions::STATEMENTS,
    dated_loans::STATEMENTS,
    dead_letters::STATEMENTS,
    discarded_dead_letters::STATEMENTS,
    event_history::STATEMENTS,
    evidence::STATEMENTS,
    inbox::STATEMENTS,
    limits::STATEMENTS,
    merge::STATEMENTS,
    migrate::STATEMENTS,
    open_items::STATEMENTS,
    operator_actions::STATEMENTS,
    patrons::STATEMENTS,
    positions::STATEMENTS,
    prune::STATEMENTS,
    differences::STATEMENTS,
    rows::STATEMENTS,
    subjects::STATEMENTS,
    pending_patrons::STATEMENTS,
    outbox::STATEMENTS,
    exports::STATEMENTS,
    group_sizes::STATEMENTS,
];

/// Statements on a shadow next to a tenant's schema; a test prepares them where a shadow exists.
pub const SHADOW_STATEMENTS: &[&[&Statement]] =
    &[shadow::STATEMENTS, shadow_load::STATEMENTS, inbox_tail::STATEMENTS];

/// Statements that also need the tables of the Java module; a test prepares them on a schema with both.
pub const JAVA_STATEMENTS: &[&[&Statement]] = &[java::STATEMENTS];
