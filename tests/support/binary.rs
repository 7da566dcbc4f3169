//! The real binary as its own process, for actions that an instance in the test process does not allow.

use std::process::{Child, Command, ExitStatus, Stdio};

use patron_blocks::config::GroupProtocol;

use crate::support::world::World;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_mod-patron-blocks");

/// A process that is killed at the end of its story, whatever the result.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// Returns the binary's command, with the world's database and broker as its only environment.
fn command(world: &World) -> Command {
    let database = &world.config.database.login;
    let kafka = &world.config.kafka;
    let mut command = Command::new(BINARY);
    command
        .env_clear()
        .env("DB_HOST", &database.host)
        .env("DB_PORT", database.port.to_string())
        .env("DB_USERNAME", &database.username)
        .env("DB_PASSWORD", &database.password)
        .env("DB_DATABASE", &database.database)
        .env("KAFKA_HOST", &kafka.broker_host)
        .env("KAFKA_PORT", kafka.broker_port.to_string())
        .env("ENV", world.log.environment());
    command
}

/// Runs an operator command, and returns its exit code and its output.
pub(crate) fn run_cli(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = command(world).args(arguments).env("LOG_LEVEL", "warn").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout) + &text(output.stderr))
}

/// Starts the service with only the settings of a deployment in its environment.
pub(crate) fn serve(world: &World) -> Process {
    serve_on_port(world, 0)
}

/// Like [`serve`], on a known port.
pub(crate) fn serve_on_port(world: &World, port: u16) -> Process {
    let kafka = &world.config.kafka;
    let protocol = match kafka.group_protocol {
        GroupProtocol::Classic => "classic",
        GroupProtocol::Consumer => "consumer",
    };
    let process = command(world)
        .arg("serve")
        .env("KAFKA_GROUP_PROTOCOL", protocol)
        .env("HTTP_ADDRESS", "127.0.0.1")
        .env("HTTP_PORT", port.to_string())
        .env("OKAPI_URL", world.users.url())
        .env("KAFKA_CONSUMER_SESSION_TIMEOUT_MS", "3000")
        .env("KAFKA_CONSUMER_HEARTBEAT_INTERVAL_MS", "300")
        // A transaction of a frozen process ends after this time.
        .env("DB_QUERYTIMEOUT", "20000")
        .env("LOG_LEVEL", "error")
        .stdout(Stdio::null())
        .spawn();
    Process(process.unwrap())
}

/// Returns the peak memory of the process, in MiB.
pub(crate) fn peak_memory(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

pub(crate) async fn wait_for_exit(mut process: Process) -> ExitStatus {
    tokio::task::spawn_blocking(move || process.0.wait()).await.unwrap().unwrap()
}

pub(crate) fn signal(process: &Process, name: &str) {
    let id = process.0.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}
