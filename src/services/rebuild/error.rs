//! Errors of rebuilds.

use crate::{
    kafka::{self, replay::ReplayError},
    store::{self, Verdict},
};

/// An error that interrupts or ends a rebuild.
#[derive(Debug, thiserror::Error)]
pub(super) enum RebuildError {
    /// A database statement failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The replay of topics failed.
    #[error(transparent)]
    Read(#[from] ReplayError),
    /// A request to the broker failed.
    #[error("could not query the broker")]
    Broker(#[from] kafka::Error),
    /// A broker or a thread is unavailable; a retry may succeed.
    #[error("{0}")]
    Unavailable(&'static str),
    /// A retry cannot succeed.
    #[error("{0}")]
    Fatal(String),
    /// The rebuild has no token, or a storage module rejected the token. The rebuild resumes with the next
    /// token.
    #[error("{0}; the rebuild resumes at the next call of the timer")]
    TokenRejected(String),
    /// Another instance claimed the rebuild, so this instance rolls its transaction back.
    #[error("another instance has the lease on the rebuild, or the rebuild has ended")]
    LeaseLost,
    /// The shadow is empty or missing, as after a crash of the database.
    #[error("the shadow of the rebuild is lost, as after a crash of the database")]
    ShadowLost,
}

impl RebuildError {
    /// Converts the end of a thread. A panic is fatal, because a retry would panic again.
    pub(super) fn from_join_error(error: &tokio::task::JoinError, what: &str) -> Self {
        if error.is_panic() {
            Self::Fatal(format!(
                "{what} failed because of a defect of this version; the service's log has the details"
            ))
        } else {
            Self::Unavailable("a thread was stopped")
        }
    }

    /// Returns `true` if a retry may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.verdict() == Verdict::Retry,
            Self::Read(ReplayError::Timeout | ReplayError::UnexpectedRecord)
            | Self::Unavailable(_)
            | Self::ShadowLost => true,
            Self::Broker(_) => true,
            Self::Read(_) | Self::Fatal(_) | Self::TokenRejected(_) | Self::LeaseLost => false,
        }
    }
}
