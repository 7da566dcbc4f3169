//! The request of one page: the tenant, the services, and the place of the page.

use std::{cell::Cell, future::Future, pin::Pin, sync::Arc, time::Duration};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, dev::Payload, http::StatusCode, web::Data,
};
use askama::Template;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::{
    Console, act_words,
    response::{self, PAGE_TIMEOUT, PageError},
    roles::Roles,
    shell::{Notice, Reader, Shell},
    sign_in::{self, Session},
    texts::Texts,
};
use crate::{
    event::TenantId,
    http::{
        ApiError, AppState,
        extract::{
            paging::parameter,
            tenant::{caller, enabled_tenant, tenant_id},
        },
    },
    okapi::Caller,
    services::{evaluation::certainty::CertaintyReport, operator_actions::Action, tenants::Tenant},
    store::{self, Db, operator_actions},
};

/// The request of one page of an enabled tenant.
pub(super) struct Visit {
    pub(super) state: Arc<AppState>,
    /// The pool of the console.
    pub(super) db: Db,
    pub(super) tenant: Arc<Tenant>,
    /// The texts in the language of the reader.
    pub(super) texts: &'static Texts,
    /// Gateway and token for calls to other modules on behalf of the reader.
    pub(super) caller: Caller,
    /// Whether the request came through the gateway, with the token of the reader.
    pub(super) has_gateway: bool,
    /// What the reader may do.
    pub(super) roles: Roles,
    /// The person who has signed in, at a door with sign-in.
    pub(super) session: Option<Session>,
    /// Permit of the only preview of a retry.
    pub(super) preview_permit: Arc<Semaphore>,
    request: HttpRequest,
    /// The end of the time limit; an act starts the limit again.
    deadline: Cell<Instant>,
    _permit: OwnedSemaphorePermit,
}

/// Time limit of the strip, which no page needs.
const STRIP_TIMEOUT: Duration = Duration::from_millis(300);

