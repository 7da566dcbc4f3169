//! The OpenID Connect provider of the console: persons sign in there, and it reports their roles
//! (docs/decisions/0032-sign-in.md).
//!
//! The crate `openidconnect` builds the requests and verifies the tokens. This module adds what the crate leaves to
//! its caller: time limits, a cache of the metadata, and the checks of `azp` and of clocks.

mod claims;
mod http;
mod metadata;
mod token;

pub use claims::Identity;

use std::{
    future::Future,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use openidconnect::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, CsrfToken, LogoutRequest, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, PostLogoutRedirectUrl, RedirectUrl, RequestTokenError,
    Scope, TokenResponse as _,
    core::{CoreAuthenticationFlow, CoreClientAuthMethod, CoreErrorResponseType},
};
use tokio::time::timeout;
use tracing::{debug, warn};
use url::Url;

use self::{
    http::HttpClient,
    metadata::{Metadata, MetadataCache},
    token::{ProviderClient, TokenError},
};
use crate::{
    clock::Clock,
    config::{SignInConfig, is_protected},
    logging::ErrorChain,
};

/// The error of a client that could not be created.
pub type ClientError = reqwest::Error;

/// Time limit of all calls that one page needs.
const PAGE_CALLS_TIMEOUT: Duration = Duration::from_millis(2_200);

/// The path of the redirect from the provider, below the public URL.
pub const CALLBACK_PATH: &str = "sign-in/callback";

/// The path of the page after a sign-out at the provider, below the public URL.
pub const SIGNED_OUT_PATH: &str = "signed-out";

/// The scope with the name of a person.
const PROFILE_SCOPE: &str = "profile";

/// Why a person could not sign in. The log has the cause; a page shows only the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The provider does not respond, or not in time, or with something unusable.
    #[error("the provider does not respond")]
    Unavailable,
    /// The provider rejected the code of the sign-in, for example because it is used or too old.
    #[error("the provider rejected the sign-in")]
    CodeRejected,
    /// The provider rejected this client, for example because of a wrong secret.
    #[error("the provider rejected the client")]
    ClientRejected,
    /// The ID token is missing, or a check of it failed.
    #[error("the ID token of the provider is not valid")]
    TokenInvalid,
}

/// The secrets of a sign-in that has begun. The browser returns them with the code of the provider.
#[derive(Debug)]
pub struct Authorization {
    /// Where the person signs in.
    pub url: Url,
    /// Connects the request and the response of the provider.
    pub state: String,
    /// Connects the request and the ID token.
    pub nonce: String,
    /// Proves that the code is redeemed by its requester (PKCE).
    pub verifier: String,
}

/// A client of the provider.
#[derive(Debug)]
pub struct Provider {
    client_id: ClientId,
    client_secret: Option<ClientSecret>,
    redirect_url: RedirectUrl,
    signed_out_url: PostLogoutRedirectUrl,
    http: HttpClient,
    metadata: MetadataCache,
    clock: Clock,
    /// The second of the last warning about the token endpoint.
    warned_at: AtomicI64,
}

impl Provider {
    /// Creates a client. It calls the provider only when a person signs in.
    pub fn new(config: &SignInConfig, clock: Clock) -> Result<Self, ClientError> {
        let below = |path: &str| {
            let mut url = config.public_url.clone();
            let path = format!("{}{path}", url.path());
            url.set_path(&path);
            url
        };
        Ok(Self {
            client_id: ClientId::new(config.client_id.clone()),
            client_secret: config.client_secret.clone().map(ClientSecret::new),
            redirect_url: RedirectUrl::from_url(below(CALLBACK_PATH)),
            signed_out_url: PostLogoutRedirectUrl::from_url(below(SIGNED_OUT_PATH)),
            http: HttpClient::new()?,
            metadata: MetadataCache::new(&config.issuer, clock.clone()),
            clock,
            warned_at: AtomicI64::new(0),
        })
    }

    /// Begins a sign-in.
    pub async fn authorize(&self) -> Result<Authorization, ProviderError> {
        let metadata = within_limit(self.metadata.get(&self.http)).await?;
        let client = self.client(&metadata);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow = CoreAuthenticationFlow::AuthorizationCode;
        let (url, state, nonce) = client
            .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
            .add_scope(Scope::new(PROFILE_SCOPE.to_owned()))
            .set_pkce_challenge(challenge)
            .url();
        if !is_protected(&url) {
            warn!("sign-in: the authorization endpoint of the provider is not encrypted");
            return Err(ProviderError::Unavailable);
        }
        let [state, nonce] = [state.into_secret(), nonce.secret().clone()];
        Ok(Authorization { url, state, nonce, verifier: verifier.into_secret() })
    }

