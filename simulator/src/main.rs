//! The command line of the library in a box.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    simulator::command::run(simulator::command::Cli::parse()).await
}