impl Visit {
    /// Loads and renders a page within the time limit.
    pub(super) async fn render<T: Template>(
        &self,
        load: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<HttpResponse, PageError> {
        self.respond(async { Ok(response::render(StatusCode::OK, &load.await?)) }).await
    }

    /// Responds within the time limit.
    pub(super) async fn respond(
        &self,
        load: impl Future<Output = Result<HttpResponse, ApiError>>,
    ) -> Result<HttpResponse, PageError> {
        self.within(load).await
    }

    /// Waits for something within the time limit.
    pub(super) async fn within<T>(
        &self,
        load: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, PageError> {
        let loaded = timeout_at(self.deadline.get(), load).await;
        let loaded = loaded.unwrap_or_else(|_| Err(store::Error::Timeout.into()));
        loaded.map_err(|error| self.failed(error))
    }

    /// Starts the time limit again: an act may have used the whole of it, and the page after it has to load too.
    pub(super) fn restart_time_limit(&self) {
        self.deadline.set(Instant::now() + PAGE_TIMEOUT);
    }

    /// Returns how certain evaluations of the tenant are.
    pub(super) async fn certainty(&self) -> Result<CertaintyReport, store::Error> {
        self.state.evaluator.tenant_certainty(&self.db, &self.tenant).await
    }

    /// Returns the frame of the page at `path`. It waits for the certainty only for a short time.
    pub(super) async fn shell(&self, path: &'static str) -> Shell {
        let report = timeout(STRIP_TIMEOUT, self.certainty()).await;
        self.shell_with(path, report.ok().and_then(Result::ok).as_ref()).await
    }

    /// Returns the frame of the page at `path`, with the certainty that the page has loaded.
    pub(super) async fn shell_with(
        &self,
        path: &'static str,
        certainty: Option<&CertaintyReport>,
    ) -> Shell {
        let root = response::root_of(self.request.path());
        let (notice, reader) = (self.notice().await, self.session.as_ref().map(Reader::from));
        let tenant = self.tenant.id.to_string();
        Shell { notice, reader, ..Shell::new(self.texts, root, path, tenant, certainty) }
    }

    /// Returns the notice about the act that the address of the page names, if any.
    async fn notice(&self) -> Option<Notice> {
        let number = parameter(&self.request, "act").ok()??.parse().ok()?;
        self.notice_about(number).await
    }

    /// Returns the notice about an act.
    pub(super) async fn notice_about(&self, number: i64) -> Option<Notice> {
        let schema = &self.tenant.schema;
        let found =
            store::read(&self.db, async |db| operator_actions::find(db, schema, number).await);
        let act = found.await.ok()??;
        let (is_good, text) = act_words::end(self.texts, &act);
        Some(Notice { is_good, text, number })
    }

    /// Returns whether the reader may take an action.
    pub(super) fn may(&self, action: Action) -> bool {
        self.roles.may(action)
    }

    /// Returns the request, for its parameters.
    pub(super) fn request(&self) -> &HttpRequest {
        &self.request
    }

    /// Returns the part of the path with this name in the route.
    pub(super) fn path_part(&self, name: &str) -> &str {
        self.request.match_info().query(name)
    }

    /// Returns the error page.
    pub(super) fn failed(&self, error: ApiError) -> PageError {
        PageError::new(&self.request, error)
    }
}

impl FromRequest for Visit {
    type Error = PageError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, PageError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let failed = |error| PageError::new(&request, error);
            let deadline = Instant::now() + PAGE_TIMEOUT;
            let console = request.app_data::<Data<Console>>().expect("the routes add the console");
            let permit = console.load_limit.clone().try_acquire_owned();
            let _permit = permit.map_err(|_| failed(ApiError::overloaded()))?;
            let (state, db) = (console.state.clone(), console.db.clone());
            let session = sign_in::session_of(&request).map_err(failed)?;
            let (id, has_gateway) = named_tenant(&request).map_err(failed)?;
            if session.as_ref().is_some_and(|session| !session.may_see(&id)) {
                return Err(failed(response::no_such_page(Texts::of(&request))));
            }
            let tenant = timeout_at(deadline, enabled_tenant(&state, &db, &id)).await;
            let timed_out = || failed(store::Error::Timeout.into());
            let tenant = tenant.map_err(|_| timed_out())?.map_err(failed)?;
            let caller = if has_gateway {
                caller(&request, &state, &id)
            } else {
                caller_without_token(&state, &id)
            };
            let request = request.clone();
            let texts = Texts::of(&request);
            let roles = match &session {
                Some(session) => session.roles(),
                None if has_gateway => Roles::from_gateway(&request),
                None => Roles::All,
            };
            let (deadline, preview_permit) = (Cell::new(deadline), console.preview_permit.clone());
            Ok(Self {
                state,
                db,
                tenant,
                texts,
                caller,
                has_gateway,
                roles,
                session,
                preview_permit,
                request,
                deadline,
                _permit,
            })
        })
    }
}

/// Returns the caller of a page on the console port. Only a gateway may name another gateway or a token, and a header of
/// a browser must not.
fn caller_without_token(state: &AppState, tenant: &TenantId) -> Caller {
    let (okapi_url, is_foreign_gateway) = state.gateway.resolve(None);
    let tenant = tenant.to_string();
    Caller { okapi_url, is_foreign_gateway, tenant, token: None, request_id: None }
}

/// Returns the tenant of the request, and whether the gateway named it: from the path on the console port, otherwise
/// from the header of the gateway.
fn named_tenant(request: &HttpRequest) -> Result<(TenantId, bool), ApiError> {
    match request.match_info().get("tenant") {
        Some(named) => TenantId::parse(named)
            .map(|id| (id, false))
            .ok_or_else(|| ApiError::bad_request(format!("A tenant id {}.", TenantId::RULE))),
        None => tenant_id(request).map(|id| (id, true)),
    }
}
