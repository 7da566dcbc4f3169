//! The first page of the console port: the tenants.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web::Data};
use askama::Template;

use super::{
    Console, assets,
    response::{self, PageError},
    shell::Reader,
    sign_in,
    texts::Texts,
};
use crate::event::TenantId;

#[derive(Template)]
#[template(path = "tenants.html")]
struct TenantsPage {
    texts: &'static Texts,
    style: &'static str,
    tenants: Vec<String>,
    /// The person who has signed in, at a door with sign-in.
    reader: Option<Reader>,
}

/// Returns the page. A person who has signed in sees only the own tenants.
pub(super) async fn page(
    request: HttpRequest,
    console: Data<Console>,
) -> Result<HttpResponse, PageError> {
    let session = sign_in::session_of(&request).map_err(|error| PageError::new(&request, error))?;
    let all = console.state.tenants.all();
    let may_see = |id: &TenantId| session.as_ref().is_none_or(|session| session.may_see(id));
    let visible = all.iter().filter(|tenant| may_see(&tenant.id));
    let mut tenants: Vec<String> = visible.map(|tenant| tenant.id.to_string()).collect();
    tenants.sort();
    let reader = session.as_ref().map(Reader::from);
    let (texts, style) = (Texts::of(&request), &*assets::STYLE.name);
    let page = TenantsPage { texts, style, tenants, reader };
    Ok(response::render(StatusCode::OK, &page))
}
