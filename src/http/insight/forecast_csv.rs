//! A forecast as CSV (RFC 4180).

use std::{borrow::Cow, convert::Infallible, ops::Range, sync::Arc};

use actix_web::web::Bytes;
use futures_util::{Stream, stream};

use crate::{
    blocks::{Action, Actions},
    clock,
    services::forecast::{Forecast, ForecastPatron},
};

/// Rows per chunk of a response.
const CHUNK_ROWS: usize = 500;

const HEADER: &str = "userId,patronGroup,at,patronBlockLimitId,patronBlockConditionId,measure,limit,\
                      blocks,becomeBlocked,blockedNow\r\n";

/// Returns the header and the rows in chunks. A chunk is built when the connection can send it.
pub(super) fn chunks(forecast: Arc<Forecast>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let starts = (0..forecast.patrons.len()).step_by(CHUNK_ROWS);
    let chunk = move |start| {
        let end = forecast.patrons.len().min(start + CHUNK_ROWS);
        Ok(Bytes::from(rows(&forecast, start..end)))
    };
    let header = std::iter::once(Ok(Bytes::from_static(HEADER.as_bytes())));
    stream::iter(header.chain(starts.map(chunk)))
}

fn rows(forecast: &Forecast, range: Range<usize>) -> String {
    forecast.patrons[range].iter().map(row).collect()
}

fn row(patron: &ForecastPatron) -> String {
    let ForecastPatron { user, group, limit, measure, .. } = patron;
    let (group, at) = (field(group), clock::format_instant(patron.at));
    let (condition, measure) = (measure.condition_id(), measure.code());
    let value = patron.limit_value.map(|value| value.to_string()).unwrap_or_default();
    let [blocks, become_blocked, blocked_now] =
        [patron.blocks, patron.become_blocked, patron.blocked_now].map(names);
    format!(
        "{user},{group},{at},{limit},{condition},{measure},{value},{blocks},{become_blocked},{blocked_now}\r\n"
    )
}

fn names(actions: Actions) -> String {
    actions.iter().map(Action::name).collect::<Vec<_>>().join(" ")
}

/// Returns a text as a field. A group id is any text of another module, and a spreadsheet computes a text that
/// begins like a formula; an apostrophe prevents that.
fn field(text: &str) -> Cow<'_, str> {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let is_plain = !text.contains(['"', ',', '\r', '\n']);
    match (is_formula, is_plain) {
        (false, true) => text.into(),
        (true, true) => format!("'{text}").into(),
        (is_formula, false) => {
            let prefix = if is_formula { "'" } else { "" };
            format!("\"{prefix}{}\"", text.replace('"', "\"\"")).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_no_formula() {
        for (text, expected) in [
            ("503732a7-0dc8-455c-9be9-3ff90c51f6a7", "503732a7-0dc8-455c-9be9-3ff90c51f6a7"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("a \"b\"\r\n", "\"a \"\"b\"\"\r\n\""),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@a", "'@a"),
            ("\t=1", "'\t=1"),
            ("=a(\"b\",1)", "\"'=a(\"\"b\"\",1)\""),
        ] {
            assert_eq!(field(text), expected, "{text:?}");
        }
    }
}
