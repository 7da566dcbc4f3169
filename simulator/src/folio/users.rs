//! Serves `/users/{id}`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use serde_json::json;
use uuid::Uuid;

use super::{Caller, FolioState, refuse};
use crate::model::Patron;

pub(super) async fn user(caller: Caller, id: Path<Uuid>, folio: Data<FolioState>) -> HttpResponse {
    if let Some(refusal) = refuse(&caller, &folio, folio.behavior().users).await {
        return refusal;
    }
    let truth = folio.truth.read();
    match truth.account(*id).map(|account| &account.patron).filter(|patron| patron.known) {
        Some(patron) => HttpResponse::Ok().json(record(patron)),
        None => HttpResponse::NotFound().body("User not found"),
    }
}

/// Returns a user, as the users module returns it and publishes it.
pub(crate) fn record(patron: &Patron) -> serde_json::Value {
    let mut user = json!({
        "id": patron.id,
        "username": patron.username,
        "barcode": patron.barcode,
        "active": patron.active,
        "type": "patron",
        "departments": [],
        "personal": {
            "firstName": patron.first_name,
            "lastName": patron.last_name,
            "preferredContactTypeId": "002",
        },
    });
    if let Some(group) = patron.patron_group {
        user["patronGroup"] = json!(group);
    }
    user
}
