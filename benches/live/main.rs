//! The service as it runs: records through a real broker, the consumer and its lanes into a real
//! database, beside the floor of bare SQL, in one run on one machine.
//!
//! Arguments choose parts: `ingest`, `visible` and `patron` run where none is given; `backlog` (a
//! million records waiting for the released binary) and `growth` (a million patrons) take minutes.

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
    // Cargo has an argument of its own.
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
            other => panic!("there is no part {other}"),
        }
    }
}
