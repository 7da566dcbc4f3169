//! The command line: parses the options and runs one command.

mod demo;
mod describe;
mod judge;
mod listen;
mod options;
mod play;
mod publish;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::terminal::print_error;

/// A simulated library. It plays days of circulation into Kafka and serves the other FOLIO modules over
/// HTTP. It compares a patron blocks service with the truth of the play.
#[derive(Debug, Parser)]
#[command(name = "simulator", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish days of circulation.
    Play(play::Options),
    /// Enable a tenant of the service and write its conditions and limits.
    SetUp(options::Service),
    /// Serve users, storage and PubSub from a file with the truth.
    Serve(play::ServeOptions),
    /// Compare the service's answers about every patron with the truth, and check every explanation.
    Judge(judge::Options),
    /// Compare the service's block events of every patron with its answers.
    Listen(listen::Options),
    /// Show what the service does, in a short guided run.
    Demo(demo::Options),
}

/// Runs the command. Exit code 1 means that the judge found differences; exit code 2 means that the command
/// failed.
pub async fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Play(options) => play::run(options).await,
        Command::SetUp(options) => judge::set_up(options).await,
        Command::Serve(options) => play::serve(options).await,
        Command::Judge(options) => judge::run(options).await,
        Command::Listen(options) => listen::run(options).await,
        Command::Demo(options) => demo::run(options).await,
    };
    done.unwrap_or_else(|error| {
        print_error(format!("simulator: {error:#}"));
        ExitCode::from(2)
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Cli;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_options_are_refused() {
        for wrong in [
            "simulator play --lose 1.5",
            "simulator play --speed fast",
            "simulator play --speed -1",
            "simulator play --speed 10 --day-seconds 30",
            "simulator play --shape round",
            "simulator judge --service-url http://127.0.0.1:1",
        ] {
            assert!(Cli::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}
