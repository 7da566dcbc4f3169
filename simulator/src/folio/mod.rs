//! The HTTP modules of FOLIO that the service calls: users, loan storage, accounts and PubSub. They respond
//! from the truth of the play so far.

mod query;
pub(crate) mod storage;
pub(crate) mod users;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::{Payload, ServerHandle};
use actix_web::web::{self, Data, Json};
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::future::{Ready, ready};
use uuid::Uuid;

use crate::desk::Desk;
use crate::model::Transaction;
use crate::pause::Pause;
use crate::wire::SharedTruth;

/// The behavior of one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ModuleBehavior {
    /// Responds normally.
    #[default]
    Ok,
    /// Responds with status 500.
    Error,
    /// Accepts the request and responds after a minute.
    Hang,
    /// Responds to every request with status 404.
    NotFound,
}

/// The behavior of each module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FolioBehavior {
    /// The behavior of `/users`.
    pub users: ModuleBehavior,
    /// The behavior of `/loan-storage/loans` and `/accounts`.
    pub storage: ModuleBehavior,
    /// The behavior of `/pubsub`.
    pub pubsub: ModuleBehavior,
}

/// A received PubSub call.
#[derive(Debug, Clone, PartialEq)]
pub struct PubSubCall {
    /// The path.
    pub path: String,
    /// The JSON body.
    pub body: Value,
}

struct FolioState {
    tenant: String,
    truth: SharedTruth,
    behavior: Mutex<FolioBehavior>,
    calls: Mutex<Vec<PubSubCall>>,
    pause: Arc<Pause>,
    desk: Arc<Desk>,
}

impl FolioState {
    fn behavior(&self) -> FolioBehavior {
        *self.behavior.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_behavior(&self, behavior: FolioBehavior) {
        *self.behavior.lock().unwrap_or_else(PoisonError::into_inner) = behavior;
    }
}

/// The running HTTP server. If it is dropped, it stops in the background; [`Folio::stop`] waits for the
/// end.
pub struct Folio {
    port: u16,
    state: Arc<FolioState>,
    server: ServerHandle,
}

impl Folio {
    /// Starts a server on the loopback interface. If `port` is 0, the system chooses a free port. The
    /// caller must be inside a tokio runtime, because the server runs in it.
    pub fn start(tenant: &str, truth: SharedTruth, port: u16) -> anyhow::Result<Self> {
        let (behavior, calls) = (Mutex::default(), Mutex::default());
        let (pause, desk) = (Arc::default(), Arc::default());
        let tenant = tenant.to_owned();
        let state = Arc::new(FolioState { tenant, truth, behavior, calls, pause, desk });
        let data = Data::from(Arc::clone(&state));
        let server = HttpServer::new(move || App::new().app_data(data.clone()).configure(routes))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(1)
            .bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("port {port} cannot be opened"))?;
        let port = server.addrs().first().context("the server has no address")?.port();
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Self { port, state, server: handle })
    }

    /// Returns the port of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address of the server, as an `X-Okapi-Url`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes the behavior of the modules.
    pub fn set_behavior(&self, behavior: FolioBehavior) {
        self.state.set_behavior(behavior);
    }

    /// Returns the pause in publishing that requests over HTTP control.
    pub fn pause(&self) -> Arc<Pause> {
        Arc::clone(&self.state.pause)
    }

    /// Returns the transactions that requests over HTTP ask for.
    pub fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.state.desk)
    }

    /// Returns the PubSub calls so far.
    pub fn pubsub_calls(&self) -> Vec<PubSubCall> {
        self.state.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the server.
    pub async fn stop(self) {
        self.server.stop(false).await;
    }
}

impl Drop for Folio {
    fn drop(&mut self) {
        // The call requests the stop; the future would only wait for the end.
        drop(self.server.stop(false));
    }
}

impl std::fmt::Debug for Folio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folio").field("port", &self.port).finish_non_exhaustive()
    }
}

