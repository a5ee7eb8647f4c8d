//! The fleet server's command: the slow adapters of many devices in, one adapter out.
//!
//! - In: adapter folders in PEFT's layout with our `adapter_meta.json`, all of one base.
//! - Out: a new folder, there whole or not at all.
//! - Never here: an engine, a base, anybody's data.

mod folder;
mod mean;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use folder::Folder;
use std::io::Write;
use std::path::{Path, PathBuf};
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
    /// Writes the weighted mean of the factors A and B of several adapters.
    ///
    /// What an adapter adds to a weight is the product B A, and the mean of products is not the
    /// product of means: the result is exact only as far as the adapters are near a common
    /// ancestor. The gap is second order in their distance. Start a round from one adapter, and
    /// let devices send their slow adapter before they drift far; test the merged one on held-out
    /// text before it goes out.
    Merge {
        /// The folder to write; must not exist yet.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// One weight for each adapter, in their order, such as 2,1,1; equal when left out.
        #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
        weights: Option<Vec<f64>>,
        /// Adapter folders of one base, with the same targets, ranks and alphas.
        #[arg(required = true, value_name = "ADAPTER_DIR")]
        adapters: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Arguments { command: Command::Merge { out, weights, adapters } } = Arguments::parse();
    match merge(&out, weights.as_deref(), &adapters) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn merge(out: &Path, weights: Option<&[f64]>, adapters: &[PathBuf]) -> Result<()> {
    ensure!(
        adapters.len() >= 2,
        "a merge takes at least two adapters, got {}; nothing was written",
        adapters.len()
    );
    ensure!(!out.exists(), "{} exists, expected a new folder; it is unchanged", out.display());
    let shares = mean::shares(weights, adapters.len())?;
    let first = Folder::read(&adapters[0], None)?;
    let mut mean = mean::Mean::start(&first, shares[0]);
    // One adapter at a time is in memory, beside the mean.
    for (path, share) in adapters.iter().zip(&shares).skip(1) {
        let next = Folder::read(path, Some(first.meta.base_hash))?;
        let agrees = first.agrees(&next);
        agrees.with_context(|| format!("{} does not fit {}", path.display(), first.shown()))?;
        mean.add(&next, *share);
    }
    let merged = mean.finish(first);
    merged.write(out).with_context(|| format!("{} was not written", out.display()))?;
    writeln!(std::io::stdout(), "{}: the mean of {} adapters", out.display(), adapters.len())?;
    Ok(())
}
