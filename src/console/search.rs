//! The search: finds the patron of an id or of a barcode.

use actix_web::{HttpResponse, http::StatusCode};
use uuid::Uuid;

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

/// Longest barcode, in characters.
const BARCODE_CHARS_MAX: usize = 100;

/// Redirects to the desk page of a patron, or of the patron of a loan, a fee/fine or a barcode.
pub(super) async fn redirect(visit: Visit) -> Result<HttpResponse, PageError> {
    let text = parameter(visit.request(), "id").map_err(|error| visit.failed(error))?;
    let text = text.unwrap_or_default();
    let text = text.trim();
    let Some(id) = parse_uuid(text) else {
        let user = find_barcode(&visit, text).await.map_err(|error| visit.failed(error))?;
        return Ok(response::see_other(format!("desk/{user}")));
    };
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

/// Finds the patron of a barcode with the permission of the reader.
async fn find_barcode(visit: &Visit, barcode: &str) -> Result<Uuid, ApiError> {
    if barcode.is_empty() || barcode.chars().count() > BARCODE_CHARS_MAX {
        return Err(ApiError::bad_request(visit.texts.text("error.searchText")));
    }
    if !visit.has_gateway {
        return Err(ApiError::bad_request(visit.texts.text("error.searchToken")));
    }
    match visit.state.reader_lookups.find_patron(&visit.caller, barcode).await {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(ApiError::not_found(visit.texts.text("error.noSuchBarcode"))),
        Err(error) if error.is_token_rejected() => {
            let text = visit.texts.text("error.searchForbidden");
            Err(ApiError::Text(StatusCode::FORBIDDEN, text.to_owned()))
        }
        Err(_) => {
            let text = visit.texts.text("error.searchLate");
            Err(ApiError::Text(StatusCode::BAD_GATEWAY, text.to_owned()))
        }
    }
}
