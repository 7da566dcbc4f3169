//! The command `demo`: plays a day of the library in half a minute and shows some blocked patrons with the
//! reasons.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::HumanCount;
use tokio::time::{Instant, sleep};

use super::options::{self, Broker, LibraryOptions, Pace, ProducerOptions};
use super::{describe, judge, publish};
use crate::blocks::{self, Block, Finding, Rules};
use crate::clock::Clock;
use crate::folio::Folio;
use crate::kafka::{Publisher, create_topics};
use crate::model::{Account, Truth, group_name};
use crate::pause::Pause;
use crate::regulations;
use crate::service::{Judge, Listener, Service, set_up};
use crate::stop::StopSignal;
use crate::terminal::{Progress, print_line};
use crate::wire::{Faults, Play, Wire};

/// The time that the service may take to catch up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(120);

/// The time that the service may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum number of patrons in the table.
const PATRONS_SHOWN_MAX: usize = 8;

/// The time between two progress lines.
const PRINT_INTERVAL: Duration = Duration::from_secs(10);

/// A second run of the demo adds a second library to the tenant. The start time determines all ids, so the
/// first library is unchanged. A new tenant for each run would be no safer, and the service would have to
/// discover its topics each time.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    service: options::Service,
    /// Port of 127.0.0.1 on which to serve the other FOLIO modules; 0 for any free port.
    #[arg(long, default_value_t = 0)]
    http_port: u16,
    /// Seconds that the day takes.
    #[arg(long, default_value_t = 30.0)]
    day_seconds: f64,
    /// Events per second after the day.
    #[arg(long, default_value_t = 1.0)]
    trickle: f64,
    /// Address of the service's console; the demo prints it.
    #[arg(long)]
    console_url: Option<String>,
    #[command(flatten)]
    library: LibraryOptions,
    #[command(flatten)]
    broker: Broker,
    /// Also compare the block events; the service must publish them for the tenant.
    #[arg(long)]
    listen: bool,
    #[command(flatten)]
    producers: ProducerOptions,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut stop = StopSignal::on_signals()?;
    let mut stop_requested = stop.clone();
    tokio::select! {
        done = show(options, &mut stop) => done,
        () = stop_requested.requested() => Ok(ExitCode::SUCCESS),
    }
}

