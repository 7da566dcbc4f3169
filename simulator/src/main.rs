//! Entry point of the simulator command line.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    simulator::command::run(simulator::command::Cli::parse()).await
}
