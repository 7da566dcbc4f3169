//! What can go wrong in the database, and what to do then.

use sqlx::error::ErrorKind;
use uuid::Uuid;

/// What failed, and while doing what. `Display` leaves the cause out: whoever logs walks the chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver or the server failed.
    #[error("could not {step}")]
    Driver {
        /// What we were doing.
        step: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// The server took a statement and said nothing within the deadline.
    #[error("the database does not answer")]
    Timeout,
    /// A migration failed.
    #[error("could not migrate schema {schema}")]
    Migrate {
        /// The schema.
        schema: String,
        /// What the migrator says.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// Another instance migrates the schema at this moment.
    #[error("another instance migrates schema {schema}")]
    MigrationBusy {
        /// The schema.
        schema: String,
    },
    /// The tenant's schema is not at the version of this instance yet; a migration is pending.
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
        /// Why the last attempt failed.
        why: String,
    },
    /// Something is built on a relation that has to make room, and can't be taken along.
    #[error("{relation} can't be replaced, and nothing was changed: {blockers}")]
    BlockedByDependents {
        /// The relation.
        relation: String,
        /// What is in the way, and why.
        blockers: String,
    },
    /// A view of others can't be put on what replaces what it reads.
    #[error(
        "view {view} can't be made again on what replaces what it reads, and nothing was changed"
    )]
    DependentView {
        /// The view.
        view: String,
        /// What the server says.
        #[source]
        source: sqlx::Error,
    },
    /// Our role lacks rights on what another module left.
    #[error("nothing was changed, because the role that DB_USERNAME names has to {0}")]
    MissingRights(String),
    /// There is nothing that could be given back.
    #[error(
        "the tables of {0} were not taken over from the Java module, or were given back already"
    )]
    NothingToReturn(String),
    /// Another instance works on it by now, or nobody is to any more.
    #[error("another instance goes on with it, or it is gone")]
    LeaseLost,
    /// A stored row is not what its writer promises.
    #[error("{table} row {id} contradicts itself: {why}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row.
        id: Uuid,
        /// What is wrong with it.
        why: String,
    },
}

/// What the consumer does next with a batch that failed. There is no `Skip`: a record that the
/// database refuses is found by splitting its batch, and parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Offer the same batch again after a pause: nothing is wrong with it.
    Retry,
    /// Something in the batch is refused whenever it is offered.
    Refused,
    /// The tables are not as this version needs them, or not ours to write. Where they are a tenant's
    /// own, that tenant's records wait and nobody else's.
    Unusable,
}

impl Error {
    /// Makes a driver's error ours: `.map_err(Error::at("merge loans"))`.
    pub fn at(step: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Driver { step, source }
    }

    /// What the consumer does next. Only what the server says of the data itself is a refusal; a
    /// full disk, a deadlock or a lost connection can be mended, and the records wait.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Driver { source: sqlx::Error::Database(error), .. } => {
                // Classes 22 (data exception), 23 (integrity), 54 (program limit exceeded).
                let code = error.code();
                let class = code.as_deref().and_then(|code| code.get(..2));
                match class {
                    Some("22" | "23" | "54") => Verdict::Refused,
                    // Classes 42 (a table or a right is missing) and 3F (the schema is).
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

    /// Whether a tenant's records have to wait until its schema is migrated.
    pub fn awaits_migration(&self) -> bool {
        matches!(self, Self::Migrating { .. })
    }

    /// Whether the tenant's schema is not at the version of this instance.
    pub fn is_schema_outdated(&self) -> bool {
        matches!(self, Self::Migrating { .. } | Self::NotMigrated { .. })
    }

    /// Whether a migration that failed so may succeed unchanged: the server was away or a lock was taken.
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

    /// Whether the connection was closed under the statement: a pooled one may have been dead since the
    /// server, or what stands before it, was restarted.
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

    /// Whether the work took too long, or waited too long for a lock: less of it at once may do, or the same
    /// later. The server says so, or says nothing within the deadline.
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

    /// Whether a unique constraint was broken, for writers who answer for one.
    pub fn is_unique_violation(&self) -> bool {
        self.kind() == Some(ErrorKind::UniqueViolation)
    }

    /// Whether a foreign key was broken, for writers who answer for one.
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
