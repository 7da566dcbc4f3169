//! The command `listen`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{options, play};
use crate::clock::Clock;
use crate::folio::Folio;
use crate::service::{Judge, Listener};
use crate::terminal::print_line;
use crate::wire::{SharedTruth, Wire};

/// The time between two comparisons.
const RETRY_DELAY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    service: options::Service,
    #[command(flatten)]
    broker: options::Broker,
    /// The truth: a file that `play` has written.
    #[arg(long)]
    truth: String,
    /// Repeat the comparison until there is no difference, for this many seconds at most.
    #[arg(long, default_value_t = 0)]
    wait: u64,
    /// Port of 127.0.0.1 on which to serve the other FOLIO modules meanwhile; 0 for any free port.
    #[arg(long)]
    http_port: Option<u16>,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let truth = play::read_truth(Path::new(&options.truth))?;
    let patrons: BTreeSet<Uuid> = truth.accounts().map(|account| account.patron.id).collect();
    let folio =
        play::start_folio(options.http_port, &options.service.tenant, SharedTruth::new(truth))?;
    let service = options.service.connect()?.with_okapi_url(folio.as_ref().map(Folio::url));
    let judge = Judge::new(service, Clock::Wall);
    let topic = Wire::new(&options.broker.env, &options.service.tenant).block_events_topic();
    let (bootstrap, deadline) =
        (options.broker.bootstrap(), Instant::now() + Duration::from_secs(options.wait));
    let mut listener = Listener::default();
    loop {
        listener.consume(&bootstrap, &topic).context("the block events cannot be read")?;
        let differing = listener.differing_patrons(&judge, &patrons).await?;
        if differing.is_empty() || Instant::now() >= deadline {
            for patron in differing.iter().take(20) {
                print_line(format!("{patron}: the API returns other blocks"));
            }
            for problem in listener.problems.iter().take(20) {
                print_line(problem);
            }
            let wrong = differing.len();
            print_line(format!(
                "listener: {listener}; {} patrons compared, {wrong} differences",
                patrons.len()
            ));
            let is_right = differing.is_empty() && listener.problems.is_empty();
            return Ok(ExitCode::from(u8::from(!is_right)));
        }
        sleep(RETRY_DELAY).await;
    }
}
