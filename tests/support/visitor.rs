//! A browser without a window: a client that remembers cookies and follows redirects, and the host under which it
//! reaches the console.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{Arc, Mutex},
};

use reqwest::{
    Client, RequestBuilder, StatusCode,
    header::{HeaderMap, LOCATION, SET_COOKIE},
    redirect::Policy,
};
use tokio::{io::copy_bidirectional, net::TcpStream};
use url::Url;

use crate::support::http_client;

/// A port that forwards to the console. It exists before the console starts, so the settings can name it.
pub(crate) struct Front {
    port: u16,
    target: Arc<Mutex<Option<u16>>>,
}

impl Front {
    /// Opens the port. Connections wait for [`Front::forward_to`].
    pub(crate) fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let target = Arc::new(Mutex::new(None));
        let shared = target.clone();
        tokio::spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((mut client, _)) = listener.accept().await {
                let target: Option<u16> = *shared.lock().expect("no panic");
                let target = target.expect("the story has named the console");
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else {
                        return;
                    };
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { port, target }
    }

    /// Forwards connections to the console at this address.
    pub(crate) fn forward_to(&self, console: &str) {
        let port = Url::parse(console).expect("an address").port();
        *self.target.lock().expect("no panic") = port;
    }

    /// Returns the address of the console in a browser.
    pub(crate) fn url(&self) -> Url {
        Url::parse(&format!("http://127.0.0.1:{}/", self.port)).expect("an address")
    }
}

/// A response.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Shown {
    /// Returns the address of a redirect.
    pub(crate) fn location(&self) -> Option<Url> {
        let location = self.headers.get(LOCATION)?.to_str().expect("text");
        Some(self.url.join(location).expect("an address"))
    }

    /// Returns the cookies that the response sets, with their attributes.
    pub(crate) fn set_cookies(&self) -> Vec<String> {
        let lines = self.headers.get_all(SET_COOKIE).iter();
        lines.map(|line| line.to_str().expect("text").to_owned()).collect()
    }
}

/// A browser at a console.
#[derive(Clone)]
pub(crate) struct Visitor {
    console: Url,
    http: Client,
    cookies: BTreeMap<String, String>,
}

impl Visitor {
    pub(crate) fn new(console: Url) -> Self {
        // Each request has a connection of its own, so it reaches the newest target of the front.
        let http = http_client::builder().redirect(Policy::none()).pool_max_idle_per_host(0);
        Self { console, http: http.build().expect("a client"), cookies: BTreeMap::new() }
    }

    /// Returns the cookies by name.
    pub(crate) fn cookies(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.cookies
    }

    /// Returns the address of a page.
    pub(crate) fn page(&self, path: &str) -> Url {
        self.console.join(path).expect("an address")
    }

    /// Sends a request with the cookies, and remembers those of the response.
    pub(crate) async fn send(&mut self, url: &Url, request: RequestBuilder) -> Shown {
        let is_console = url.origin() == self.console.origin();
        let line: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = if is_console && !line.is_empty() {
            request.header("Cookie", line.join("; "))
        } else {
            request
        };
        let response = request.send().await.expect("a response");
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.text().await.expect("a body");
        let shown = Shown { url: url.clone(), status, headers, body };
        if is_console {
            for line in shown.set_cookies() {
                let (name, rest) = line.split_once('=').expect("a name");
                let value = rest.split(';').next().unwrap_or_default();
                if rest.contains("Max-Age=0") {
                    self.cookies.remove(name);
                } else {
                    self.cookies.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        shown
    }

    /// Requests an address, and follows no redirect.
    pub(crate) async fn request(&mut self, url: &Url) -> Shown {
        let request = self.http.get(url.clone());
        self.send(url, request).await
    }

    /// Opens a page as a browser does: follows redirects, also to the provider.
    pub(crate) async fn open(&mut self, path: &str) -> Shown {
        let mut shown = self.request(&self.page(path)).await;
        for _ in 0..10 {
            let Some(next) = shown.location() else { return shown };
            shown = self.request(&next).await;
        }
        panic!("too many redirects: {}", shown.url);
    }

    /// Opens a page up to the redirect from the provider, and returns the address of that redirect.
    pub(crate) async fn begin(&mut self, path: &str) -> Url {
        let begun = self.request(&self.page(path)).await;
        let provider = begun.location().unwrap_or_else(|| panic!("{begun:?}"));
        let answered = self.request(&provider).await;
        answered.location().unwrap_or_else(|| panic!("{answered:?}"))
    }

    /// Sends a form as a page of the console does.
    pub(crate) async fn submit(&mut self, path: &str, form: &[(&str, &str)]) -> Shown {
        self.submit_from("same-origin", path, form).await
    }

    /// Sends a form as a page of another site does.
    pub(crate) async fn submit_from(
        &mut self,
        site: &str,
        path: &str,
        form: &[(&str, &str)],
    ) -> Shown {
        let url = self.page(path);
        let request = self
            .http
            .post(url.clone())
            .header("Sec-Fetch-Site", site)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(serde_urlencoded::to_string(form).expect("texts"));
        self.send(&url, request).await
    }

    /// Returns a request with this client.
    pub(crate) fn get(&self, url: &Url) -> RequestBuilder {
        self.http.get(url.clone())
    }
}
