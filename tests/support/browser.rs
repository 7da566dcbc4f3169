//! Chromium, through its driver, with the checks that every page has to pass.
//!
//! `dev/browser` installs Chromium, its driver and axe-core, the checker of accessibility.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder, Locator, error::CmdError, wd::Capabilities};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::support::http_client;

/// The programs of Debian's packages.
const CHROMIUM: &str = "/usr/bin/chromium";
const DRIVER: &str = "/usr/bin/chromedriver";

/// The checker, which `dev/browser` unpacks.
const AXE: &str = "target/axe-core/axe-4.14.1.js";

/// Time limit of the start of the driver, and of a state of a page.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A width of the window, and the scheme of colours that the reader prefers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) is_dark: bool,
}

/// A browser with one window.
pub(crate) struct Browser {
    client: Client,
    driver_url: String,
    session: String,
    http: reqwest::Client,
    _driver: Child,
}

impl Browser {
    /// Runs `story` with a new browser, and closes the browser.
    pub(crate) async fn run(story: impl AsyncFnOnce(&Browser)) {
        let browser = Self::start().await;
        story(&browser).await;
        browser.client.close().await.expect("the browser closes");
    }

    async fn start() -> Self {
        for file in [CHROMIUM, DRIVER] {
            assert!(Path::new(file).exists(), "{file} is missing: run dev/browser");
        }
        let mut driver = Command::new(DRIVER)
            .args(["--port=0", "--log-level=SEVERE"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the driver starts");
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = async {
            loop {
                let line =
                    lines.next_line().await.expect("text").expect("the driver prints its port");
                let started = line.split("started successfully on port ").nth(1);
                if let Some(port) = started {
                    return port.trim_end_matches('.').to_owned();
                }
            }
        };
        let port = timeout(TIMEOUT, port).await.expect("the driver starts in time");
        // The driver must not wait for a reader of its output.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let driver_url = format!("http://127.0.0.1:{port}");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--accept-lang=en",
        ];
        let mut capabilities = Capabilities::new();
        capabilities.insert(
            "goog:chromeOptions".to_owned(),
            json!({ "binary": CHROMIUM, "args": arguments }),
        );
        capabilities.insert("goog:loggingPrefs".to_owned(), json!({ "browser": "ALL" }));
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver_url)
            .await
            .expect("the browser starts");
        let session = client.session_id().await.expect("the driver responds").expect("a session");
        Self { client, driver_url, session, http: http_client::client(), _driver: driver }
    }

    async fn send(&self, path: &str, body: Value) -> Value {
        let url = format!("{}/session/{}/{path}", self.driver_url, self.session);
        let response = self.http.post(url).json(&body).send().await.expect("the driver responds");
        let body: Value = response.json().await.expect("the driver sends JSON");
        assert!(body["value"]["error"].is_null(), "{path}: {body}");
        body["value"].clone()
    }

    /// Sends a command of the developer tools.
    async fn command(&self, name: &str, parameters: Value) {
        self.send("goog/cdp/execute", json!({ "cmd": name, "params": parameters })).await;
    }

    /// Sets the size of the page and the scheme of colours.
    pub(crate) async fn show_on(&self, screen: Screen) {
        let Screen { width, height, is_dark } = screen;
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if is_dark { "dark" } else { "light" };
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.command("Emulation.setEmulatedMedia", json!({ "features": [feature] })).await;
    }

    /// Shows pages as a printer does, or on the screen again.
    pub(crate) async fn print(&self, is_print: bool) {
        let media = if is_print { "print" } else { "" };
        self.command("Emulation.setEmulatedMedia", json!({ "media": media })).await;
    }

    /// Allows or forbids the scripts of pages; takes effect at the next page.
    pub(crate) async fn allow_scripts(&self, are_allowed: bool) {
        let parameters = json!({ "value": !are_allowed });
        self.command("Emulation.setScriptExecutionDisabled", parameters).await;
    }

    /// Sets the languages of the reader, as in the header `Accept-Language`.
    pub(crate) async fn set_languages(&self, languages: &str) {
        self.command("Network.enable", json!({})).await;
        let headers = json!({ "headers": { "Accept-Language": languages } });
        self.command("Network.setExtraHTTPHeaders", headers).await;
    }

