//! Logging: each entry is one JSON object or one line of text. Log lines contain ids, but never
//! payloads, names or tokens.

use std::{
    error::Error,
    fmt,
    io::{self, IsTerminal},
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text, for people.
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// Silences a target that logs malformed and aborted requests as errors. These are errors of clients, and any
/// client of the port could fill the log.
const SILENCED_DIRECTIVE: &str = "actix_http::h1::dispatcher=off";

/// Parses a log filter: a level, or directives such as `info,sqlx=warn`. Returns `None` if it is invalid.
pub fn parse_filter(directives: &str) -> Option<EnvFilter> {
    // An empty filter would silence every target.
    if directives.trim().is_empty() {
        return None;
    }
    EnvFilter::try_new(directives).ok()?;
    EnvFilter::try_new(format!("{SILENCED_DIRECTIVE},{directives}")).ok()
}

/// Starts logging to standard error with a filter from [`parse_filter`].
pub fn init(filter: EnvFilter, format: LogFormat) {
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    // If logging has started already, as in tests, this call has no effect.
    let _ = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
}

/// An error that displays all its causes on one line. Errors of this crate omit their causes from the
/// message. If an error's message ends with its cause, the cause is not repeated.
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous = self.0.to_string();
        f.write_str(&previous)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !previous.ends_with(&text) {
                write!(f, ": {text}")?;
                previous = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled, subscriber::with_default};

    use super::*;

    #[test]
    fn client_errors_are_logged_only_on_request() {
        let logged = |directives: &str| {
            let registry = tracing_subscriber::registry().with(parse_filter(directives).unwrap());
            with_default(registry, || {
                let theirs = enabled!(target: "actix_http::h1::dispatcher", Level::ERROR);
                (theirs, enabled!(target: "actix_http::h1", Level::ERROR))
            })
        };
        assert_eq!(logged("info"), (false, true));
        assert_eq!(logged("debug,sqlx=warn"), (false, true));
        assert_eq!(logged("info,actix_http::h1::dispatcher=error"), (true, true));
        assert!(parse_filter("actix=loud").is_none());
        assert!(parse_filter("").is_none(), "an empty filter would log nothing");
    }
}
