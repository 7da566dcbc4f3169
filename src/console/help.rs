//! The help: the keys, and the words of the pages.

use actix_web::HttpResponse;
use askama::Template;

use super::{response::PageError, shell::Shell, visit::Visit};
use crate::http::ApiError;

#[derive(Template)]
#[template(path = "help.html")]
struct HelpPage {
    shell: Shell,
}

/// Returns the page.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async { Ok::<_, ApiError>(HelpPage { shell: visit.shell("help").await }) };
    visit.render(load).await
}
