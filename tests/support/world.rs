//! The world of a story: the real service in this process, with its own database and topics on the
//! shared engines. A stub replaces mod-users.

use std::{collections::HashMap, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use patron_blocks::{
    app::{self, RunningService},
    clock::Clock,
    config::{
        ApprovalThreshold, BadRecordLimit, BlockEventsConfig, BreakerLimits, Config,
        DatabaseConfig, DatabaseFailureMode, GatewayMode, GroupProtocol, HousekeepingConfig,
        KafkaConfig, LogConfig, Login, OkapiConfig, RebuildConfig, SecurityConfig,
    },
    event::{Kind, TenantId},
    logging::{self, LogFormat},
    store::{Db, Schema, state::patrons},
};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{
    engines::variable,
    http_client,
    log::Log,
    proxy::Proxy,
    sign_in_console::local_console,
    story_database::{pool, with_database},
    users_stub::UsersStub,
};

/// The longest wait for a state. Every state is reached far earlier.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The tenant of every story.
pub(crate) const TENANT: &str = "northlib";

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) users: UsersStub,
    /// The proxy between the service and the database of the service.
    pub(crate) proxy: Proxy,
    pub(crate) log: Log,
    /// A pool of the story itself, which bypasses `proxy`.
    pub(crate) db: Db,
    pub(crate) schema: Schema,
    http: reqwest::Client,
    instances: Vec<RunningService>,
    url: String,
}

/// The schema of every story's tenant.
pub(crate) fn tenant_schema() -> Schema {
    Schema::of(&TenantId::parse(TENANT).expect("a tenant id"))
}

/// Returns the position of each partition of the tenant's topics.
pub(crate) async fn positions(db: &Db, schema: &Schema) -> HashMap<(String, i32), i64> {
    let sql =
        format!("select topic, partition, next_offset from {}.ingest_position", schema.name());
    let rows: Vec<(String, i32, i64)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(db).await.expect("positions");
    rows.into_iter().map(|(topic, partition, next)| ((topic, partition), next)).collect()
}

/// Waits until `reached` returns `true`; panics after [`WAIT_TIMEOUT`].
pub(crate) async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let wait = async {
        while !reached().await {
            interval.tick().await;
        }
    };
    assert!(
        tokio::time::timeout(WAIT_TIMEOUT, wait).await.is_ok(),
        "timed out while waiting until {what}"
    );
}

impl World {
    /// Runs a story with the tenant enabled, then checks the invariants of every story.
    pub(crate) async fn run(story: impl AsyncFnOnce(&mut World)) {
        Self::run_with_protocol(GroupProtocol::Classic, story).await;
    }

    /// Like [`World::run`], in a group with this protocol.
    pub(crate) async fn run_with_protocol(
        protocol: GroupProtocol,
        story: impl AsyncFnOnce(&mut World),
    ) {
        Self::run_with(|config| config.kafka.group_protocol = protocol, story).await;
    }

    /// Like [`World::run`], with other settings.
    pub(crate) async fn run_with(
        configure: impl FnOnce(&mut Config),
        story: impl AsyncFnOnce(&mut World),
    ) {
        with_database(async |login| {
            let mut world = Self::new(login).await;
            configure(&mut world.config);
            world.start().await;
            world.enable().await;
            let outcome = AssertUnwindSafe(story(&mut world)).catch_unwind().await;
            let checked = AssertUnwindSafe(async {
                if outcome.is_ok() {
                    world.check_invariants().await;
                }
            });
            let checked = checked.catch_unwind().await;
            world.shutdown().await;
            outcome.and(checked).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        })
        .await;
    }

