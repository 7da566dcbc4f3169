//! The search: finds the patron of an id.

use actix_web::HttpResponse;

use super::{
    response::{self, PageError},
    visit::Visit,
};
use crate::{
    event::parse_uuid,
    http::{ApiError, extract::paging::parameter},
    store::{
        self,
        state::subjects::{self, Subject},
    },
};

/// Redirects to the desk page of a patron, or of the patron of a loan or fee/fine.
pub(super) async fn redirect(visit: Visit) -> Result<HttpResponse, PageError> {
    let text = parameter(visit.request(), "id").map_err(|error| visit.failed(error))?;
    let id = parse_uuid(text.unwrap_or_default().trim()).ok_or_else(|| {
        let rule = "Search for the UUID of a patron, a loan or a fee/fine.";
        visit.failed(ApiError::bad_request(rule))
    })?;
    let schema = &visit.tenant.schema;
    visit
        .respond(async {
            let found =
                store::read(&visit.db, async |db| subjects::find(db, schema, id).await).await?;
            // The desk page has a note if no event names the patron.
            Ok(response::see_other(match found {
                Some(Subject::Loan { user }) => format!("desk/{user}#loan-{id}"),
                Some(Subject::FeeFine { user }) => format!("desk/{user}#fee-fine-{id}"),
                None => format!("desk/{id}"),
            }))
        })
        .await
}
