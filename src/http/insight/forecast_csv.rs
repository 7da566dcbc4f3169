//! A forecast as CSV (RFC 4180).

use std::{borrow::Cow, convert::Infallible, ops::Range, sync::Arc};

use actix_web::web::Bytes;
use csv::{Terminator, WriterBuilder};
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

fn rows(forecast: &Forecast, range: Range<usize>) -> Vec<u8> {
    let mut rows = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
    for patron in &forecast.patrons[range] {
        rows.write_record(row(patron)).expect("a vector accepts every row of ten fields");
    }
    rows.into_inner().expect("a vector accepts every row")
}

fn row(patron: &ForecastPatron) -> [String; 10] {
    let ForecastPatron { user, group, limit, measure, .. } = patron;
    let [blocks, become_blocked, blocked_now] =
        [patron.blocks, patron.become_blocked, patron.blocked_now].map(names);
    [
        user.to_string(),
        without_formula(group).into_owned(),
        clock::format_instant(patron.at),
        limit.to_string(),
        measure.condition_id().to_string(),
        measure.code().to_owned(),
        patron.limit_value.map(|value| value.to_string()).unwrap_or_default(),
        blocks,
        become_blocked,
        blocked_now,
    ]
}

fn names(actions: Actions) -> String {
    actions.iter().map(Action::name).collect::<Vec<_>>().join(" ")
}

/// Returns a text that no spreadsheet computes. A group id is any text of another module, and a spreadsheet
/// computes a text that begins like a formula; an apostrophe prevents that.
fn without_formula(text: &str) -> Cow<'_, str> {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}").into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_no_formulas() {
        for (text, expected) in [
            ("503732a7-0dc8-455c-9be9-3ff90c51f6a7", "503732a7-0dc8-455c-9be9-3ff90c51f6a7"),
            ("", ""),
            ("a,b=1", "a,b=1"),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@a", "'@a"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'\r=1"),
        ] {
            assert_eq!(without_formula(text), expected, "{text:?}");
        }
    }
}