fn routes(app: &mut web::ServiceConfig) {
    app.route("/users/{id}", web::get().to(users::user))
        .route("/loan-storage/loans", web::get().to(storage::loans))
        .route("/accounts", web::get().to(storage::accounts))
        .route("/pubsub/event-types", web::post().to(pubsub))
        .route("/pubsub/event-types/declare/publisher", web::post().to(pubsub))
        .route("/pubsub/event-types/declare/subscriber", web::post().to(pubsub))
        .route("/simulator/truth", web::get().to(truth))
        .route("/simulator/behavior", web::post().to(set_behavior))
        .route("/simulator/pause", web::post().to(pause))
        .route("/simulator/resume", web::post().to(resume))
        .route("/simulator/loans/{id}/check-in", web::post().to(check_in))
        .route("/simulator/fees-fines/{id}/pay", web::post().to(pay));
}

async fn pubsub(
    caller: Caller,
    request: HttpRequest,
    body: Json<Value>,
    folio: Data<FolioState>,
) -> HttpResponse {
    if let Some(refusal) = refuse(&caller, &folio, folio.behavior().pubsub).await {
        return refusal;
    }
    let call = PubSubCall { path: request.path().to_owned(), body: body.into_inner() };
    let answer = HttpResponse::Created().json(&call.body);
    folio.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    answer
}

async fn truth(folio: Data<FolioState>) -> HttpResponse {
    HttpResponse::Ok().json(folio.truth.snapshot())
}

async fn set_behavior(behavior: Json<FolioBehavior>, folio: Data<FolioState>) -> HttpResponse {
    folio.set_behavior(*behavior);
    HttpResponse::NoContent().finish()
}

/// A timeout longer than the delivery of all records in flight while brokers respond.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Pauses publishing. Responds when every published record is acknowledged.
async fn pause(folio: Data<FolioState>) -> HttpResponse {
    match tokio::time::timeout(PAUSE_TIMEOUT, folio.pause.request()).await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(_) => {
            folio.pause.release();
            HttpResponse::ServiceUnavailable().body("publishing does not pause")
        }
    }
}

/// Resumes publishing.
async fn resume(folio: Data<FolioState>) -> HttpResponse {
    folio.pause.release();
    HttpResponse::NoContent().finish()
}

/// Requests the check-in of the item of an open loan.
async fn check_in(loan: web::Path<Uuid>, folio: Data<FolioState>) -> HttpResponse {
    let is_open = folio.truth.read().loan(*loan).is_some();
    request_transaction(&folio, is_open, Transaction::CheckIn(*loan))
}

/// Requests the payment of an open fee/fine.
async fn pay(fee: web::Path<Uuid>, folio: Data<FolioState>) -> HttpResponse {
    let is_open = folio.truth.read().has_fee_fine(*fee);
    request_transaction(&folio, is_open, Transaction::Pay(*fee))
}

/// Responds at once. The play performs the transaction after its last day.
fn request_transaction(
    folio: &FolioState,
    is_open: bool,
    transaction: Transaction,
) -> HttpResponse {
    if !is_open {
        return HttpResponse::NotFound().body("No open loan, fee or fine has this id.\n");
    }
    folio.desk.request(transaction);
    HttpResponse::Accepted().finish()
}

/// The tenant of a request.
struct Caller(Option<String>);

impl FromRequest for Caller {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let tenant = request.headers().get("x-okapi-tenant");
        ready(Ok(Self(tenant.and_then(|tenant| Some(tenant.to_str().ok()?.to_owned())))))
    }
}

/// Returns the error response to a request without this tenant, or of a module with a faulty behavior.
async fn refuse(
    caller: &Caller,
    folio: &FolioState,
    behavior: ModuleBehavior,
) -> Option<HttpResponse> {
    match caller.0.as_deref() {
        None => {
            let text = "Unable to process request Tenant must be set";
            return Some(HttpResponse::BadRequest().body(text));
        }
        Some(tenant) if tenant != folio.tenant => {
            return Some(HttpResponse::BadRequest().body(format!("No such Tenant {tenant}")));
        }
        Some(_) => {}
    }
    match behavior {
        ModuleBehavior::Ok => None,
        ModuleBehavior::Error => {
            Some(HttpResponse::InternalServerError().body("an error, as configured"))
        }
        ModuleBehavior::NotFound => Some(HttpResponse::NotFound().body("not found, as configured")),
        ModuleBehavior::Hang => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Some(HttpResponse::GatewayTimeout().body("a timeout, as configured"))
        }
    }
}
