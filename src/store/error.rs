//! The errors of the database, and the reaction of the consumer to each.

use sqlx::error::ErrorKind;
use uuid::Uuid;

/// A failed step with its cause. `Display` omits the cause, because log statements print the chain of
/// causes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the driver or the server.
    #[error("could not {step}")]
    Driver {
        /// The failed step, as a verb phrase.
        step: &'static str,
        /// The error of the driver.
        #[source]
        source: sqlx::Error,
    },
    /// The server did not answer a statement within the deadline.
    #[error("the database does not respond")]
    Timeout,
    /// A migration failed.
    #[error("could not migrate schema {schema}")]
    Migrate {
        /// The schema.
        schema: String,
        /// The error of the migrator.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// Another instance is migrating the schema.
    #[error("another instance migrates schema {schema}")]
    MigrationBusy {
        /// The schema.
        schema: String,
    },
    /// The tenant's schema is not at the version of this instance, and a migration is pending.
    #[error("schema {schema} is being migrated to the version of this instance")]
    Migrating {
        /// The schema.
        schema: String,
    },
    /// The tenant's schema is not at the version of this instance, and its migration failed.
    #[error("schema {schema} could not be migrated to the version of this instance: {why}")]
    NotMigrated {
        /// The schema.
        schema: String,
        /// The cause of the last failure.
        why: String,
    },
    /// An object that cannot be moved depends on a relation to replace.
    #[error("{relation} cannot be replaced, and nothing was changed: {blockers}")]
    BlockedByDependents {
        /// The relation.
        relation: String,
        /// The obstacles, with the reason for each.
        blockers: String,
    },
    /// A view of another user cannot be recreated on the new relation.
    #[error("view {view} cannot be recreated on the new relation, and nothing was changed")]
    DependentView {
        /// The view.
        view: String,
        /// The error of the server.
        #[source]
        source: sqlx::Error,
    },
    /// The service's role lacks rights on objects of the Java module.
    #[error("nothing was changed, because the role in DB_USERNAME must {0}")]
    MissingRights(String),
    /// The tenant has no tables of the Java module that could be given back.
    #[error(
        "the tables of {0} were not taken over from the Java module, or the tables were already given back"
    )]
    NothingToReturn(String),
    /// Another instance has the lease on the job, or the job no longer exists.
    #[error("another instance has the lease on the job, or the job no longer exists")]
    LeaseLost,
    /// A stored row violates a guarantee of its writer.
    #[error("{table} row {id} contradicts itself: {why}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The id of the row.
        id: Uuid,
        /// The violated guarantee.
        why: String,
    },
}

/// The next step of the consumer after a failed batch. There is no `Skip`: the consumer splits a refused
/// batch to find the refused record, and stores that record as a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Retry the same batch after a pause, because the batch is correct.
    Retry,
    /// The database refuses a part of the batch in every attempt.
    Refused,
    /// The tables do not fit this version, or the role may not write the tables. If the tables belong to
    /// one tenant, only that tenant's records wait.
    Unusable,
}

impl Error {
    /// Returns a conversion of a driver error with the failed step: `.map_err(Error::at("merge loans"))`.
    pub fn at(step: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Driver { step, source }
    }

    /// Returns the next step of the consumer. Only errors about the data are refusals. A full disk, a
    /// deadlock or a lost connection can be repaired, so the records wait.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Driver { source: sqlx::Error::Database(error), .. } => {
                // Classes 22 (data exception), 23 (integrity), 54 (program limit exceeded).
                let code = error.code();
                let class = code.as_deref().and_then(|code| code.get(..2));
                match class {
                    Some("22" | "23" | "54") => Verdict::Refused,
                    // Classes 42 (a missing table or right) and 3F (a missing schema).
                    Some("42" | "3F") => Verdict::Unusable,
                    _ => Verdict::Retry,
                }
            }
            Self::Driver { source: sqlx::Error::Encode(_), .. } => Verdict::Refused,
            Self::Driver { .. }
            | Self::Timeout
            | Self::Migrate { .. }
            | Self::MigrationBusy { .. }
            | Self::Migrating { .. }
            | Self::Corrupt { .. } => Verdict::Retry,
            Self::NotMigrated { .. }
            | Self::BlockedByDependents { .. }
            | Self::DependentView { .. }
            | Self::MissingRights(_)
            | Self::NothingToReturn(_)
            | Self::LeaseLost => Verdict::Unusable,
        }
    }

    /// Returns whether the tenant's records have to wait for the migration of its schema.
    pub fn awaits_migration(&self) -> bool {
        matches!(self, Self::Migrating { .. })
    }

    /// Returns whether the tenant's schema is not at the version of this instance.
    pub fn is_schema_outdated(&self) -> bool {
        matches!(self, Self::Migrating { .. } | Self::NotMigrated { .. })
    }

    /// Returns whether the same migration may succeed later: the server was unavailable or a lock was
    /// unavailable.
    pub fn is_transient_migration_error(&self) -> bool {
        use sqlx::migrate::MigrateError;
        let source = match self {
            Self::Migrate { source: MigrateError::Execute(source), .. }
            | Self::Migrate { source: MigrateError::ExecuteMigration(source, _), .. }
            | Self::Driver { source, .. } => source,
            other => return matches!(other, Self::MigrationBusy { .. } | Self::Timeout),
        };
        let sqlx::Error::Database(error) = source else { return true };
        // Classes 08, 40, 53, 55, 57: connection, rollback, resources, object in use, intervention.
        let code = error.code();
        let class = code.as_deref().and_then(|code| code.get(..2));
        matches!(class, Some("08" | "40" | "53" | "55" | "57"))
    }

    /// Returns whether the connection was closed during the statement. A pooled connection is dead after
    /// a restart of the server, or of a proxy before the server.
    pub fn is_connection_lost(&self) -> bool {
        match self {
            Self::Driver { source: sqlx::Error::Io(_) | sqlx::Error::Protocol(_), .. } => true,
            Self::Driver { source: sqlx::Error::Database(error), .. } => {
                // 57P01 to 57P03: the server is shutting down, crashed, or starting. 08: connection.
                error.code().is_some_and(|code| code.starts_with("57P0") || code.starts_with("08"))
            }
            _ => false,
        }
    }

    /// Returns whether the work, or the wait for a lock, exceeded a time limit of the server or the
    /// deadline. Less work at once, or a later retry, may succeed.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Driver { source: sqlx::Error::Database(error), .. } => {
                // 57014: canceled by `statement_timeout`. 55P03: `lock_timeout`.
                matches!(error.code().as_deref(), Some("57014" | "55P03"))
            }
            Self::Timeout => true,
            _ => false,
        }
    }

    /// Returns whether the server ended the transaction to resolve a deadlock. The same transaction may succeed now.
    pub fn is_deadlock(&self) -> bool {
        match self {
            Self::Driver { source: sqlx::Error::Database(error), .. } => {
                error.code().as_deref() == Some("40P01")
            }
            _ => false,
        }
    }

    /// Returns whether the error is a violation of a unique constraint.
    pub fn is_unique_violation(&self) -> bool {
        self.kind() == Some(ErrorKind::UniqueViolation)
    }

    /// Returns whether the error is a violation of a foreign key.
    pub fn is_foreign_key_violation(&self) -> bool {
        self.kind() == Some(ErrorKind::ForeignKeyViolation)
    }

    fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Driver { source, .. } => source.as_database_error().map(|error| error.kind()),
            _ => None,
        }
    }
}
