//! The HTTP server.

use std::{io, net::TcpListener, sync::Arc, thread::available_parallelism, time::Duration};

use actix_web::{App, HttpServer, dev::Server, middleware::from_fn};

use super::pools;
use crate::{
    config::Config,
    console::{self, Console, SignIn},
    http,
};

/// Time for requests in flight after the service stops, in seconds.
pub(super) const DRAIN_SECONDS: u64 = 3;

/// Time limit of the head of a connection's first request; `http/extract/body.rs` limits the time of a body.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Lifetime of an idle connection; `DISCONNECT_TIMEOUT` limits the closing of a connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Largest number of TCP connections to the console port.
const CONSOLE_CONNECTIONS_MAX: usize = 256;

/// Starts the HTTP server. Each HTTP worker thread has a connection pool of its own, because with a
/// shared pool every statement crosses threads (docs/decisions/0005).
pub(super) fn serve(
    config: &Config,
    console: &Arc<Console>,
    listener: TcpListener,
) -> io::Result<Server> {
    let connections = pools::web_connections(config);
    let cores = available_parallelism().map_or(1, usize::from);
    let desired = if config.http_workers == 0 { cores } else { config.http_workers };
    let workers = desired.min(connections as usize);
    let connections_per_worker = connections / u32::try_from(workers).unwrap_or(connections);
    let login = config.database.login.clone();
    let console = console.clone();
    let factory = move || {
        let db = pools::web(&login, connections_per_worker);
        console.state.gauges.register_pool("web", &db);
        App::new()
            .wrap(from_fn(http::with_timeout))
            .wrap(http::normalize())
            .wrap(from_fn(console::redirect_trailing_slash))
            .configure(|app| console::gateway_routes(&console, app))
            .configure(|app| http::routes(&console.state, db, app))
    };
    let server = HttpServer::new(factory)
        .workers(workers)
        .max_connections(http::connections_max(connections_per_worker))
        .disable_signals()
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .keep_alive(KEEP_ALIVE_TIMEOUT)
        .shutdown_timeout(DRAIN_SECONDS)
        .listen(listener)?;
    Ok(server.run())
}

/// Starts the HTTP server of the console port, for persons who sign in or for the operators of this host. One thread
/// suffices for them.
pub(super) fn serve_console(
    console: &Arc<Console>,
    sign_in: Option<Arc<SignIn>>,
    listener: TcpListener,
) -> io::Result<Server> {
    let console = console.clone();
    let factory = move || {
        App::new()
            .wrap(http::normalize())
            .wrap(from_fn(console::redirect_trailing_slash))
            .configure(|app| match &sign_in {
                Some(sign_in) => console::sign_in_routes(&console, sign_in, app),
                None => console::loopback_routes(&console, app),
            })
    };
    let server = HttpServer::new(factory)
        .workers(1)
        .max_connections(CONSOLE_CONNECTIONS_MAX)
        .disable_signals()
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .keep_alive(KEEP_ALIVE_TIMEOUT)
        .shutdown_timeout(DRAIN_SECONDS)
        .listen(listener)?;
    Ok(server.run())
}