async fn show(options: Options, stop: &mut StopSignal) -> anyhow::Result<ExitCode> {
    let (storage, outbox) = (options.producers.storage_topics, options.producers.storage_outbox);
    let wire = Wire { storage, outbox, ..Wire::new(&options.broker.env, &options.service.tenant) };
    let mut play = Play::new(&options.library.settings()?, &wire, Faults::MODEST);
    let folio = Folio::start(&options.service.tenant, play.truth(), options.http_port)?;
    let service = options.service.connect()?.with_okapi_url(Some(folio.url()));

    // The topics are created first, because the service looks for the topics of a new tenant at once.
    let bootstrap = options.broker.bootstrap();
    create_topics(&bootstrap, &wire.topics(), options.broker.replication_factor).await?;
    let mut publisher = Publisher::new(&bootstrap)?;
    enable_tenant(&service, &play).await?;
    let console = options.console_url.as_deref();
    let console_line = console.map(|url| format!(", console {url}")).unwrap_or_default();
    print_line(format!("ready: {}{console_line}", service.url()));
    play_day(&mut play, &mut publisher, options.day_seconds, (stop, &folio.pause())).await?;

    let judge = Judge::new(service.clone(), Clock::Wall);
    let truth = Arc::new(play.truth().snapshot());
    print_line(
        "Waiting for the service to catch up, then comparing its answer about every patron …",
    );
    let verdict = judge.compare_until(CATCH_UP_TIMEOUT, async || Ok(Arc::clone(&truth))).await?;
    judge::report(&verdict, 10);
    if !verdict.differences.is_empty() {
        bail!("the service did not catch up in {} s", CATCH_UP_TIMEOUT.as_secs());
    }
    show_blocked(&judge, &truth).await?;
    if options.listen {
        let topic = wire.block_events_topic();
        check_block_events(&bootstrap, &topic, &judge, &truth).await?;
    }
    show_commands(&service, &judge, &truth, (console, &folio.url())).await?;
    print_line("Events continue at a low rate until Ctrl-C.");

    let mut printed_at = Instant::now();
    let pace = (options.trickle, &*folio.desk());
    publish::trickle(&mut play, &publisher, pace, stop, |event, play| {
        if printed_at.elapsed() >= PRINT_INTERVAL {
            printed_at = Instant::now();
            print_line(format!("  {}", describe::describe_event(event, &play.truth().read())));
        }
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for the service, enables the tenant and prints the size of the library.
async fn enable_tenant(service: &Service, play: &Play) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    while let Err(error) = service.check_health().await {
        if Instant::now() > deadline {
            return Err(error).context(format!("no service responds at {}", service.url()));
        }
        sleep(Duration::from_millis(200)).await;
    }
    set_up(service, &regulations::rules()).await?;
    print_line(format!(
        "A simulated library, tenant {}: {} patrons in {} groups, with limits for each group.",
        service.tenant(),
        HumanCount(u64::from(play.settings().patrons)),
        crate::model::GROUPS.len()
    ));
    Ok(())
}

async fn play_day(
    play: &mut Play,
    publisher: &mut Publisher,
    day_seconds: f64,
    (stop, pause): (&StopSignal, &Pause),
) -> anyhow::Result<()> {
    print_line(format!(
        "A day takes {day_seconds} s; some records are published twice, late, or out of order …"
    ));
    let mut progress = Progress::start();
    let pace = Pace::day_in(day_seconds);
    let published = publish::all(play, publisher, pace, (stop, pause), &mut progress).await?;
    publisher.flush(Publisher::FLUSH_TIMEOUT).await?;
    progress.finish(&format!("The day is over: {} records published.", HumanCount(published)));
    Ok(())
}

/// Prints some patrons with different blocks: the simulator's reason and the service's message.
async fn show_blocked(judge: &Judge, truth: &Truth) -> anyhow::Result<()> {
    let rules = judge.rules().await?;
    let blocked = blocked(truth, &rules);
    let share = 100 * blocked.len() / truth.accounts().count().max(1);
    print_line(format!("\n{} patrons are blocked, {share} %. Some of them:\n", blocked.len()));
    for (account, findings) in pick(blocked) {
        let patron = &account.patron;
        print_line(format!("  {}, {}", patron.name(), group_name(patron.patron_group)));
        let blocks = judge.blocks(patron.id).await?;
        for finding in &findings {
            let condition = finding.block.patron_block_condition_id;
            let is_cause = |block: &&Block| block.patron_block_condition_id == condition;
            let Some(block) = blocks.iter().find(is_cause) else { continue };
            print_line(format!(
                "    {}: {}",
                describe::describe_actions(block),
                describe::describe_reason(finding)
            ));
            print_line(format!("      message at the desk: \"{}\"", block.message));
        }
    }
    Ok(())
}

/// Consumes the block events and compares them with the service's answers.
async fn check_block_events(
    bootstrap: &str,
    topic: &str,
    judge: &Judge,
    truth: &Truth,
) -> anyhow::Result<()> {
    let patrons = truth.accounts().map(|account| account.patron.id).collect();
    let (mut listener, deadline) = (Listener::default(), Instant::now() + CATCH_UP_TIMEOUT);
    loop {
        listener.consume(bootstrap, topic)?;
        let differing = listener.differing_patrons(judge, &patrons).await?;
        if differing.is_empty() {
            print_line(format!(
                "\nBlock events in the Kafka topic {topic}: {listener}.\nFor every patron, the block events \
                 contain the same blocks as the API."
            ));
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the block events of {} patrons differ from the API", differing.len());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

type BlockedPatron<'a> = (&'a Account, Vec<Finding>);

fn blocked<'a>(truth: &'a Truth, rules: &Rules) -> Vec<BlockedPatron<'a>> {
    let now = Clock::Wall.now();
    let found = truth.accounts().map(|account| (account, blocks::for_account(account, rules, now)));
    found.filter(|(_, findings)| !findings.is_empty()).collect()
}

/// Returns some blocked patrons, one per reason in turn. Within a reason, patrons with few findings and
/// recent events are first.
fn pick(blocked: Vec<BlockedPatron<'_>>) -> Vec<BlockedPatron<'_>> {
    let mut by_reason: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for patron in blocked {
        let reason = patron.1[0].block.patron_block_condition_id;
        by_reason.entry(reason).or_default().push(patron);
    }
    for patrons in by_reason.values_mut() {
        patrons.sort_by_key(|(account, findings)| (Reverse(findings.len()), account.changed));
    }
    let mut picked = vec![];
    while picked.len() < PATRONS_SHOWN_MAX && by_reason.values().any(|patrons| !patrons.is_empty())
    {
        picked.extend(by_reason.values_mut().filter_map(Vec::pop));
    }
    picked.truncate(PATRONS_SHOWN_MAX);
    picked
}

/// Prints commands with which the reader can query the service, and change what it responds.
async fn show_commands(
    service: &Service,
    judge: &Judge,
    truth: &Truth,
    (console, folio): (Option<&str>, &str),
) -> anyhow::Result<()> {
    let rules = judge.rules().await?;
    let Some((account, _)) = pick(blocked(truth, &rules)).into_iter().next() else {
        return Ok(());
    };
    let (id, name) = (account.patron.id, account.patron.name());
    print_line(format!("\nCommands to query the service about {name}:\n"));
    for path in [
        format!("/automated-patron-blocks/{id}"),
        format!("/user-summary/{id}"),
        "/patron-block-limits?limit=100".to_owned(),
    ] {
        let (tenant, url) = (service.tenant(), service.url());
        print_line(format!("  curl -s -H 'X-Okapi-Tenant: {tenant}' '{url}{path}'"));
    }
    if let Some(url) = console {
        let tenant = service.tenant();
        print_line(format!("\nThe desk page of {name}:\n\n  {url}/tenants/{tenant}/desk/{id}"));
    }
    print_line(
        "\nReturn an item, or pay a fee or fine, by an id of that page. The page changes by itself:\n",
    );
    for path in ["loans/LOAN/check-in", "fees-fines/FEE/pay"] {
        print_line(format!("  curl -s -X POST '{folio}/simulator/{path}'"));
    }
    print_line("");
    Ok(())
}
