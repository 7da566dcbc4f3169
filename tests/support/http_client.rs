//! Clients for HTTP on this host.

use reqwest::{Client, ClientBuilder, redirect::Policy};

/// Returns a builder of a client without TLS. Reading the certificates of the system for each client would take a tenth of
/// the processor time of all stories.
pub(crate) fn builder() -> ClientBuilder {
    Client::builder().no_proxy().tls_certs_only([])
}

/// Returns a client.
pub(crate) fn client() -> Client {
    builder().build().expect("a client")
}

/// Returns a client that follows no redirect.
pub(crate) fn client_without_redirects() -> Client {
    builder().redirect(Policy::none()).build().expect("a client")
}
