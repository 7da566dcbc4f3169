//! Measures the running service: records pass a real broker, the consumer and its lanes into a real
//! database. The floor of bare SQL runs on the same machine in the same run.
//!
//! Arguments choose parts; the default is `ingest`, `visible` and `patron`. `backlog` (a million records
//! waiting for the release binary) and `growth` (a million patrons) take minutes.

#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../floor.rs"]
mod floor;

mod backlog;
mod event_latency;
mod growth;
mod ingest;
mod log;
mod patron;
mod service;

use patron_blocks::logging::{self, LogFormat};

const SHORT: [&str; 3] = ["ingest", "visible", "patron"];

#[tokio::main]
async fn main() {
    logging::init("error".parse().expect("a level"), LogFormat::Text);
    // Cargo passes an argument of its own, which starts with `-`.
    let mut parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if parts.is_empty() {
        parts.extend(SHORT.map(str::to_owned));
    }
    for part in parts {
        match &*part {
            "ingest" => ingest::measure().await,
            "visible" => event_latency::measure().await,
            "patron" => patron::measure().await,
            "backlog" => backlog::measure().await,
            "growth" => growth::measure().await,
            other => panic!("unknown part: {other}"),
        }
    }
}
