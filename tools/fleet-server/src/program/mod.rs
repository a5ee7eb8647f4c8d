//! The commands: arguments in, one call of the library each, lines out.
//!
//! - Invariant: a command that refuses has changed nothing, and says so in one line.

mod folder; //  an adapter's folder
mod merge; //   folders -> a folder
mod shown; //   lines and JSON
mod ended; //   what ends with this program
mod init; //    a new fleet
mod upgrade; // a book of an older version
mod moves; //   a book elsewhere
mod link; //    how devices are told of it
mod trust; //   which keys speak for the fleet
mod devices; // who takes part
mod cohorts; // whose adapters add up
mod rounds; //  collections of updates
mod judge; //   whether a merge is offered
mod releases; // what devices are offered
mod serve; //   the server
mod demo; //    all of it on one machine

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
    Upgrade(upgrade::Upgrade),
    Move(moves::Move),
    EnrollLink(link::EnrollLink),
    #[command(subcommand)]
    Trust(trust::Trust),
    #[command(subcommand)]
    Devices(devices::Devices),
    #[command(subcommand)]
    Cohorts(cohorts::Cohorts),
    #[command(subcommand)]
    Rounds(rounds::Rounds),
    Judge(judge::Judge),
    #[command(subcommand)]
    Releases(releases::Releases),
    #[command(subcommand)]
    Rollout(releases::Rollout),
    Audit(releases::Audit),
    Serve(serve::Serve),
    Merge(merge::Merge),
    Demo(demo::Demo),
    #[command(hide = true)]
    Beneath(ended::Beneath),
}

/// Runs the command that the program was called with.
pub(super) fn run() -> Result<()> {
    let Arguments { command } = Arguments::parse();
    shown::outlive_large_files()?;
    match command {
        Command::Init(init) => init.run(),
        Command::Upgrade(upgrade) => upgrade.run(),
        Command::Move(moves) => moves.run(),
        Command::EnrollLink(link) => link.run(),
        Command::Trust(trust) => trust.run(),
        Command::Devices(devices) => devices.run(),
        Command::Cohorts(cohorts) => cohorts.run(),
        Command::Rounds(rounds) => rounds.run(),
        Command::Judge(judge) => judge.run(),
        Command::Releases(releases) => releases.run(),
        Command::Rollout(rollout) => rollout.run(),
        Command::Audit(audit) => audit.run(),
        Command::Serve(serve) => serve.run(),
        Command::Merge(merge) => merge.run(),
        Command::Demo(demo) => demo.run(),
        Command::Beneath(beneath) => beneath.run(),
    }
}
