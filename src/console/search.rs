//! The search: finds the patron of an id.

use std::collections::HashMap;

use actix_web::{HttpResponse, web::Query};
use tokio::time::timeout;

use super::{
    response::{self, PAGE_TIMEOUT, PageError},
    visit::Visit,
};
use crate::{
    event::parse_uuid,
    http::ApiError,
    store::{
        self,
        state::subjects::{self, Subject},
    },
};

/// Redirects to the desk page of a patron, or of the patron of a loan or fee/fine.
pub(super) async fn redirect(
    visit: Visit,
    query: Query<HashMap<String, String>>,
) -> Result<HttpResponse, PageError> {
    let text = query.get("id").map_or("", |id| id.trim());
    let failed = |error| visit.failed(error);
    let id = parse_uuid(text).ok_or_else(|| {
        failed(ApiError::bad_request("Search for a UUID of a patron, loan or fee/fine."))
    })?;
    let schema = &visit.tenant.schema;
    let find = store::read(&visit.db, async |db| subjects::find(db, schema, id).await);
    let found = match timeout(PAGE_TIMEOUT, find).await {
        Ok(found) => found.map_err(|error| failed(error.into()))?,
        Err(_) => return Err(failed(store::Error::Timeout.into())),
    };
    // The service knows only patrons with events, and every other patron may borrow.
    let location = match found {
        Some(Subject::Loan { user }) => format!("desk/{user}#loan-{id}"),
        Some(Subject::FeeFine { user }) => format!("desk/{user}#fee-fine-{id}"),
        None => format!("desk/{id}"),
    };
    Ok(response::see_other(location))
}
