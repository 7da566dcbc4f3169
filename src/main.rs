//! The command line: reads the settings and calls the library.

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};
use patron_blocks::{
    app,
    clock::Clock,
    config::{Config, Settings},
    flow::check,
    telemetry::{self, Chain},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// Decides whether a patron may borrow, renew or request, from circulation events in Kafka.
#[derive(Parser)]
#[command(version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service (the default)
    Serve,
    /// Recount every patron's loans and fees/fines and compare with the stored counters
    Check {
        /// Only this tenant
        #[arg(long)]
        tenant: Option<String>,
    },
}

/// Settings or arguments that can't be used.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let (config, log) = match line.settings.check() {
        Ok(checked) => checked,
        Err(problems) => {
            for problem in problems {
                let _ = writeln!(std::io::stderr(), "{problem}");
            }
            return ExitCode::from(UNUSABLE);
        }
    };
    telemetry::start(log.filter, log.format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "could not start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match line.command.unwrap_or(Command::Serve) {
            Command::Serve => serve(&config).await,
            Command::Check { tenant } => recount(&config, tenant.as_deref()).await,
        }
    });
    // What still hangs, such as a client that can't leave its group, ends with the process.
    runtime.shutdown_background();
    code
}

async fn serve(config: &Config) -> ExitCode {
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                error!(%error, "could not listen for signals");
                return ExitCode::FAILURE;
            }
        };
    let running = match app::start(config, Clock::system()).await {
        Ok(running) => running,
        Err(error) => {
            error!(error = %Chain(&error), "could not start");
            return ExitCode::FAILURE;
        }
    };
    let code = tokio::select! {
        _ = terminate.recv() => ExitCode::SUCCESS,
        _ = interrupt.recv() => ExitCode::SUCCESS,
        () = running.failed() => ExitCode::FAILURE,
    };
    info!("stopping");
    running.stop().await;
    code
}

async fn recount(config: &Config, tenant: Option<&str>) -> ExitCode {
    match check::check(&config.database, tenant).await {
        Ok(reports) => {
            let mut out = std::io::stdout().lock();
            for report in &reports {
                let _ = writeln!(out, "{report}");
            }
            let right = reports.iter().all(|report| report.wrong.is_empty());
            if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            error!(error = %Chain(&error), "could not check");
            ExitCode::FAILURE
        }
    }
}
