//! The fleet server's command: the slow adapters of many devices in, one adapter out.
//!
//! - In: adapter folders in PEFT's layout with our `adapter_meta.json`, all of one base.
//! - Out: a new folder, there whole or not at all.
//! - Never here: an engine, a base, anybody's data.

mod folder;
mod merge;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Merges what devices have learned, without their data.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Merge(merge::Merge),
}

fn main() -> ExitCode {
    let Arguments { command: Command::Merge(merge) } = Arguments::parse();
    match merge.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
