//! The order of things: make what is missing, prove both sides equal, then measure in turns.
//!
//! - Models and adapters are made once and kept: a folder is there whole or not at all.
//! - Every other round goes backwards, so that nobody is always first.
//! - The table is written anew after every work: a run that is cut off leaves what it has.

use crate::measure::Line;
use crate::processes::{Files, Processes};
use crate::table::{Measured, Round, Table};
use crate::works::{Kind, Peer, Work};
use crate::{Comparison, flops, machine};
use anyhow::{Context, Result, ensure};
use sapwood::base::{self, ExportOptions};
use serde::Serialize;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Steps that no clock sees: buffers are made, pages are touched, the processor wakes.
const WARM_UP: usize = 2;
/// The default base, where this program was built.
const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/base");

/// One measurement, as it goes to the file of raw figures.
#[derive(Serialize)]
struct Raw<'a> {
    work: &'a str,
    who: &'a str,
    round: usize,
    gflops: f64,
    #[serde(flatten)]
    line: &'a Line,
}

/// Compares `works` and writes the table.
///
/// # Errors
/// A side that fails, or sides that do not compute the same.
pub(crate) fn run(works: &[Work], choice: &Comparison) -> Result<()> {
    let threads = if choice.threads == 0 { machine::cores() } else { choice.threads };
    let processes = Processes { python: choice.python.clone(), device: choice.device, threads };
    let out = choice.out.clone().unwrap_or_else(|| choice.work_dir.join("table.md"));
    fs::create_dir_all(&choice.work_dir)
        .with_context(|| format!("cannot make {}", choice.work_dir.display()))?;
    warn_of_load(threads);
    let mut table = Table::new(choice.device, threads, [choice.rounds, choice.steps]);
    let mut compared = Vec::new();
    for work in works {
        let files = prepare(work, &choice.work_dir, &processes)?;
        let differences = agree(work, &peers(work, choice), &files, &processes)?;
        compared.push((work, files, differences));
    }
    let raw_path = out.with_extension("jsonl");
    let mut raw =
        File::create(&raw_path).with_context(|| format!("cannot write {}", raw_path.display()))?;
    for (work, files, differences) in compared {
        let flops = flops::of(work, &base::read_config(&files.model)?)?;
        let mut rounds = Vec::new();
        for number in 0..choice.rounds {
            let round =
                round(work, &peers(work, choice), &files, &processes, choice.steps, number)?;
            record(&mut raw, work, number, &round)?;
            rounds.push(round);
        }
        table.add(Measured { work: *work, flops, differences, rounds });
        fs::write(&out, table.text()).with_context(|| format!("cannot write {}", out.display()))?;
    }
    eprintln!("written to {} and {}", out.display(), raw_path.display());
    Ok(())
}

/// Threads that wait for each other suffer most from neighbours, and not on every side alike.
fn warn_of_load(threads: usize) {
    if let Some(load) = machine::load()
        && load + threads as f64 > machine::cores() as f64 + 0.5
    {
        eprintln!(
            "warning: load {load:.1} beside {threads} threads on {} cores; peers that spin lose \
             more than their share, so take these ratios for nothing",
            machine::cores()
        );
    }
}

/// The peers of a work that the user wants.
fn peers(work: &Work, choice: &Comparison) -> Vec<Peer> {
    let wanted = |peer: &Peer| choice.peer.is_empty() || choice.peer.contains(peer);
    work.peers(choice.device).iter().copied().filter(wanted).collect()
}

