//! `play` and `serve`.

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

use super::options::{Broker, Speed, Story, Tellers, Weather, Writing};
use super::publish;
use crate::console::{Progress, per_second, say};
use crate::folio::Folio;
use crate::kafka::{Publisher, create_topics};
use crate::model::Truth;
use crate::pause::Pause;
use crate::stop::Stop;
use crate::wire::{Play, SharedTruth};

/// How long acknowledgements are waited for after a signal.
const PATIENCE_AT_STOP: Duration = Duration::from_secs(8);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The tenant.
    #[arg(long, default_value = "northlib")]
    tenant: String,
    /// Where to write the truth in the end.
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Stand in for the rest of FOLIO on this port of 127.0.0.1; 0 for any that is free.
    #[arg(long)]
    http_port: Option<u16>,
    /// Go on after the last day with so many events per second, in real time, until a signal.
    #[arg(long)]
    trickle: Option<f64>,
    #[command(flatten)]
    story: Story,
    #[command(flatten)]
    broker: Broker,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    tellers: Tellers,
    #[command(flatten)]
    weather: Weather,
    #[command(flatten)]
    speed: Speed,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let mut asked = stop.clone();
    tokio::select! {
        done = publish_days(options, stop) => done.map(|()| ExitCode::SUCCESS),
        () = async { asked.asked_for().await; sleep(PATIENCE_AT_STOP).await } => {
            bail!("stopped, but Kafka has not acknowledged everything: the truth is not written")
        }
    }
}

async fn publish_days(options: Options, mut stop: Stop) -> anyhow::Result<()> {
    let wire = options.writing.wire(&options.broker.env, &options.tenant, &options.tellers);
    let mut play = Play::new(&options.story.settings()?, &wire, options.weather.faults());
    let folio = listen(options.http_port, &options.tenant, play.truth())?;
    let pause = folio.as_ref().map_or_else(|| Arc::new(Pause::default()), Folio::pause);

    let bootstrap = options.broker.bootstrap();
    create_topics(&bootstrap, &wire.topics(), options.broker.replication_factor).await?;
    let mut publisher = Publisher::new(&bootstrap)?;
    let mut progress = Progress::begin();
    let pace = options.speed.pace();
    let published =
        publish::all(&mut play, &mut publisher, pace, (&stop, &pause), &mut progress).await?;
    let acknowledged = publisher.flush(Publisher::PATIENCE).await?;
    let took = progress.elapsed();
    progress.end(&format!(
        "played: {published} records published, {acknowledged} acknowledged, in {:.1} s, {}/s",
        took.as_secs_f64(),
        HumanCount(per_second(acknowledged, took))
    ));
    write_truth(options.truth.as_deref(), &play)?;

    if let Some(rate) = options.trickle {
        publish::trickle(&mut play, &publisher, rate, &mut stop, |_, _| {}).await?;
        publisher.flush(PATIENCE_AT_STOP).await?;
        write_truth(options.truth.as_deref(), &play)?;
    }
    Ok(())
}

/// Starts the HTTP side, if it is wanted, and says where.
pub(super) fn listen(
    port: Option<u16>,
    tenant: &str,
    truth: SharedTruth,
) -> anyhow::Result<Option<Folio>> {
    let Some(port) = port else { return Ok(None) };
    let folio = Folio::start(tenant, truth, port)?;
    say(format!("the rest of FOLIO listens at {}", folio.url()));
    Ok(Some(folio))
}

fn write_truth(path: Option<&Path>, play: &Play) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let saying = || format!("the truth could not be written to {}", path.display());
    let file = File::create(path).with_context(saying)?;
    serde_json::to_writer(BufWriter::new(file), &play.truth().snapshot()).with_context(saying)
}

/// Reads the truth that a play has written.
pub(super) fn read_truth(path: &Path) -> anyhow::Result<Truth> {
    let text = std::fs::read(path);
    let text = text.with_context(|| format!("{} could not be read", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} does not hold the truth of a play", path.display()))
}

#[derive(Debug, Args)]
pub(super) struct ServeOptions {
    /// The truth of a play.
    #[arg(long)]
    truth: PathBuf,
    /// The tenant.
    #[arg(long, default_value = "northlib")]
    tenant: String,
    /// Port on 127.0.0.1; 0 for any that is free.
    #[arg(long, default_value_t = 0)]
    http_port: u16,
}

pub(super) async fn serve(options: ServeOptions) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::on_signals()?;
    let truth = SharedTruth::new(read_truth(&options.truth)?);
    let _folio = listen(Some(options.http_port), &options.tenant, truth)?;
    stop.asked_for().await;
    Ok(ExitCode::SUCCESS)
}
