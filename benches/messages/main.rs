//! Telling others: what it costs ingest, how fast messages leave, how long until all are told of what concerns
//! many, and iterations.
//!
//! Arguments choose parts, all of them where none is given: `ingest`, `sending`, `overdue`, `limit` and
//! `iterations`.

#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../evaluation_load.rs"]
mod evaluation_load;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../answers/library.rs"]
mod library;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../live/log.rs"]
mod log;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../answers/servers.rs"]
mod servers;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../live/service.rs"]
mod service;

mod bulk_changes;
mod ingest;
mod outbox_throughput;
mod summary_exports;
mod topic;

use patron_blocks::logging::{self, LogFormat};

/// Who is asked for patron groups: nobody, as all are known.
const UNREACHABLE_URL: &str = "http://127.0.0.1:9";

/// With this others are told.
const PUBLISHING_ON: (&str, &str) = ("BLOCK_EVENTS", "true");

const ALL: [&str; 5] = ["ingest", "sending", "overdue", "limit", "iterations"];

#[tokio::main]
async fn main() {
    logging::init("error".parse().expect("a level"), LogFormat::Text);
    // Cargo has an argument of its own.
    let mut parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if parts.is_empty() {
        parts.extend(ALL.map(str::to_owned));
    }
    for part in parts {
        match &*part {
            "ingest" => ingest::measure().await,
            "sending" => outbox_throughput::measure().await,
            "overdue" => bulk_changes::overdue().await,
            "limit" => bulk_changes::limit().await,
            "iterations" => summary_exports::measure().await,
            other => panic!("there is no part {other}"),
        }
    }
}