    /// Redeems the code of a sign-in, and returns the person whom the provider's ID token names.
    pub async fn redeem(
        &self,
        code: String,
        nonce: String,
        verifier: String,
    ) -> Result<Identity, ProviderError> {
        within_limit(async {
            let metadata = self.metadata.get(&self.http).await?;
            let client = self.client(&metadata);
            let exchange = client.exchange_code(AuthorizationCode::new(code)).map_err(|error| {
                debug!(error = %ErrorChain(&error), "sign-in: the provider publishes no token endpoint");
                ProviderError::Unavailable
            })?;
            let exchange = exchange.set_pkce_verifier(PkceCodeVerifier::new(verifier));
            let response = exchange.request_async(&self.http).await;
            let response = response.map_err(|error| exchange_error(error, self.is_first()))?;
            let token = response.id_token().ok_or_else(|| {
                warn!("sign-in: the response of the provider contains no ID token");
                ProviderError::TokenInvalid
            })?;
            let (nonce, now) = (Nonce::new(nonce), self.clock.now());
            let check = |metadata: &Metadata| {
                token::check(token, metadata, &self.client_id, &nonce, now)
            };
            let checked = match check(&metadata) {
                Err(error) if error.is_about_key() => {
                    check(&*self.metadata.reload(&self.http, &metadata).await?)
                }
                checked => checked,
            };
            checked.map_err(|error: TokenError| {
                warn!(error = %ErrorChain(&error), "sign-in: the ID token of the provider is rejected");
                ProviderError::TokenInvalid
            })
        })
        .await
    }

    /// Returns where a person signs out of the provider; `None` if the provider publishes no such address, or does
    /// not respond.
    pub async fn end_session_url(&self) -> Option<Url> {
        let metadata = within_limit(self.metadata.get(&self.http)).await.ok()?;
        let endpoint = metadata.additional_metadata().end_session_endpoint.clone()?;
        let url = LogoutRequest::from(endpoint)
            .set_client_id(self.client_id.clone())
            .set_post_logout_redirect_uri(self.signed_out_url.clone())
            .http_get_url();
        is_protected(&url).then_some(url)
    }

    fn client(&self, metadata: &Metadata) -> ProviderClient {
        let (id, secret) = (self.client_id.clone(), self.client_secret.clone());
        let methods = metadata.token_endpoint_auth_methods_supported();
        let has = |method| methods.is_some_and(|methods| methods.contains(&method));
        let is_basic = has(CoreClientAuthMethod::ClientSecretBasic)
            || !has(CoreClientAuthMethod::ClientSecretPost);
        ProviderClient::from_provider_metadata(metadata.clone(), id, secret)
            .set_auth_type(if is_basic { AuthType::BasicAuth } else { AuthType::RequestBody })
            .set_redirect_uri(self.redirect_url.clone())
    }

    /// Returns whether this is the first call in this second.
    fn is_first(&self) -> bool {
        let second = self.clock.now().timestamp();
        self.warned_at.swap(second, Ordering::Relaxed) != second
    }
}

/// Waits for calls within the time that a reader of a page waits.
async fn within_limit<T>(
    calls: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    timeout(PAGE_CALLS_TIMEOUT, calls).await.unwrap_or(Err(ProviderError::Unavailable))
}

/// Returns the kind of an error of the token endpoint. The response itself may contain tokens, so it stays out of the
/// log. A person who begins a sign-in can send a wrong code, so only the first warning of a second is one.
fn exchange_error(error: token::ExchangeError, is_first: bool) -> ProviderError {
    let (kind, cause) = match &error {
        RequestTokenError::ServerResponse(response) => match response.error() {
            CoreErrorResponseType::InvalidGrant => {
                (ProviderError::CodeRejected, response.error().to_string())
            }
            other => (ProviderError::ClientRejected, other.to_string()),
        },
        RequestTokenError::Request(error) => {
            (ProviderError::Unavailable, ErrorChain(error).to_string())
        }
        RequestTokenError::Parse(error, _) => {
            let cause = format!("the member {} of the response cannot be read", error.path());
            (ProviderError::TokenInvalid, cause)
        }
        RequestTokenError::Other(_) => {
            (ProviderError::Unavailable, "the response is empty or incomplete".to_owned())
        }
    };
    if is_first && kind != ProviderError::CodeRejected {
        warn!(cause, "sign-in: the token endpoint of the provider returned no token");
    } else {
        debug!(cause, "sign-in: a code was not redeemed");
    }
    kind
}
