//! The request of one page: the tenant, the services, and the place of the page.

use std::{future::Future, pin::Pin, sync::Arc};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, dev::Payload, http::StatusCode, web::Data,
};
use askama::Template;
use tokio::time::timeout;

use super::{
    Console,
    response::{self, PAGE_TIMEOUT, PageError},
    shell::Shell,
};
use crate::{
    event::TenantId,
    http::{
        ApiError, AppState,
        extract::tenant::{caller, enabled_tenant, tenant_id},
    },
    okapi::Caller,
    services::tenants::Tenant,
    store::{self, Db},
};

/// The request of one page of an enabled tenant.
pub(super) struct Visit {
    pub(super) state: Arc<AppState>,
    /// The pool of the console.
    pub(super) db: Db,
    pub(super) tenant: Arc<Tenant>,
    /// Gateway and token for calls to other modules on behalf of the reader.
    pub(super) caller: Caller,
    request: HttpRequest,
}

impl Visit {
    /// Loads and renders a page within the time limit.
    pub(super) async fn render<T: Template>(
        &self,
        load: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<HttpResponse, PageError> {
        let failed = |error| PageError::new(&self.request, error);
        match timeout(PAGE_TIMEOUT, load).await {
            Ok(page) => Ok(response::render(StatusCode::OK, &page.map_err(failed)?)),
            Err(_) => Err(failed(store::Error::Timeout.into())),
        }
    }

    /// Returns the frame of the page at `path`.
    pub(super) async fn shell(&self, path: &'static str) -> Shell {
        let root = response::root_of(self.request.path());
        let certainty = self.state.evaluator.tenant_certainty(&self.db, &self.tenant).await;
        Shell::new(root, path, self.tenant.id.to_string(), certainty.as_ref().ok())
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
            let console = request.app_data::<Data<Console>>().expect("the routes add the console");
            let (state, db) = (console.state.clone(), console.db.clone());
            let id = named_tenant(&request).map_err(failed)?;
            let tenant = timeout(PAGE_TIMEOUT, enabled_tenant(&state, &db, &id)).await;
            let timed_out = || failed(store::Error::Timeout.into());
            let tenant = tenant.map_err(|_| timed_out())?.map_err(failed)?;
            let caller = caller(&request, &state, &id);
            Ok(Self { state, db, tenant, caller, request: request.clone() })
        })
    }
}

/// Returns the tenant of the request: from the path on the console port, otherwise from the header of the gateway.
fn named_tenant(request: &HttpRequest) -> Result<TenantId, ApiError> {
    match request.match_info().get("tenant") {
        Some(named) => TenantId::parse(named)
            .ok_or_else(|| ApiError::bad_request(format!("A tenant id {}.", TenantId::RULE))),
        None => tenant_id(request),
    }
}
