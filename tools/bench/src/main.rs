//! `sapwood-bench`: Sapwood and its peers side by side, on the same weights, batch and loss.
//!
//! - In: an interpreter with `requirements.txt` installed. Out: a Markdown table of medians, ratios,
//!   peak memory and the machine, and every measurement as a line of JSON beside it.
//! - The sides take turns, each measurement in a process of its own, so that its peak memory is that
//!   of this work alone and a busy minute meets both.
//! - Invariant: no table stands without a proof that both sides computed the same numbers.

mod fleet;
mod flops;
mod gemm;
mod machine;
mod measure;
mod ours;
mod processes;
mod rounding;
mod rounds;
mod table;
mod works;

use anyhow::{Result, bail, ensure};
use clap::{Parser, Subcommand};
use sapwood::settings::Device;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use works::{Peer, WORKS, Work};

/// Runs Sapwood and its peers side by side and writes a table.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    worker: Option<Worker>,
    #[command(flatten)]
    comparison: Comparison,
}

/// What is compared, and how often.
#[derive(clap::Args)]
struct Comparison {
    /// Python with tools/bench/requirements.txt installed.
    #[arg(long, value_name = "FILE", default_value = "python3")]
    python: PathBuf,
    /// Where models and adapters are made; they are kept for the next run.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    work_dir: PathBuf,
    /// The table; the measurements go to a .jsonl of the same name. In the work folder when left out.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only the work of this name; may be given more than once.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only this peer; may be given more than once.
    #[arg(long, value_name = "PEER")]
    peer: Vec<Peer>,
    /// Where both sides compute: cpu, cuda:N or metal. Only steps have a peer on a GPU.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// Threads of every side; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Times that each side is started.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Timed steps of each start, after two that are not.
    #[arg(long, value_name = "N", default_value_t = 5)]
    steps: usize,
    /// Name the works and stop.
    #[arg(long)]
    list: bool,
}

/// What is not a comparison with peers: two for the command line, the others for this program itself.
#[derive(Subcommand)]
enum Worker {
    /// Shows what the ways of keeping weights and activations cost in exactness.
    Rounding {
        /// Model folder.
        #[arg(long)]
        model: PathBuf,
        /// Text to learn.
        #[arg(long)]
        data: PathBuf,
    },
    /// Plays devices that share what they learned, and compares ways to install it.
    Fleet(Box<fleet::Arguments>),
    /// Measures one work on our side and prints a line.
    #[command(hide = true)]
    Measure {
        #[arg(long)]
        work: String,
        #[arg(long)]
        model: PathBuf,
        #[arg(long)]
        adapters: PathBuf,
        #[arg(long)]
        device: Device,
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        warm_up: usize,
        #[arg(long)]
        steps: usize,
    },
    /// Measures f32 matrix products and prints their GFLOP/s.
    #[command(hide = true)]
    Peak,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.worker {
        Some(worker) => measured(worker),
        None => compared(&arguments.comparison),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measured(worker: Worker) -> Result<()> {
    let line = match worker {
        Worker::Fleet(arguments) => return fleet::run(&arguments),
        Worker::Rounding { model, data } => rounding::table(&model, &data)?,
        Worker::Peak => serde_json::to_string(&gemm::gflops())?,
        Worker::Measure { work, model, adapters, device, threads, warm_up, steps } => {
            let work = Work::named(&work)?;
            let begun = measure::Begun::now(device, [warm_up, steps])?;
            let task = ours::Task { work, model, adapters, device, threads, begun };
            serde_json::to_string(&ours::run(&task)?)?
        }
    };
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn compared(choice: &Comparison) -> Result<()> {
    if choice.list {
        for work in WORKS {
            writeln!(std::io::stdout(), "{:16} {}", work.name, work.title)?;
        }
        return Ok(());
    }
    ensure!(
        !cfg!(debug_assertions),
        "a debug build says nothing about speed: cargo run --release --bin sapwood-bench"
    );
    ensure!(choice.rounds > 0 && choice.steps > 0, "--rounds and --steps are at least 1");
    ensure!(choice.device != Device::Auto, "--device names one: cpu, cuda:N or metal");
    let has_peer = |work: &Work| !work.peers(choice.device).is_empty();
    let named: Result<Vec<Work>> = choice.only.iter().map(|name| Work::named(name)).collect();
    let works = match choice.only.is_empty() {
        true => WORKS.into_iter().filter(has_peer).collect(),
        false => named?,
    };
    if let Some(work) = works.iter().find(|work| !has_peer(work)) {
        bail!("{} is measured on the CPU alone, --device is {}", work.name, choice.device);
    }
    rounds::run(&works, choice)
}
