//! The first page of the console port: the tenants.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web::Data};
use askama::Template;

use super::{Console, assets, response};

#[derive(Template)]
#[template(path = "tenants.html")]
struct TenantsPage {
    style: &'static str,
    tenants: Vec<String>,
}

/// Returns the page.
pub(super) async fn page(_: HttpRequest, console: Data<Console>) -> HttpResponse {
    let mut tenants: Vec<String> =
        console.state.tenants.all().iter().map(|tenant| tenant.id.to_string()).collect();
    tenants.sort();
    response::render(StatusCode::OK, &TenantsPage { style: &assets::STYLE.name, tenants })
}
