//! The commands `judge` and `set-up`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::{options, play};
use crate::clock::Clock;
use crate::folio::Folio;
use crate::model::Truth;
use crate::regulations;
use crate::service::{self, Judge, Verdict};
use crate::terminal::print_line;
use crate::wire::SharedTruth;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    service: options::Service,
    /// The truth: a file that `play` has written, or the address of a running simulator.
    #[arg(long)]
    truth: String,
    /// Repeat the comparison until there is no difference, for this many seconds at most.
    #[arg(long, default_value_t = 0)]
    wait: u64,
    /// Port of 127.0.0.1 on which to serve the other FOLIO modules while the truth is a file; 0 for any
    /// free port.
    #[arg(long)]
    http_port: Option<u16>,
    /// Maximum number of differences to print.
    #[arg(long, default_value_t = 50)]
    max_print: usize,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let verdict = if options.truth.starts_with("http://") {
        judge_by_simulator(&options).await?
    } else {
        judge_by_file(&options).await?
    };
    Ok(report(&verdict, options.max_print))
}

async fn judge_by_simulator(options: &Options) -> anyhow::Result<Verdict> {
    let judge = Judge::new(options.service.connect()?, Clock::Wall);
    let timeout = Duration::from_secs(options.wait);
    judge.compare_until(timeout, async || fetch_truth(&options.truth).await).await
}

async fn judge_by_file(options: &Options) -> anyhow::Result<Verdict> {
    let truth = Arc::new(play::read_truth(Path::new(&options.truth))?);
    let shared = SharedTruth::new(Truth::clone(&truth));
    let folio = play::start_folio(options.http_port, &options.service.tenant, shared)?;
    let service = options.service.connect()?;
    let judge = Judge::new(service.with_okapi_url(folio.as_ref().map(Folio::url)), Clock::Wall);
    let timeout = Duration::from_secs(options.wait);
    judge.compare_until(timeout, async || Ok(Arc::clone(&truth))).await
}

/// Prints the verdict. The exit code reports whether there is a difference.
pub(super) fn report(verdict: &Verdict, max_print: usize) -> ExitCode {
    for difference in verdict.differences.iter().take(max_print) {
        print_line(difference.to_string());
    }
    print_line(format!("judge: {verdict}"));
    ExitCode::from(u8::from(!verdict.differences.is_empty()))
}

async fn fetch_truth(url: &str) -> anyhow::Result<Arc<Truth>> {
    let url = format!("{}/simulator/truth", url.trim_end_matches('/'));
    let answer = reqwest::get(&url).await.with_context(|| format!("no response from {url}"))?;
    let truth = answer.error_for_status()?.json().await;
    Ok(Arc::new(truth.with_context(|| format!("{url} does not return the truth of a play"))?))
}

pub(super) async fn set_up(options: options::Service) -> anyhow::Result<ExitCode> {
    let rules = regulations::rules();
    service::set_up(&options.connect()?, &rules).await?;
    print_line(format!(
        "set up: tenant {} with {} conditions and {} limits",
        options.tenant,
        rules.conditions.len(),
        rules.limits.len()
    ));
    Ok(ExitCode::SUCCESS)
}