/// Makes the files of a work that are not there yet.
fn prepare(work: &Work, work_dir: &Path, processes: &Processes) -> Result<Files> {
    let folder = work_dir.join(work.shape.name);
    let hugging_face = folder.join("hf");
    let random = work.shape.config();
    let model = if random.is_some() { folder.join("model") } else { PathBuf::from(BASE) };
    let make = |out: &Path, what: &str, flags: &[&OsStr]| {
        if out.exists() {
            return Ok(());
        }
        eprintln!("making {}", out.display());
        let out = [OsStr::new("--out"), out.as_os_str()];
        processes.make(what, flags.iter().copied().chain(out))
    };
    match &random {
        Some(config) => make(&hugging_face, "shape", &["--config".as_ref(), config.as_ref()])?,
        None => make(&hugging_face, "unpack", &["--model".as_ref(), model.as_ref()])?,
    }
    if !model.exists() {
        eprintln!("exporting {}", model.display());
        base::export(&hugging_face, &model, ExportOptions::default())?;
    }
    let config = base::read_config(&model)?;
    let learning = work.learning(config.layers)?;
    let adapters = folder.join(format!("adapters-{learning}"));
    let mut trunk = PathBuf::new();
    match work.kind {
        Kind::Trunk { layers, .. } => {
            trunk = folder.join(format!("trunk-{layers}.onnx"));
            let tap = layers.to_string();
            let flags = ["--tap".as_ref(), tap.as_ref(), "--model".as_ref(), model.as_ref()];
            make(&trunk, "cut", &flags)?;
        }
        Kind::Step { .. } => {
            let layers = learning.to_string();
            let model = ["--model".as_ref(), hugging_face.as_os_str()];
            make(
                &adapters,
                "adapters",
                &[&model[..], &["--layers".as_ref(), layers.as_ref()]].concat(),
            )?;
        }
    }
    Ok(Files { hugging_face, model, adapters, trunk, vocab: config.vocab })
}

/// The largest difference to each peer in one step from the same start.
///
/// # Errors
/// When one is more than that peer and this work allow.
fn agree(
    work: &Work,
    peers: &[Peer],
    files: &Files,
    processes: &Processes,
) -> Result<Vec<(Peer, f64)>> {
    let once = [0, 1];
    let ours = processes.ours(work, files, once)?;
    let mut differences = Vec::new();
    for &peer in peers {
        let theirs = processes.theirs(peer, work, files, once)?;
        let (who, (within, free)) = (peer.title(), peer.allows(work));
        let (name, difference) = ours.difference(&theirs, free)?;
        eprintln!("{}: {name} differs by {difference:.1e} from {who}", work.name);
        ensure!(
            difference <= within,
            "{}: {name} differs by {difference:.1e} from {who}, expected at most {within:.0e}: \
             the sides do not compute the same, so no time of theirs is compared",
            work.name
        );
        differences.push((peer, difference));
    }
    Ok(differences)
}

/// Every side once, and the rate of matrix products in the same minutes.
fn round(
    work: &Work,
    peers: &[Peer],
    files: &Files,
    processes: &Processes,
    steps: usize,
    number: usize,
) -> Result<Round> {
    let repeats = [WARM_UP, steps];
    let gflops = processes.peak()?;
    let ours_first = number.is_multiple_of(2);
    let mut ours = ours_first.then(|| processes.ours(work, files, repeats)).transpose()?;
    let mut theirs = Vec::new();
    for index in 0..peers.len() {
        let peer = if ours_first { peers[index] } else { peers[peers.len() - 1 - index] };
        theirs.push((peer, processes.theirs(peer, work, files, repeats)?));
    }
    let ours = match ours.take() {
        Some(line) => line,
        None => processes.ours(work, files, repeats)?,
    };
    let load = machine::load().map_or_else(String::new, |load| format!(", load {load:.1}"));
    let times: Vec<String> = theirs
        .iter()
        .map(|(peer, line)| format!("{} {:.0} ms", peer.title(), line.median_ms()))
        .collect();
    eprintln!(
        "{} round {}: Sapwood {:.0} ms; {}; {gflops:.0} GFLOP/s{load}",
        work.name,
        number + 1,
        ours.median_ms(),
        times.join("; "),
    );
    Ok(Round { gflops, ours, theirs })
}

fn record(file: &mut File, work: &Work, number: usize, round: &Round) -> Result<()> {
    let theirs = round.theirs.iter().map(|(peer, line)| (peer.title(), line));
    for (who, line) in std::iter::once(("Sapwood", &round.ours)).chain(theirs) {
        let raw = Raw { work: work.name, who, round: number + 1, gflops: round.gflops, line };
        writeln!(file, "{}", serde_json::to_string(&raw)?)?;
    }
    Ok(())
}
