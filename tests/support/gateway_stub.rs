//! A gateway for a browser: it names the tenant of the path in a header, as Okapi does below `/_/invoke/tenant/`, and
//! reports the permissions of the reader.

use std::net::TcpListener;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, web};
use patron_blocks::{console::roles::permission, services::operator_actions::Action};
use serde_json::json;

use crate::support::{http_client, world::TENANT};

/// The headers of a browser that reach the service.
const FORWARDED: [&str; 4] = ["Accept", "Content-Type", "Origin", "Sec-Fetch-Site"];

/// The headers of the service that reach the browser.
const RETURNED: [&str; 5] =
    ["Content-Security-Policy", "Content-Type", "Cache-Control", "Location", "Referrer-Policy"];

pub(crate) struct GatewayStub {
    port: u16,
    server: ServerHandle,
}

struct Target {
    service: String,
    okapi: String,
}

impl GatewayStub {
    /// Starts a gateway in front of `service`. `okapi` is the address that the service calls.
    pub(crate) fn start(service: &str, okapi: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (service, okapi) = (service.to_owned(), okapi.to_owned());
        let app = move || {
            let target = Target { service: service.clone(), okapi: okapi.clone() };
            App::new().app_data(web::Data::new(target)).default_service(web::to(forward))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .disable_signals()
            .shutdown_timeout(0)
            .listen(listener)
            .expect("the stub listens")
            .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { port, server: handle }
    }

    /// Returns the address of a path of the service.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{}{path}", self.port, prefix())
    }
}

impl Drop for GatewayStub {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

fn prefix() -> String {
    format!("/_/invoke/tenant/{TENANT}")
}

async fn forward(
    request: HttpRequest,
    body: web::Bytes,
    target: web::Data<Target>,
) -> HttpResponse {
    let Some(path) = request.path().strip_prefix(&prefix()) else {
        return HttpResponse::NotFound().body("outside of the tenant");
    };
    let url = format!("{}{path}?{}", target.service, request.query_string());
    let method = request.method().as_str().parse().expect("a method");
    let permissions: Vec<&str> = Action::ALL.into_iter().filter_map(permission).collect();
    let permissions = json!(permissions).to_string();
    let mut sent = http_client::client_without_redirects()
        .request(method, url)
        .header("X-Okapi-Tenant", TENANT)
        .header("X-Okapi-Url", &target.okapi)
        .header("X-Okapi-User-Id", "desk-1")
        .header("X-Okapi-Permissions", permissions)
        .body(body.to_vec());
    for name in FORWARDED {
        if let Some(value) = request.headers().get(name) {
            sent = sent.header(name, value.as_bytes());
        }
    }
    let received = sent.send().await.expect("the service responds");
    let status = actix_web::http::StatusCode::from_u16(received.status().as_u16());
    let mut response = HttpResponse::build(status.expect("a status"));
    for name in RETURNED {
        if let Some(value) = received.headers().get(name) {
            response.insert_header((name, value.as_bytes()));
        }
    }
    response.body(received.bytes().await.expect("a body"))
}
