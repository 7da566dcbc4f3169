//! The headers of a request: tenant, caller and acting user.

use std::{future::Future, pin::Pin, sync::Arc};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web::Data};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::load_limit::LoadLimit;
use crate::{
    event::{TenantId, parse_uuid},
    http::{ApiError, AppState},
    okapi::Caller,
    services::{
        operator_actions::{Act, ActEnd, ActionLog, Door, Operator, parse_reason},
        tenants::Tenant,
    },
    store::Db,
};

/// Returns the value of a header if the value is text and not blank.
pub(in crate::http) fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let value = request.headers().get(name)?.to_str().ok()?.trim();
    (!value.is_empty()).then_some(value)
}

/// Returns the tenant that the request names; the tenant may be disabled.
pub(crate) fn tenant_id(request: &HttpRequest) -> Result<TenantId, ApiError> {
    const NAME: &str = "X-Okapi-Tenant";
    let mut lines = request.headers().get_all(NAME).map(|line| line.as_bytes().trim_ascii());
    let first = lines.next();
    if lines.any(|line| Some(line) != first) {
        // The service cannot know which of the values the gateway has authorized.
        let rule = format!("{NAME} must name one tenant, but the request has several values");
        return Err(ApiError::bad_request(rule));
    }
    let named = header(request, NAME)
        .ok_or_else(|| ApiError::bad_request("Unable to process request Tenant must be set"))?;
    TenantId::parse(named).ok_or_else(|| {
        let named = named.escape_default();
        ApiError::bad_request(format!("Tenant \"{named}\" is not valid: an id {}", TenantId::RULE))
    })
}

/// Returns gateway, tenant and token for outgoing calls.
pub(crate) fn caller(request: &HttpRequest, service: &AppState, tenant: &TenantId) -> Caller {
    let owned = |name| header(request, name).map(str::to_owned);
    let named = header(request, "X-Okapi-Url");
    service.other_gateways.record(&service.gateway, named);
    let (okapi_url, is_elsewhere) = service.gateway.resolve(named);
    Caller {
        okapi_url,
        is_foreign_gateway: is_elsewhere,
        tenant: tenant.to_string(),
        token: owned("X-Okapi-Token"),
        request_id: owned("X-Okapi-Request-Id"),
    }
}

/// Maximum length of a stored user id, in bytes.
const USER_ID_BYTES_MAX: usize = 255;

/// Returns the acting staff user, for metadata: from the header, otherwise from the claim of the token. The
/// gateway verifies tokens, so the claim is read without verification. The id may be any text without control
/// characters. An invalid id counts as unknown: PostgreSQL cannot store a NUL, and no request fails for its
/// author.
pub(crate) fn acting_user(request: &HttpRequest) -> Option<String> {
    let named = header(request, "X-Okapi-User-Id").map(str::to_owned);
    let user = named.or_else(|| user_from_token(header(request, "X-Okapi-Token")?))?;
    let is_id =
        !user.is_empty() && user.len() <= USER_ID_BYTES_MAX && !user.contains(char::is_control);
    is_id.then_some(user)
}

fn user_from_token(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        user_id: Option<String>,
    }
    let payload = token.split('.').nth(1)?;
    let json = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice::<Claims>(&json).ok()?.user_id
}

/// A request of an enabled tenant, with the operators' connections and a permit of their load limit.
pub(in crate::http) struct TenantRequest {
    pub(in crate::http) state: Arc<AppState>,
    pub(in crate::http) db: Db,
    pub(in crate::http) tenant: Arc<Tenant>,
    pub(in crate::http) acting_user: Option<String>,
    /// The reason of an act, from the header.
    reason: Option<String>,
    request_id: Option<String>,
    _permit: OwnedSemaphorePermit,
}

/// The name of an operator whom neither a header nor a token names.
const UNKNOWN_OPERATOR: &str = "unknown";

impl TenantRequest {
    /// Returns the acting user, or `unknown`.
    pub(in crate::http) fn operator_name(&self) -> &str {
        self.acting_user.as_deref().unwrap_or(UNKNOWN_OPERATOR)
    }

    /// Enters an act in the log of acts, does the act, and enters its end.
    pub(in crate::http) async fn record<T>(
        &self,
        act: Act,
        work: impl Future<Output = Result<T, ApiError>>,
        end_of: impl FnOnce(&T) -> ActEnd,
    ) -> Result<T, ApiError> {
        let operator = Operator {
            name: self.operator_name().to_owned().into(),
            door: Door::Http,
            reason: self.reason.clone(),
            request_id: self.request_id.clone(),
        };
        let log = ActionLog { db: &self.db, schema: &self.tenant.schema };
        log.record(&operator, &act, work, end_of).await.map(|(_, done)| done)
    }
}

/// The header with the reason of an act, as UTF-8.
const REASON_HEADER: &str = "X-Patron-Blocks-Reason";

/// Returns the reason of an act, if the request has one.
fn reason(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    let Some(value) = request.headers().get(REASON_HEADER) else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    let invalid = |rule| ApiError::bad_request(format!("{REASON_HEADER} {rule}"));
    parse_reason(text).map(Some).map_err(invalid)
}

/// Returns the id of the request, for the log of acts.
pub(crate) fn request_id(request: &HttpRequest) -> Option<String> {
    header(request, "X-Okapi-Request-Id").map(|id| id.chars().take(USER_ID_BYTES_MAX).collect())
}

/// Returns the enabled tenant, or an error that names the tenant.
pub(crate) async fn enabled_tenant(
    service: &AppState,
    db: &Db,
    id: &TenantId,
) -> Result<Arc<Tenant>, ApiError> {
    let tenant = service.tenants.find_for_request(db, id).await?;
    tenant.ok_or_else(|| ApiError::tenant_not_enabled(id))
}

impl FromRequest for TenantRequest {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let (service, _) = app_state(request);
        let (permit, db) = (service.operators.try_acquire(), service.operators.db());
        let id = tenant_id(request);
        let (acting_user, request_id) = (acting_user(request), request_id(request));
        let reason = reason(request);
        Box::pin(async move {
            let _permit = permit.ok_or_else(ApiError::overloaded)?;
            let tenant = enabled_tenant(&service, &db, &id?).await?;
            let reason = reason?;
            Ok(Self { state: service, db, tenant, acting_user, reason, request_id, _permit })
        })
    }
}

/// Returns the state and the pool for evaluations that `routes` added.
pub(in crate::http) fn app_state(request: &HttpRequest) -> (Arc<AppState>, Db) {
    let service =
        request.app_data::<Data<AppState>>().expect("routes() adds the state of the application");
    let db = request.app_data::<Data<Db>>().expect("routes() adds the connection pool");
    (service.clone().into_inner(), Db::clone(db))
}

/// Returns the load limit of the current thread.
pub(in crate::http) fn load_limit(request: &HttpRequest) -> &LoadLimit {
    request.app_data::<LoadLimit>().expect("routes() adds the load limit")
}

/// Parses the patron's id in a path (docs/contract/http-api.md#2-blocks).
pub(crate) fn path_patron(text: &str) -> Result<Uuid, ApiError> {
    let error =
        || ApiError::bad_request(format!("Invalid user UUID: \"{}\"", text.escape_default()));
    path_id(text, error)
}

/// Parses the id in a path, or returns the error that docs/contract/http-api.md defines for the path.
pub(crate) fn path_id(text: &str, error: impl FnOnce() -> ApiError) -> Result<Uuid, ApiError> {
    parse_uuid(text).ok_or_else(error)
}
