//! Measures block events: their cost for ingest, the rate of the outbox, the time after a change of many
//! patrons, and summary exports.
//!
//! Arguments choose parts: `ingest`, `sending`, `overdue`, `limit` and `iterations`; the default is all.

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

/// The address of mod-users. No server listens there, because all patron groups are cached.
const UNREACHABLE_URL: &str = "http://127.0.0.1:9";

/// The setting that enables block events.
const PUBLISHING_ON: (&str, &str) = ("BLOCK_EVENTS", "true");

const ALL: [&str; 5] = ["ingest", "sending", "overdue", "limit", "iterations"];

#[tokio::main]
async fn main() {
    logging::init("error".parse().expect("a level"), LogFormat::Text);
    // Cargo passes an argument of its own, which starts with `-`.
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
            other => panic!("unknown part: {other}"),
        }
    }
}
