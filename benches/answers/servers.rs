//! The measured servers: the release binary, and a handler with a constant response.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use actix_web::{App, HttpResponse, HttpServer, web};
use patron_blocks::config::Login;

use crate::fixture::{TENANT, engines::variable};

/// The running service, stopped on drop.
pub(crate) struct Service {
    process: Child,
    pub(crate) port: u16,
    pub(crate) console_port: u16,
}

impl Service {
    /// Starts the service with this many database connections, and waits until it is ready.
    pub(crate) async fn start(login: &Login, environment: &str, connections: u32) -> Self {
        Self::start_with(login, environment, connections, &[]).await
    }

    /// Starts the service with further settings.
    pub(crate) async fn start_with(
        login: &Login,
        environment: &str,
        connections: u32,
        settings: &[(&str, &str)],
    ) -> Self {
        let (port, console_port) = (free_port(), free_port());
        let process = Command::new(env!("CARGO_BIN_EXE_mod-patron-blocks"))
            .arg("serve")
            .env("DB_HOST", &login.host)
            .env("DB_PORT", login.port.to_string())
            .env("DB_DATABASE", &login.database)
            .env("DB_MAXPOOLSIZE", connections.to_string())
            .env("KAFKA_HOST", variable("KAFKA_HOST"))
            .env("HTTP_ADDRESS", "127.0.0.1")
            .env("HTTP_PORT", port.to_string())
            .env("CONSOLE_PORT", console_port.to_string())
            .env("ENV", environment)
            // Without `OKAPI_URL`, the service calls the gateway that the request names.
            .env_remove("OKAPI_URL")
            // The patron groups are cached, so the measurement excludes calls to mod-users.
            .env("PATRON_GROUP_TTL_SECONDS", "86400")
            .env("PATRON_GROUP_STALE_SECONDS", "86400")
            .env("LOG_LEVEL", "error")
            .envs(settings.iter().copied())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the service starts");
        let service = Self { process, port, console_port };
        service.ready().await;
        service
    }

    /// Returns the peak memory of the process in MiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("the service runs");
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a number");
        most.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    }

    /// Waits until evaluations of the tenant are certain, because the service has compared its positions with the log.
    pub(crate) async fn until_certain(&self) {
        let url = format!("http://127.0.0.1:{}/patron-blocks/certainty", self.port);
        let mut poll = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..600 {
            poll.tick().await;
            let request = reqwest::Client::new().get(&url).header("X-Okapi-Tenant", TENANT);
            let response = request.send().await.expect("the service responds");
            let body = response.text().await.expect("a body");
            let found: serde_json::Value = serde_json::from_str(&body).expect("the body is JSON");
            if found["state"] == "certain" {
                return;
            }
        }
        panic!("the evaluations are not certain after 30 s");
    }

    async fn ready(&self) {
        let url = format!("http://127.0.0.1:{}/admin/ready", self.port);
        let mut poll = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..600 {
            poll.tick().await;
            if reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
        }
        panic!("the service is not ready after 30 s");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process.kill().expect("the process belongs to the bench");
        self.process.wait().expect("the service stops");
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Starts a server with a constant body of the size of an answer and one thread per core. Returns the port.
pub(crate) fn constant() -> u16 {
    const BODY: &str = r#"{"automatedPatronBlocks":[{"patronBlockConditionId":"3d7c52dc-c732-4223-8bf8-e5917801386f","blockBorrowing":true,"blockRenewals":true,"blockRequests":true,"message":"Too many"}]}"#;
    let port = free_port();
    let answer = || async { HttpResponse::Ok().content_type("application/json").body(BODY) };
    let app = move || App::new().default_service(web::to(answer));
    let server = HttpServer::new(app).workers(2).bind(("127.0.0.1", port)).expect("a port").run();
    tokio::spawn(server);
    port
}
