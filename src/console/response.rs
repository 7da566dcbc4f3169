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

use super::{GATEWAY_ROOT, assets::STYLE, texts::Texts};
use crate::http::ApiError;

/// Time limit of a page. A reader has to see a sentence before the patience ends.
pub(super) const PAGE_TIMEOUT: Duration = Duration::from_millis(2_900);

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

/// Returns the relative path from a page to the root of the console port.
pub(super) fn port_root_of(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty()).count();
    format!("./{}", "../".repeat(segments.saturating_sub(1)))
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
    let text = no_such_page(Texts::of(&request));
    PageError::new(&request, text).error_response()
}

/// Returns the error of a path without a page. A tenant that a person may not see looks the same.
pub(super) fn no_such_page(texts: &'static Texts) -> ApiError {
    ApiError::not_found(texts.text("error.noSuchPage"))
}

/// An error page.
#[derive(Debug)]
pub(super) struct PageError {
    /// The path of the request.
    path: String,
    texts: &'static Texts,
    error: ApiError,
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    root: &'a str,
    /// The address where the reader can go on.
    next: String,
    texts: &'static Texts,
    style: &'static str,
    title: &'static str,
    text: String,
}

impl PageError {
    pub(super) fn new(request: &HttpRequest, error: ApiError) -> Self {
        Self { path: request.path().to_owned(), texts: Texts::of(request), error }
    }

    /// Returns the address where the reader can go on: home, or the list of tenants of the console port, because the
    /// tenant of the page may be absent, or the page may have none.
    fn next(&self) -> String {
        let is_of_port = !self.path.starts_with(GATEWAY_ROOT);
        let port_root = port_root_of(&self.path);
        if is_of_port && (self.status_code() == StatusCode::NOT_FOUND || port_root == "./") {
            return port_root;
        }
        format!("{}home", root_of(&self.path))
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
                ("error.titleUnavailable", self.texts.text("error.database").to_owned())
            }
            ApiError::Invalid(violation) => {
                let (member, rule) = (&violation.key, &violation.message);
                let text =
                    self.texts.fill("error.invalidMember", &[("member", member), ("rule", rule)]);
                ("error.titleInvalid", text)
            }
            error => {
                let title = match error.status_code() {
                    StatusCode::NOT_FOUND => "error.titleNotFound",
                    status if status.is_server_error() => "error.titleUnavailable",
                    _ => "error.titleInvalid",
                };
                (title, self.texts.translated_error(&error.to_string()).to_owned())
            }
        };
        let (texts, title) = (self.texts, self.texts.text(title));
        let (root, next) = (&*root_of(&self.path), self.next());
        let page = ErrorPage { root, next, texts, style: &STYLE.name, title, text };
        render(self.status_code(), &page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_the_port_is_relative_to_the_page() {
        for (path, expected) in [
            ("/", "./"),
            ("/signed-out", "./"),
            ("/sign-in/callback", "./../"),
            ("/tenants/north/desk/7", "./../../../"),
        ] {
            assert_eq!(port_root_of(path), expected, "{path}");
        }
    }
}
