//! The first page of the console port: the tenants.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web::Data};
use askama::Template;

use super::{Console, assets, response, texts::Texts};

#[derive(Template)]
#[template(path = "tenants.html")]
struct TenantsPage {
    texts: &'static Texts,
    style: &'static str,
    tenants: Vec<String>,
}

/// Returns the page.
pub(super) async fn page(request: HttpRequest, console: Data<Console>) -> HttpResponse {
    let mut tenants: Vec<String> =
        console.state.tenants.all().iter().map(|tenant| tenant.id.to_string()).collect();
    tenants.sort();
    let (texts, style) = (Texts::of(&request), &*assets::STYLE.name);
    response::render(StatusCode::OK, &TenantsPage { texts, style, tenants })
}
