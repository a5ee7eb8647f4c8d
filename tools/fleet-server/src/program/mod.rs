//! The commands: arguments in, one call of the library each, lines out.
//!
//! - Invariant: a command that refuses has changed nothing, and says so in one line.

mod folder; //  an adapter's folder
mod merge; //   folders -> a folder
mod shown; //   lines and JSON
mod init; //    a new fleet
mod link; //    how devices are told of it
mod devices; // who takes part

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Merges what devices have learned, without their data.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    EnrollLink(link::EnrollLink),
    #[command(subcommand)]
    Devices(devices::Devices),
    Merge(merge::Merge),
}

/// Runs the command that the program was called with.
pub(super) fn run() -> Result<()> {
    match Arguments::parse().command {
        Command::Init(init) => init.run(),
        Command::EnrollLink(link) => link.run(),
        Command::Devices(devices) => devices.run(),
        Command::Merge(merge) => merge.run(),
    }
}