    /// Sets the time zone of the reader.
    pub(crate) async fn set_time_zone(&self, name: &str) {
        self.command("Emulation.setTimezoneOverride", json!({ "timezoneId": name })).await;
    }

    /// Lets the timers of the page run as if this time had passed, and waits until they have run.
    pub(crate) async fn advance_time(&self, time: Duration) {
        let due = self.evaluate("return Date.now();").await.as_f64().expect("a time");
        let due = due + time.as_millis() as f64;
        let parameters = json!({ "policy": "advance", "budget": time.as_millis() as u64 });
        self.command("Emulation.setVirtualTimePolicy", parameters).await;
        let deadline = Instant::now() + TIMEOUT;
        while self.evaluate("return Date.now();").await.as_f64().expect("a time") < due {
            assert!(Instant::now() < deadline, "the time of the page does not advance");
            sleep(POLL_INTERVAL).await;
        }
    }

    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.expect("the page loads");
    }

    /// Returns the address of the page.
    pub(crate) async fn url(&self) -> String {
        self.client.current_url().await.expect("an address").to_string()
    }

    /// Repeats an action until it succeeds: a page that changes takes its elements away.
    async fn until_done<T>(
        &self,
        what: &str,
        mut action: impl AsyncFnMut(&Client) -> Result<T, CmdError>,
    ) -> T {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match action(&self.client).await {
                Ok(done) => return done,
                Err(error) => assert!(Instant::now() < deadline, "{what}: {error}"),
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns the visible text of the page.
    pub(crate) async fn text(&self) -> String {
        let read = async |client: &Client| client.find(Locator::Css("body")).await?.text().await;
        self.until_done("the text of the page", read).await
    }

    /// Types a text into the field that a selector of CSS finds.
    pub(crate) async fn type_into(&self, selector: &str, text: &str) {
        let find = async |client: &Client| {
            client.find(Locator::Css(selector)).await?.send_keys(text).await
        };
        self.until_done(selector, find).await;
    }

    /// Clicks the element that a selector of CSS finds.
    pub(crate) async fn click(&self, selector: &str) {
        let click =
            async |client: &Client| client.find(Locator::Css(selector)).await?.click().await;
        self.until_done(selector, click).await;
    }

    /// Sends keys to the element with the focus.
    pub(crate) async fn press(&self, keys: &str) {
        let focused = self.client.active_element().await.expect("an element has the focus");
        focused.send_keys(keys).await.expect("the element takes keys");
    }

    /// Runs a script in the page, and returns its result.
    pub(crate) async fn evaluate(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.expect("the script runs")
    }

    /// Waits until the page contains a text.
    pub(crate) async fn until_text(&self, text: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let shown = self.text().await;
            if shown.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "the page never contains {text:?}: {shown}");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns the errors that the page has logged since the last call, also those of its content policy.
    pub(crate) async fn take_errors(&self) -> Vec<String> {
        let log = self.send("se/log", json!({ "type": "browser" })).await;
        let entries = log.as_array().expect("a list").iter();
        let errors = entries.filter(|entry| entry["level"] == "SEVERE");
        errors.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Returns what axe-core finds against the rules of WCAG 2.2 AA, and whether the page scrolls sideways.
    pub(crate) async fn violations(&self) -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(AXE);
        let axe = std::fs::read_to_string(&path).expect("axe-core is there: run dev/browser");
        self.evaluate(&axe).await;
        let run = r#"
            const done = arguments[arguments.length - 1];
            const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
            axe.run(document, { runOnly: { type: "tag", values: tags } }).then((result) =>
              done(result.violations.map((found) =>
                `${found.id}: ${found.help}: ${found.nodes.map((node) => node.html).join(" ")}`)));
        "#;
        let found = self.client.execute_async(run, Vec::new()).await.expect("axe-core runs");
        let mut found: Vec<String> = serde_json::from_value(found).expect("texts");
        let root =
            "const root = document.documentElement; return root.scrollWidth > root.clientWidth;";
        if self.evaluate(root).await == json!(true) {
            found.push("the page scrolls sideways".to_owned());
        }
        found
    }

    /// Returns a picture of the whole page, as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        self.client.screenshot().await.expect("a picture")
    }
}
