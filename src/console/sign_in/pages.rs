//! The pages of persons who have no session.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode};
use askama::Template;
use url::Url;

use crate::{
    config::SignInConfig,
    console::{
        assets::STYLE,
        response::{port_root_of, render},
        texts::Texts,
    },
    oidc::ProviderError,
};

/// Longest error of the provider on a page, in characters.
const ERROR_CHARS_MAX: usize = 100;

/// A page with sentences and links.
#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'a> {
    texts: &'static Texts,
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
    texts: &'static Texts,
}

impl<'a> Pages<'a> {
    pub(super) fn new(config: &'a SignInConfig, request: &HttpRequest) -> Self {
        Self { config, root: port_root_of(request.path()), texts: Texts::of(request) }
    }

    /// Renders a page with a title and sentences.
    fn render(
        &self,
        status: StatusCode,
        title: &'static str,
        sentences: Vec<String>,
        other: Option<(&str, &'static str)>,
    ) -> HttpResponse {
        let (texts, root, style) = (self.texts, &*self.root, &*STYLE.name);
        render(status, &MessagePage { texts, root, style, title, sentences, other })
    }

    /// Renders a page with sentences that have no arguments.
    fn message<const N: usize>(
        &self,
        status: StatusCode,
        title: &'static str,
        sentences: [&'static str; N],
    ) -> HttpResponse {
        self.render(status, title, sentences.map(str::to_owned).into(), None)
    }

    /// The page for a form without a session.
    pub(super) fn no_session(&self) -> HttpResponse {
        let text = |key| self.texts.text(key);
        let sentences = [text("signIn.noSession"), text("signIn.nothingDone")];
        self.message(StatusCode::UNAUTHORIZED, text("signIn.titleNone"), sentences)
    }

    /// The page for a response of the provider that belongs to no attempt of this browser.
    pub(super) fn no_attempt(&self) -> HttpResponse {
        let text = |key| self.texts.text(key);
        let sentences = [text("signIn.noAttempt")];
        self.message(StatusCode::BAD_REQUEST, text("signIn.titleEnded"), sentences)
    }

    /// The page for an error that the provider reports.
    pub(super) fn provider_error(&self, error: &str) -> HttpResponse {
        let visible = error.chars().filter(|c| c.is_ascii_graphic() || *c == ' ');
        let shown: String = visible.take(ERROR_CHARS_MAX).collect();
        let (status, sentence) = match error {
            "access_denied" => (StatusCode::FORBIDDEN, "signIn.denied"),
            "server_error" | "temporarily_unavailable" => {
                (StatusCode::SERVICE_UNAVAILABLE, "signIn.providerBusy")
            }
            _ => (StatusCode::BAD_GATEWAY, "signIn.requestRejected"),
        };
        let report = self.texts.fill("signIn.providerReports", &[("error", &shown)]);
        let sentences = vec![self.texts.text(sentence).to_owned(), report];
        self.render(status, self.texts.text("signIn.titleNone"), sentences, None)
    }

    /// The page for a provider that fails.
    pub(super) fn provider_failed(&self, error: ProviderError) -> HttpResponse {
        let (status, title, sentence) = match error {
            ProviderError::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "signIn.titleLater", "signIn.unavailable")
            }
            ProviderError::CodeRejected => {
                (StatusCode::BAD_REQUEST, "signIn.titleEnded", "signIn.codeRejected")
            }
            ProviderError::ClientRejected => {
                (StatusCode::BAD_GATEWAY, "signIn.titleNone", "signIn.clientRejected")
            }
            ProviderError::TokenInvalid => {
                (StatusCode::BAD_GATEWAY, "signIn.titleNone", "signIn.tokenInvalid")
            }
        };
        let sentences = [self.texts.text(sentence), self.texts.text("signIn.tryAgain")];
        self.message(status, self.texts.text(title), sentences)
    }

    /// The page for a person who may not read the console.
    pub(super) fn no_role(&self, name: &str, end_session: Option<&Url>) -> HttpResponse {
        let (texts, SignInConfig { view_role, act_role, .. }) = (self.texts, self.config);
        let sentences = vec![
            texts.fill("signIn.noRole", &[("name", &name)]),
            texts.fill("signIn.viewRole", &[("role", view_role)]),
            texts.fill("signIn.actRole", &[("role", act_role)]),
            texts.text("signIn.askForRole").to_owned(),
        ];
        let other = end_session.map(|url| (url.as_str(), texts.text("signIn.providerSignOut")));
        self.render(StatusCode::FORBIDDEN, texts.text("signIn.titleNoRole"), sentences, other)
    }

    /// The page for a person whose tenants exceed the size of a cookie.
    pub(super) fn too_many_tenants(&self) -> HttpResponse {
        let (texts, claim) = (self.texts, self.config.tenants_claim.as_deref().unwrap_or_default());
        let sentences = vec![
            texts.fill("signIn.tooManyTenants", &[("claim", &claim)]),
            texts.text("signIn.shorterList").to_owned(),
        ];
        self.render(StatusCode::FORBIDDEN, texts.text("signIn.titleNone"), sentences, None)
    }

    /// The page after a sign-out of the console, with a link to the sign-out of the provider.
    pub(super) fn signed_out_here(&self, end_session: &Url) -> HttpResponse {
        let text = |key| self.texts.text(key);
        let other = Some((end_session.as_str(), text("signIn.providerSignOut")));
        let sentences = vec![text("signIn.signedOut").to_owned()];
        self.render(StatusCode::OK, text("signIn.titleOut"), sentences, other)
    }

    /// The page after a sign-out.
    pub(super) fn signed_out(&self) -> HttpResponse {
        let text = |key| self.texts.text(key);
        self.message(StatusCode::OK, text("signIn.titleOut"), [text("signIn.signedOut")])
    }
}
