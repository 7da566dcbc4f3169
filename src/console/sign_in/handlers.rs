//! The requests of the sign-in, and the check of the session before each page.

use actix_web::{
    Error, HttpMessage, HttpRequest, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, StatusCode},
    middleware::Next,
    web::{Data, Query},
};
use tracing::info;

use super::{ProviderResponse, Session, SignIn, set_cookie};
use crate::{console::texts::Texts, http::ApiError, oidc::SIGNED_OUT_PATH};

/// Lets a request with a session pass. Another request for a page begins a sign-in, and a form is rejected.
pub(in crate::console) async fn require_session(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let sign_in = request.app_data::<Data<SignIn>>().expect("the routes add the sign-in").clone();
    if let Some(session) = sign_in.session(request.request()) {
        request.extensions_mut().insert(session);
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    }
    let response = if is_navigation(request.request()) {
        sign_in.begin(request.request()).await
    } else {
        sign_in.pages(request.request()).no_session()
    };
    Ok(request.into_response(response))
}

/// Returns the session of a request; `None` at a door without sign-in. A request that needs a session and has none is an
/// error, so a page that forgets [`require_session`] serves no one.
pub(in crate::console) fn session_of(request: &HttpRequest) -> Result<Option<Session>, ApiError> {
    if request.app_data::<Data<SignIn>>().is_none() {
        return Ok(None);
    }
    let session = request.extensions().get::<Session>().cloned();
    session.map(Some).ok_or_else(|| {
        let text = Texts::of(request).text("signIn.noSession");
        ApiError::Text(StatusCode::UNAUTHORIZED, text.to_owned())
    })
}

/// Returns whether a person opens a page. The refresh of a live page must not begin a sign-in every few seconds.
fn is_navigation(request: &HttpRequest) -> bool {
    let mode = request.headers().get("Sec-Fetch-Mode");
    matches!(*request.method(), Method::GET | Method::HEAD)
        && mode.is_none_or(|mode| mode.as_bytes() == b"navigate")
}

/// Receives the response of the provider.
pub(in crate::console) async fn callback(
    request: HttpRequest,
    sign_in: Data<SignIn>,
) -> HttpResponse {
    let response = Query::<ProviderResponse>::from_query(request.query_string());
    let response = response.ok().map(Query::into_inner);
    let state = response.as_ref().and_then(|response| response.state.as_deref());
    let attempt = state.and_then(|state| sign_in.attempt(&request, state));
    let (Some(response), Some(attempt)) = (response, attempt) else {
        // A repeated response, for example by the back button, changes nothing.
        return match sign_in.session(&request) {
            Some(_) => sign_in.redirect(&sign_in.config.public_url),
            None => sign_in.pages(&request).no_attempt(),
        };
    };
    let name = sign_in.cookies.attempt_name(&attempt.state);
    let mut ended = sign_in.end(attempt, response, &sign_in.pages(&request)).await;
    set_cookie(&mut ended, &sign_in.cookies.removal(&name));
    ended
}

/// Ends the session, and leads to the sign-out of the provider if it has one.
pub(in crate::console) async fn sign_out(
    request: HttpRequest,
    sign_in: Data<SignIn>,
) -> HttpResponse {
    let mut to = None;
    if let Some(session) = sign_in.session(&request) {
        info!(subject = session.subject, "sign-in: a person signed out");
        to = sign_in.provider.end_session_url().await;
    }
    let own = sign_in.config.public_url.join(SIGNED_OUT_PATH);
    let own = own.unwrap_or_else(|_| sign_in.config.public_url.clone());
    let mut response = match &to {
        // A browser follows a form to the origin of the issuer only, so another origin needs a link.
        Some(elsewhere) if !sign_in.is_of_provider(elsewhere) => {
            sign_in.pages(&request).signed_out_here(elsewhere)
        }
        to => sign_in.redirect(to.as_ref().unwrap_or(&own)),
    };
    set_cookie(&mut response, &sign_in.cookies.session_removal());
    response
}

/// Returns the page after a sign-out.
pub(in crate::console) async fn signed_out(
    request: HttpRequest,
    sign_in: Data<SignIn>,
) -> HttpResponse {
    sign_in.pages(&request).signed_out()
}
