//! The command line.

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

/// A made-up library in a box: it plays days of circulation into Kafka, stands in for the rest of
/// FOLIO over HTTP, and judges a patron blocks service by what it knows to be true.
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
    /// Enable a tenant of the service and give it conditions and limits.
    SetUp(options::Service),
    /// Stand in for users, storage and PubSub, from a file with the truth.
    Serve(play::ServeOptions),
    /// Compare what the service says about every patron with the truth.
    Judge(judge::Options),
    /// Compare what the service has told by Kafka of every patron's blocks with what it answers.
    Listen(listen::Options),
    /// Show a stranger what the service does.
    Demo(demo::Options),
}

/// Does what the command line says. Exit code 1 means that the judge found differences, 2 that
/// something could not be done.
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