    async fn new(login: Login) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "STORY_LOG selects the log of a single story"
        )]
        if let Ok(filter) = std::env::var("STORY_LOG") {
            let filter = filter.parse().expect("STORY_LOG has directives such as debug");
            logging::init(filter, LogFormat::Text);
        }
        let users = UsersStub::start();
        let wire = Proxy::start(format!("{}:{}", login.host, login.port)).await;
        let environment = format!("story-{}", Uuid::new_v4().simple());
        let (broker_host, broker_port) = (variable("KAFKA_HOST"), variable("KAFKA_PORT"));
        let log = Log::new(&format!("{broker_host}:{broker_port}"), &environment).await;
        let proxied = Login { host: "127.0.0.1".to_owned(), port: wire.port(), ..login.clone() };
        let config = Config {
            database: DatabaseConfig {
                login: proxied,
                max_connections: 5,
                statement_timeout: Duration::from_secs(3),
            },
            kafka: KafkaConfig {
                broker_host,
                broker_port: broker_port.parse().expect("KAFKA_PORT is a port"),
                env: environment,
                pubsub_topics: false,
                security: SecurityConfig::default(),
                session_timeout: Duration::from_secs(6),
                heartbeat_interval: Duration::from_millis(300),
                metadata_max_age: Duration::from_secs(5),
                group_protocol: GroupProtocol::Classic,
                prefetch_kib: 8192,
                buffer_kib: 16_384,
                batch_records_max: 2000,
                writers: 2,
                bad_record_limit: BadRecordLimit { consecutive: 100, per_window: 500 },
            },
            http_address: std::net::Ipv4Addr::LOCALHOST.into(),
            http_port: 0,
            console: local_console(),
            http_workers: 1,
            shutdown_delay: Duration::from_millis(100),
            okapi: OkapiConfig {
                okapi_url: Some(users.url()),
                okapi_gateway: GatewayMode::Auto,
                users_timeout: Duration::from_millis(300),
                patron_group_ttl: chrono::TimeDelta::zero(),
                patron_group_stale: chrono::TimeDelta::zero(),
                patron_group_fallback: chrono::TimeDelta::days(1),
                breaker: BreakerLimits {
                    failure_threshold: 5,
                    open_duration: Duration::from_millis(500),
                },
                pubsub_registration: false,
            },
            on_database_failure: DatabaseFailureMode::Open,
            metrics_by_tenant: true,
            housekeeping: HousekeepingConfig {
                inbox_retention: chrono::TimeDelta::days(30),
                tombstone_retention: chrono::TimeDelta::days(60),
                dead_letter_retention: chrono::TimeDelta::days(90),
                dead_letters_max: 1000,
                dead_letters_bytes_max: 1 << 30,
                interval: Duration::from_secs(3600),
                step_pause: Duration::from_millis(10),
                outbox_retention: chrono::TimeDelta::days(1),
            },
            rebuild: RebuildConfig {
                db_share_percent: 100,
                buffer_bytes: 1 << 20,
                concurrency: 2,
                page_timeout: Duration::from_millis(1500),
                approval_threshold: ApprovalThreshold { percent: 25, count: 20 },
            },
            block_events: BlockEventsConfig {
                enabled: false,
                approaching_percent: 0,
                db_share_percent: 100,
                partitions: 2,
                replication: 1,
                collection: None,
                overdue_after: Duration::from_secs(2),
            },
            log: LogConfig { level: "info".to_owned(), format: LogFormat::Text },
        };
        Self {
            config,
            users,
            proxy: wire,
            log,
            db: pool(&login),
            schema: tenant_schema(),
            // The service closes a connection after five idle seconds. The client drops idle connections
            // earlier.
            http: http_client::builder()
                .pool_idle_timeout(Duration::from_secs(2))
                .build()
                .expect("a client"),
            instances: Vec::new(),
            url: String::new(),
        }
    }

    /// Starts one more instance, which receives all later requests, and waits until it is ready.
    pub(crate) async fn start(&mut self) {
        self.start_with_clock(Clock::system()).await;
    }

    /// Like [`World::start`], with this clock.
    pub(crate) async fn start_with_clock(&mut self, clock: Clock) {
        self.start_unready_with_clock(clock).await;
        self.until("the service is ready", async |world: &Self| {
            world.get("/admin/ready").await.0 == 200
        })
        .await;
    }

    /// Like [`World::start`], without a wait for readiness.
    pub(crate) async fn start_unready(&mut self) {
        self.start_unready_with_clock(Clock::system()).await;
    }

    /// Like [`World::start_unready`], with this clock.
    pub(crate) async fn start_unready_with_clock(&mut self, clock: Clock) {
        let running = app::start(&self.config, clock).await.expect("the service starts");
        self.url = format!("http://127.0.0.1:{}", running.port);
        self.instances.push(running);
    }

    /// Stops all instances as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        for running in self.instances.drain(..) {
            running.stop().await;
        }
    }

    /// Stops the oldest running instance.
    pub(crate) async fn stop_oldest(&mut self) {
        self.instances.remove(0).stop().await;
    }

    /// Returns the number of partitions that each instance reads, the oldest instance first.
    pub(crate) async fn partitions_read(&self) -> Vec<u64> {
        let reading = async |running: &RunningService| {
            let url = format!("http://127.0.0.1:{}/admin/ready", running.port);
            let (_, body) = self.send(self.http.get(url)).await;
            let readiness: Value = serde_json::from_str(&body).expect("the body is JSON");
            readiness["kafka"]["partitions"]["reading"].as_u64().expect("a number")
        };
        futures_util::future::join_all(self.instances.iter().map(reading)).await
    }

    /// Enables the tenant, waits until its initial fill ends, and returns the tenant job.
    pub(crate) async fn enable(&self) -> Value {
        let (status, body) =
            self.post("/_/tenant", &json!({ "module_to": "mod-patron-blocks-2.0.0" })).await;
        assert_eq!(status, 201, "{body}");
        let job: Value = serde_json::from_str(&body).expect("the body is JSON");
        let id = job["id"].as_str().expect("an id");
        let job = self.get_json(&format!("/_/tenant/{id}?wait=60000")).await;
        assert_eq!((&job["complete"], job.get("error")), (&json!(true), None), "{job}");
        self.until("the initial fill ends", async |world: &Self| {
            world.get_json("/patron-blocks/ingest").await["knowledge"] != "filling"
        })
        .await;
        job
    }

    async fn shutdown(mut self) {
        self.stop().await;
        self.log.delete_topics().await;
        self.db.close().await;
    }

    /// Checks the invariants of every story: counters equal a recount, and no dead letters or incidents
    /// remain.
    async fn check_invariants(&self) {
        // After a slow period, the service resolves the tenant's incident shortly after it has read the
        // delayed records.
        let unusable = "select count(*) from mod_patron_blocks.incident
                         where kind = 'tenant_unusable' and resolved_at is null";
        self.until("no tenant has unwritable tables", async |w: &Self| {
            w.count(unusable).await == 0
        })
        .await;
        let wrong = patrons::list_drifted(&self.db, &self.schema)
            .await
            .expect("the counters can be recounted");
        assert!(wrong.is_empty(), "the counters of {wrong:?} differ from a recount");
        assert_eq!(self.dead_letters().await, [""; 0], "the story left dead letters");
        assert_eq!(self.take_incidents().await, [""; 0], "the story left open incidents");
    }

    pub(crate) async fn until(&self, what: &str, mut reached: impl AsyncFnMut(&Self) -> bool) {
        until(what, async || reached(self).await).await;
    }

    /// Publishes a payload as a record without an envelope.
    pub(crate) async fn publish(&self, kind: Kind, payload: &Value) {
        self.log.publish(kind, payload.to_string().as_bytes()).await;
    }

    /// Waits until every record published so far is durable.
    pub(crate) async fn until_committed(&self) {
        let ends = self.log.end_offsets();
        self.until("the positions reach the ends of the log", async |world: &Self| {
            let reached = world.positions().await;
            ends.iter().all(|(at, end)| reached.get(at).is_some_and(|next| next >= end))
        })
        .await;
    }

    async fn positions(&self) -> HashMap<(String, i32), i64> {
        positions(&self.db, &self.schema).await
    }

    async fn dead_letters(&self) -> Vec<String> {
        let sql = format!(
            "select reason from {}.dead_letter union all select reason from mod_patron_blocks.dead_letter",
            self.schema.name(),
        );
        let mut reasons: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&self.db).await.expect("dead letters");
        reasons.sort();
        reasons
    }

    /// Deletes all dead letters and returns their reasons.
    pub(crate) async fn take_dead_letters(&self) -> Vec<String> {
        let reasons = self.dead_letters().await;
        for schema in [self.schema.name(), "mod_patron_blocks"] {
            let sql = format!("delete from {schema}.dead_letter");
            sqlx::query(AssertSqlSafe(sql))
                .execute(&self.db)
                .await
                .expect("dead letters can be deleted");
        }
        reasons
    }

    /// Resolves all open incidents and returns their kinds.
    pub(crate) async fn take_incidents(&self) -> Vec<String> {
        let sql = "update mod_patron_blocks.incident set resolved_at = now(), resolved_by = 'story'
                    where resolved_at is null returning kind";
        let mut kinds: Vec<String> =
            sqlx::query_scalar(sql).fetch_all(&self.db).await.expect("incidents");
        kinds.sort();
        kinds
    }

    /// Executes SQL on the tables directly, without the service.
    pub(crate) async fn execute_sql(&self, sql: &str) {
        let sql = sql.replace("{schema}", self.schema.name());
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&self.db)
            .await
            .expect("the SQL statement succeeds");
    }

    /// Returns one number from the tenant's tables.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let sql = sql.replace("{schema}", self.schema.name());
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.db).await.expect("a number")
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.send(self.http.get(self.url_of(path))).await
    }

    /// Returns the JSON of a successful response.
    pub(crate) async fn get_json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("the body is JSON")
    }

    /// Returns the JSON of a successful response, or null for status 404.
    pub(crate) async fn get_json_or_null(&self, path: &str) -> Value {
        match self.get(path).await {
            (404, _) => Value::Null,
            (_, body) => serde_json::from_str(&body).expect("the body is JSON"),
        }
    }

    /// Returns the JSON of a response with any status.
    pub(crate) async fn get_json_any_status(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.1).expect("the body is JSON")
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, String) {
        self.send(self.http.post(self.url_of(path)).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> (u16, String) {
        self.send(self.http.put(self.url_of(path)).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, String) {
        self.send(self.http.delete(self.url_of(path))).await
    }

    /// Returns a request with the headers for tenant and gateway.
    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url_of(path))
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the address of the newest instance's console port.
    pub(crate) fn console_url(&self) -> String {
        let running = self.instances.last().expect("an instance");
        format!("http://127.0.0.1:{}/", running.console_port.expect("a console"))
    }

    /// Directs all later requests to the instance at this address.
    pub(crate) fn use_instance(&mut self, url: &str) {
        url.clone_into(&mut self.url);
    }

    fn url_of(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> (u16, String) {
        let request =
            request.header("X-Okapi-Tenant", TENANT).header("X-Okapi-Url", self.users.url());
        let response = request.send().await.expect("the service responds");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    /// Returns the answer source of an evaluation, from its header.
    pub(crate) async fn evaluation_source(&self, user: Uuid) -> String {
        self.evaluate_through(&self.users.url(), user).await.0
    }

    /// Returns the answer source and the number of blocks, for a request that names this gateway.
    pub(crate) async fn evaluate_through(&self, gateway: &str, user: Uuid) -> (String, usize) {
        let path = format!("/automated-patron-blocks/{user}");
        let request = self.request(reqwest::Method::GET, &path).header("X-Okapi-Tenant", TENANT);
        let response = request.header("X-Okapi-Url", gateway).send().await;
        let response = response.expect("the service responds");
        assert_eq!(response.status(), 200);
        let source = response.headers()["X-Patron-Blocks-Basis"].to_str().expect("text").to_owned();
        let body: Value = response.json().await.expect("the body is JSON");
        (source, body["automatedPatronBlocks"].as_array().expect("a list").len())
    }

    /// Returns the three flags of each of a patron's blocks.
    pub(crate) async fn block_flags(&self, user: Uuid) -> Vec<[bool; 3]> {
        let body = self.get_json(&format!("/automated-patron-blocks/{user}")).await;
        let flag = |block: &Value, name: &str| block[name].as_bool().expect("a flag");
        let blocks = body["automatedPatronBlocks"].as_array().expect("a list");
        let flags =
            |block| ["blockBorrowing", "blockRenewals", "blockRequests"].map(|f| flag(block, f));
        blocks.iter().map(flags).collect()
    }

    /// Makes a condition block every action, adds a limit for a group, and returns the limit.
    pub(crate) async fn add_limit(
        &self,
        group: Uuid,
        measure: patron_blocks::blocks::Measure,
        value: f64,
    ) -> Value {
        let id = measure.condition_id();
        let path = format!("/patron-block-conditions/{id}");
        let mut condition = self.get_json(&path).await;
        for flag in ["blockBorrowing", "blockRenewals", "blockRequests"] {
            condition[flag] = json!(true);
        }
        condition["message"] = json!(format!("{} reached", measure.name()));
        assert_eq!(self.put(&path, &condition).await.0, 204);
        let limit = json!({
            "id": Uuid::new_v4(), "patronGroupId": group, "conditionId": id, "value": value,
        });
        assert_eq!(self.post("/patron-block-limits", &limit).await.0, 201);
        limit
    }
}
