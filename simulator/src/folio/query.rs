//! The CQL queries that a rebuild sends to storage.

use uuid::Uuid;

/// A query for open records, sorted by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Query {
    /// The only patron of the result, if set.
    pub(super) patron: Option<Uuid>,
    /// The id after which the result starts, if set.
    pub(super) after: Option<Uuid>,
}

/// Parses `status.name==Open [and userId==…] [and id > …] sortBy id`.
pub(super) fn parse(text: &str) -> Result<Query, String> {
    let filter = text
        .trim()
        .strip_suffix(" sortBy id")
        .ok_or_else(|| format!("the query must end with `sortBy id`: {text}"))?;
    let mut query = Query::default();
    let mut only_open = false;
    for clause in filter.split(" and ").map(str::trim) {
        if clause == "status.name==Open" {
            only_open = true;
        } else if let Some(patron) = clause.strip_prefix("userId==") {
            query.patron = Some(id(patron)?);
        } else if let Some(after) = clause.strip_prefix("id > ").or(clause.strip_prefix("id>")) {
            query.after = Some(id(after)?);
        } else {
            return Err(format!("an unsupported clause: {clause}"));
        }
    }
    if only_open { Ok(query) } else { Err(format!("the query must select open records: {text}")) }
}

fn id(text: &str) -> Result<Uuid, String> {
    let text = text.trim().trim_matches('"');
    text.parse().map_err(|error| format!("{text} is not an id: {error}"))
}
