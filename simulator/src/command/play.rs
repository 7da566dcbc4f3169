//! The commands `play` and `serve`.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::HumanCount;
use tokio::time::sleep;

use super::options::{Broker, FaultOptions, FormatOptions, LibraryOptions, ProducerOptions, Speed};
use super::publish;
use crate::desk::Desk;
use crate::folio::Folio;
use crate::kafka::{Publisher, create_topics};
use crate::model::Truth;
use crate::pause::Pause;
use crate::stop::StopSignal;
use crate::terminal::{Progress, per_second, print_line};
use crate::wire::{Play, SharedTruth};

/// The time to wait for acknowledgements after a signal.
const SHUTDOWN_FLUSH_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The tenant.
    #[arg(long, default_value = "northlib")]
    tenant: String,
    /// File to which the truth is written at the end.
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Port of 127.0.0.1 on which to serve the other FOLIO modules; 0 for any free port.
    #[arg(long)]
    http_port: Option<u16>,
    /// After the last day, publish this many events per second in real time until a signal.
    #[arg(long)]
    trickle: Option<f64>,
    #[command(flatten)]
    library: LibraryOptions,
    #[command(flatten)]
    broker: Broker,
    #[command(flatten)]
    format: FormatOptions,
    #[command(flatten)]
    producers: ProducerOptions,
    #[command(flatten)]
    faults: FaultOptions,
    #[command(flatten)]
    speed: Speed,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let stop = StopSignal::on_signals()?;
    let mut stop_requested = stop.clone();
    tokio::select! {
        done = publish_days(options, stop) => done.map(|()| ExitCode::SUCCESS),
        () = async { stop_requested.requested().await; sleep(SHUTDOWN_FLUSH_TIMEOUT).await } => {
            bail!("stopped before Kafka acknowledged every record: the truth is not written")
        }
    }
}

async fn publish_days(options: Options, mut stop: StopSignal) -> anyhow::Result<()> {
    let wire = options.format.wire(&options.broker.env, &options.tenant, &options.producers);
    let mut play = Play::new(&options.library.settings()?, &wire, options.faults.faults());
    let folio = start_folio(options.http_port, &options.tenant, play.truth())?;
    let pause = folio.as_ref().map_or_else(|| Arc::new(Pause::default()), Folio::pause);
    let desk = folio.as_ref().map_or_else(|| Arc::new(Desk::default()), Folio::desk);

    let bootstrap = options.broker.bootstrap();
    create_topics(&bootstrap, &wire.topics(), options.broker.replication_factor).await?;
    let mut publisher = Publisher::new(&bootstrap)?;
    let mut progress = Progress::start();
    let pace = options.speed.pace();
    let published =
        publish::all(&mut play, &mut publisher, pace, (&stop, &pause), &mut progress).await?;
    let acknowledged = publisher.flush(Publisher::FLUSH_TIMEOUT).await?;
    let elapsed = progress.elapsed();
    progress.finish(&format!(
        "played: {published} records published, {acknowledged} acknowledged, in {:.1} s, {}/s",
        elapsed.as_secs_f64(),
        HumanCount(per_second(acknowledged, elapsed))
    ));
    write_truth(options.truth.as_deref(), &play)?;

    if let Some(rate) = options.trickle {
        publish::trickle(&mut play, &publisher, (rate, &desk), &mut stop, |_, _| {}).await?;
        publisher.flush(SHUTDOWN_FLUSH_TIMEOUT).await?;
        write_truth(options.truth.as_deref(), &play)?;
    }
    Ok(())
}

/// Starts the HTTP server if a port is given, and prints its address.
pub(super) fn start_folio(
    port: Option<u16>,
    tenant: &str,
    truth: SharedTruth,
) -> anyhow::Result<Option<Folio>> {
    let Some(port) = port else { return Ok(None) };
    let folio = Folio::start(tenant, truth, port)?;
    print_line(format!("the other FOLIO modules listen at {}", folio.url()));
    Ok(Some(folio))
}

fn write_truth(path: Option<&Path>, play: &Play) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let describe = || format!("the truth cannot be written to {}", path.display());
    let file = File::create(path).with_context(describe)?;
    serde_json::to_writer(BufWriter::new(file), &play.truth().snapshot()).with_context(describe)
}

/// Reads the truth that a play has written.
pub(super) fn read_truth(path: &Path) -> anyhow::Result<Truth> {
    let text = std::fs::read(path);
    let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} does not contain the truth of a play", path.display()))
}

#[derive(Debug, Args)]
pub(super) struct ServeOptions {
    /// File with the truth of a play.
    #[arg(long)]
    truth: PathBuf,
    /// The tenant.
    #[arg(long, default_value = "northlib")]
    tenant: String,
    /// Port of 127.0.0.1; 0 for any free port.
    #[arg(long, default_value_t = 0)]
    http_port: u16,
}

pub(super) async fn serve(options: ServeOptions) -> anyhow::Result<ExitCode> {
    let mut stop = StopSignal::on_signals()?;
    let truth = SharedTruth::new(read_truth(&options.truth)?);
    let _folio = start_folio(Some(options.http_port), &options.tenant, truth)?;
    stop.requested().await;
    Ok(ExitCode::SUCCESS)
}
