//! The executable: parses the command line, validates the settings, and calls the library.

use std::{io::Write, process::ExitCode};

use patron_blocks::{
    app,
    cli::{self, CommandLine, Program},
    clock::Clock,
    config::Config,
    logging::{self, ErrorChain},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// Exit code for invalid settings or arguments.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let (program, config) = CommandLine::parse_process();
    if let Some(Program::Completions { shell }) = program {
        cli::print_completions(shell, &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let config = match config {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                let _ = writeln!(std::io::stderr(), "{problem}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    logging::init(config.log.filter(), config.log.format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "service: could not start the tokio runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match program {
            Some(Program::Operator(command)) => run_operator_command(&command, &config).await,
            _ => serve(&config).await,
        }
    });
    // Remaining tasks, such as a client that fails to leave its group, end with the process.
    runtime.shutdown_background();
    code
}

async fn serve(config: &Config) -> ExitCode {
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                error!(%error, "service: could not install signal handlers");
                return ExitCode::FAILURE;
            }
        };
    let running = match app::start(config, Clock::system()).await {
        Ok(running) => running,
        Err(error) => {
            error!(error = %ErrorChain(&error), "service: could not start");
            return ExitCode::FAILURE;
        }
    };
    let code = tokio::select! {
        _ = terminate.recv() => ExitCode::SUCCESS,
        _ = interrupt.recv() => ExitCode::SUCCESS,
        () = running.failed() => ExitCode::FAILURE,
    };
    info!("service: stopping");
    running.stop().await;
    code
}

async fn run_operator_command(command: &cli::Command, config: &Config) -> ExitCode {
    match cli::run(command, config, &mut std::io::stdout()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cli::CommandError::Argument(problem)) => {
            let _ = writeln!(std::io::stderr(), "{problem}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            error!(error = %ErrorChain(&error), "command: failed");
            ExitCode::FAILURE
        }
    }
}
