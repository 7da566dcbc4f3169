//! The pages of persons who have no session.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode};
use askama::Template;
use url::Url;

use crate::{
    config::SignInConfig,
    console::{assets::STYLE, response::render},
    oidc::ProviderError,
};

/// Longest error of the provider on a page, in characters.
const ERROR_CHARS_MAX: usize = 100;

const NOT_SIGNED_IN: &str = "You are not signed in";

/// A page with sentences and links.
#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'a> {
    /// The relative path to the root of the console port.
    root: &'a str,
    style: &'static str,
    title: &'static str,
    sentences: Vec<String>,
    /// An address at the provider, with its name.
    other: Option<(&'a str, &'static str)>,
}

/// The pages, as responses to one request.
pub(super) struct Pages<'a> {
    config: &'a SignInConfig,
    root: String,
}

impl<'a> Pages<'a> {
    pub(super) fn new(config: &'a SignInConfig, request: &HttpRequest) -> Self {
        Self { config, root: root_of(request.path()) }
    }

    fn render(
        &self,
        status: StatusCode,
        title: &'static str,
        sentences: Vec<String>,
    ) -> HttpResponse {
        self.render_with(status, title, sentences, None)
    }

    fn render_with(
        &self,
        status: StatusCode,
        title: &'static str,
        sentences: Vec<String>,
        other: Option<(&str, &'static str)>,
    ) -> HttpResponse {
        let (root, style) = (&*self.root, &*STYLE.name);
        render(status, &MessagePage { root, style, title, sentences, other })
    }

    /// The page for a form without a session.
    pub(super) fn no_session(&self) -> HttpResponse {
        let sentences = vec![
            "You have not signed in, or your session has ended.".to_owned(),
            "Nothing was done.".to_owned(),
        ];
        self.render(StatusCode::UNAUTHORIZED, NOT_SIGNED_IN, sentences)
    }

    /// The page for a response of the provider that belongs to no attempt of this browser.
    pub(super) fn no_attempt(&self) -> HttpResponse {
        let sentences = vec![
            "This browser has not begun this sign-in, or the sign-in took more than ten minutes."
                .to_owned(),
        ];
        self.render(StatusCode::BAD_REQUEST, "The sign-in has ended", sentences)
    }

    /// The page for an error that the provider reports.
    pub(super) fn provider_error(&self, error: &str) -> HttpResponse {
        let visible = error.chars().filter(|c| c.is_ascii_graphic() || *c == ' ');
        let shown: String = visible.take(ERROR_CHARS_MAX).collect();
        let (status, sentence) = match error {
            "access_denied" => (StatusCode::FORBIDDEN, "The provider did not let you sign in."),
            "server_error" | "temporarily_unavailable" => {
                (StatusCode::SERVICE_UNAVAILABLE, "The provider cannot sign you in now.")
            }
            _ => {
                (StatusCode::BAD_GATEWAY, "The provider did not accept the request of the console.")
            }
        };
        let sentences = vec![sentence.to_owned(), format!("The provider reports: {shown}.")];
        self.render(status, NOT_SIGNED_IN, sentences)
    }

    /// The page for a provider that fails.
    pub(super) fn provider_failed(&self, error: ProviderError) -> HttpResponse {
        let (status, title, sentence) = match error {
            ProviderError::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "You cannot sign in now",
                "The OpenID Connect provider does not respond. Evaluations at the desk do not use it.",
            ),
            ProviderError::CodeRejected => (
                StatusCode::BAD_REQUEST,
                "The sign-in has ended",
                "The OpenID Connect provider rejected this sign-in. It may be used already, or too old.",
            ),
            ProviderError::ClientRejected => (
                StatusCode::BAD_GATEWAY,
                NOT_SIGNED_IN,
                "The OpenID Connect provider does not accept this console. The log has the cause.",
            ),
            ProviderError::TokenInvalid => (
                StatusCode::BAD_GATEWAY,
                NOT_SIGNED_IN,
                "The response of the OpenID Connect provider did not pass the checks. The log has the cause.",
            ),
        };
        self.render(status, title, vec![sentence.to_owned(), "Try again in a moment.".to_owned()])
    }

    /// The page for a person who may not read the console.
    pub(super) fn no_role(&self, name: &str, end_session: Option<&Url>) -> HttpResponse {
        let SignInConfig { view_role, act_role, .. } = self.config;
        let sentences = vec![
            format!("You signed in as {name}, who has no role of this console."),
            format!("To read pages, you need the role {view_role}."),
            format!("To act as well, you need the role {act_role}."),
            "Ask the administrators of your provider for a role.".to_owned(),
        ];
        let other = end_session.map(|url| (url.as_str(), "Sign out of the provider"));
        self.render_with(StatusCode::FORBIDDEN, "You have no role here", sentences, other)
    }

    /// The page for a person whose tenants exceed the size of a cookie.
    pub(super) fn too_many_tenants(&self) -> HttpResponse {
        let claim = self.config.tenants_claim.as_deref().unwrap_or_default();
        let sentences = vec![
            format!("The list of your tenants in the claim {claim} is too long for a session."),
            "Ask the administrators of your provider for a shorter list, or for *, which means all tenants."
                .to_owned(),
        ];
        self.render(StatusCode::FORBIDDEN, NOT_SIGNED_IN, sentences)
    }

    /// The page after a sign-out.
    pub(super) fn signed_out(&self) -> HttpResponse {
        let sentences = vec!["Your session of this console has ended.".to_owned()];
        self.render(StatusCode::OK, "You are signed out", sentences)
    }
}

/// Returns the relative path from a page to the root of the console port.
fn root_of(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty()).count();
    format!("./{}", "../".repeat(segments.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_relative_to_the_page() {
        for (path, expected) in [
            ("/", "./"),
            ("/signed-out", "./"),
            ("/sign-in/callback", "./../"),
            ("/tenants/north/desk/7", "./../../../"),
        ] {
            assert_eq!(root_of(path), expected, "{path}");
        }
    }
}
