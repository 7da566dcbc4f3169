//! The HTTP side of FOLIO, as far as this service asks it: users, loan storage, accounts and
//! PubSub, answering from the truth of what has been played so far.

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

use crate::pause::Pause;
use crate::wire::SharedTruth;

/// How a part of FOLIO behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mood {
    /// As it should.
    #[default]
    Ok,
    /// Answers 500.
    Error,
    /// Takes the request and says nothing for a minute.
    Hang,
    /// Answers 404, whatever it is asked for.
    NotFound,
}

/// How each part behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Weather {
    /// `/users`.
    pub users: Mood,
    /// `/loan-storage/loans` and `/accounts`.
    pub storage: Mood,
    /// `/pubsub`.
    pub pubsub: Mood,
}

/// A PubSub call that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct PubSubCall {
    /// Path.
    pub path: String,
    /// JSON body.
    pub body: Value,
}

struct Switches {
    tenant: String,
    truth: SharedTruth,
    weather: Mutex<Weather>,
    calls: Mutex<Vec<PubSubCall>>,
    pause: Arc<Pause>,
}

impl Switches {
    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }
}

/// The running HTTP side. It stops listening when it is dropped; who must know that it has, waits
/// for [`Folio::stop`].
pub struct Folio {
    port: u16,
    switches: Arc<Switches>,
    server: ServerHandle,
}

impl Folio {
    /// Starts to listen on the loopback interface, on any free port if `port` is 0. Must be called
    /// inside a tokio runtime; the server runs in it.
    pub fn start(tenant: &str, truth: SharedTruth, port: u16) -> anyhow::Result<Self> {
        let (weather, calls, pause) = (Mutex::default(), Mutex::default(), Arc::default());
        let tenant = tenant.to_owned();
        let switches = Arc::new(Switches { tenant, truth, weather, calls, pause });
        let data = Data::from(Arc::clone(&switches));
        let server = HttpServer::new(move || App::new().app_data(data.clone()).configure(routes))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(1)
            .bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("port {port} could not be opened"))?;
        let port = server.addrs().first().context("the server listens nowhere")?.port();
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Self { port, switches, server: handle })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, as an `X-Okapi-Url`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes how its parts behave.
    pub fn set_weather(&self, weather: Weather) {
        self.switches.set_weather(weather);
    }

    /// The pause in publishing that is asked for over HTTP.
    pub fn pause(&self) -> Arc<Pause> {
        Arc::clone(&self.switches.pause)
    }

    /// The PubSub calls made so far.
    pub fn pubsub_calls(&self) -> Vec<PubSubCall> {
        self.switches.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops listening.
    pub async fn stop(self) {
        self.server.stop(false).await;
    }
}

impl Drop for Folio {
    fn drop(&mut self) {
        // Tells the server; only waiting for its end would need the future.
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
        .route("/simulator/weather", web::post().to(set_weather))
        .route("/simulator/pause", web::post().to(pause))
        .route("/simulator/resume", web::post().to(resume));
}

async fn pubsub(
    caller: Caller,
    request: HttpRequest,
    body: Json<Value>,
    folio: Data<Switches>,
) -> HttpResponse {
    if let Some(refusal) = refuse(&caller, &folio, folio.weather().pubsub).await {
        return refusal;
    }
    let call = PubSubCall { path: request.path().to_owned(), body: body.into_inner() };
    let answer = HttpResponse::Created().json(&call.body);
    folio.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    answer
}

async fn truth(folio: Data<Switches>) -> HttpResponse {
    HttpResponse::Ok().json(folio.truth.snapshot())
}

async fn set_weather(weather: Json<Weather>, folio: Data<Switches>) -> HttpResponse {
    folio.set_weather(*weather);
    HttpResponse::NoContent().finish()
}

/// Longer than everything in flight takes while brokers answer.
const PAUSE_WITHIN: Duration = Duration::from_secs(60);

/// Publishing pauses. The answer comes when everything published so far is acknowledged.
async fn pause(folio: Data<Switches>) -> HttpResponse {
    match tokio::time::timeout(PAUSE_WITHIN, folio.pause.begin()).await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(_) => {
            folio.pause.end();
            HttpResponse::ServiceUnavailable().body("publishing does not pause")
        }
    }
}

/// Publishing goes on.
async fn resume(folio: Data<Switches>) -> HttpResponse {
    folio.pause.end();
    HttpResponse::NoContent().finish()
}

/// The tenant a request is for.
struct Caller(Option<String>);

impl FromRequest for Caller {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let tenant = request.headers().get("x-okapi-tenant");
        ready(Ok(Self(tenant.and_then(|tenant| Some(tenant.to_str().ok()?.to_owned())))))
    }
}

/// The answer to a request that must not or can't be served now.
async fn refuse(caller: &Caller, folio: &Switches, mood: Mood) -> Option<HttpResponse> {
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
    match mood {
        Mood::Ok => None,
        Mood::Error => Some(HttpResponse::InternalServerError().body("out of order, on demand")),
        Mood::NotFound => Some(HttpResponse::NotFound().body("not found, on demand")),
        Mood::Hang => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Some(HttpResponse::GatewayTimeout().body("hung, on demand"))
        }
    }
}
