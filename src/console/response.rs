//! Responses of the console: a page or an error page, with the headers that protect patrons.

use std::{fmt, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::DefaultHeaders,
};
use askama::Template;
use tracing::{error, warn};

use super::assets::STYLE;
use crate::http::ApiError;

/// Time limit of a page. A reader has to see a sentence before the patience ends.
pub(super) const PAGE_TIMEOUT: Duration = Duration::from_millis(2_900);

/// The title of an error page that a later request may not see.
const UNAVAILABLE: &str = "The page cannot be loaded now";

/// What a page may load. A page contains no script and no style of its own, so text of a library that looks like
/// markup has no effect.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'";

/// Returns the headers of all responses. A desk is shared, so no browser stores a page; a path contains a patron's
/// id, so no other site gets the path. With `no-referrer`, browsers would send the origin of forms as `null`.
///
/// A form may lead to `provider`, the origin where persons sign in: browsers also check where a form is redirected.
pub(super) fn headers(provider: Option<&str>) -> DefaultHeaders {
    let mut policy = CONTENT_POLICY.to_owned();
    if let Some(provider) = provider {
        policy.extend([" ", provider]);
    }
    DefaultHeaders::new()
        .add((CONTENT_SECURITY_POLICY, policy))
        .add((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .add((CACHE_CONTROL, "no-store"))
        .add((REFERRER_POLICY, "same-origin"))
}

/// Returns the relative path from a page to the root of its console. Both roots have two segments.
pub(super) fn root_of(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty()).count();
    "../".repeat(segments.saturating_sub(3))
}

/// Renders a page.
pub(super) fn render(status: StatusCode, page: &impl Template) -> HttpResponse {
    match page.render() {
        Ok(body) => HttpResponse::build(status).content_type("text/html; charset=utf-8").body(body),
        Err(error) => {
            error!(%error, "console: could not render a page");
            HttpResponse::InternalServerError().body("The page could not be rendered.")
        }
    }
}

/// Redirects to another page, relative to this page.
pub(super) fn see_other(location: String) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, location)).finish()
}

/// Responds to a path without a page.
pub(super) async fn not_found(request: HttpRequest) -> HttpResponse {
    PageError::new(&request, no_such_page()).error_response()
}

/// Returns the error of a path without a page. A tenant that a person may not see looks the same.
pub(super) fn no_such_page() -> ApiError {
    ApiError::not_found("There is no such page.")
}

/// An error page.
#[derive(Debug)]
pub(super) struct PageError {
    root: String,
    error: ApiError,
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    root: &'a str,
    style: &'static str,
    title: &'static str,
    text: String,
}

impl PageError {
    pub(super) fn new(request: &HttpRequest, error: ApiError) -> Self {
        Self { root: root_of(request.path()), error }
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for PageError {
    fn status_code(&self) -> StatusCode {
        match &self.error {
            ApiError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            other => other.status_code(),
        }
    }

    fn error_response(&self) -> HttpResponse {
        let (title, text) = match &self.error {
            ApiError::Store(_) => {
                warn!(error = self.error.cause(), "console: could not load a page");
                let text = "The database does not respond, or it rejected the request. Evaluations at \
                    the desk do not use this page. Try again in a moment; the log has the cause.";
                (UNAVAILABLE, text.to_owned())
            }
            ApiError::Invalid(violation) => (
                "The request is not valid",
                format!("{}: {}. Nothing was done.", violation.key, violation.message),
            ),
            error => match error.status_code() {
                StatusCode::NOT_FOUND => ("Not found", error.to_string()),
                status if status.is_server_error() => (UNAVAILABLE, error.to_string()),
                _ => ("The request is not valid", error.to_string()),
            },
        };
        let page = ErrorPage { root: &self.root, style: &STYLE.name, title, text };
        render(self.status_code(), &page)
    }
}
