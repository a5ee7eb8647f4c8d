//! Whether a device slows down or grows as it gets older: 10,000 optimiser steps of its life.
//!
//! - 100 jobs on a tiny model of noise, each of 100 steps over 200 blocks of a domain, four domains
//!   in turns; every job is judged, committed and followed by the next on the same state folder, and
//!   hidden states of the replayed blocks come from the reservoir. What is measured is the
//!   bookkeeping around a step: on so small a model nothing else is left to hide it.
//! - Three devices do every job one after the other, so that whatever else the machine does meets all
//!   alike: one with a reservoir of 500 blocks, one with 5,000, and one with 500 that begins a new
//!   life every ten jobs.
//! - `cargo bench --bench age -- OUT [JOBS]` writes `OUT/age.csv`, a row for each device and job, and
//!   `OUT/age.svg`, and says how the last tenth of the jobs differs from the first.
//! - CPU time and memory are read from /proc: Linux only. `RAYON_NUM_THREADS=1` for one core.

mod plot;

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::base::{ExportOptions, export};
use sapwood::block::Block;
use sapwood::learner::{Engines, Event, Material, Outcome, adapt};
use sapwood::ports::Disk;
use sapwood::settings::Settings;
use sapwood::state::State;
use sapwood_tiny as tiny;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Jobs of a life when nobody says otherwise.
const JOBS: u64 = 100;
/// Optimiser steps of a job.
const STEPS: u64 = 100;
/// Jobs after which the young device is replaced by a new one.
const YOUTH: u64 = 10;
/// Fresh blocks of a step, and replayed ones.
const BATCH: usize = 2;
/// Most tokens of a block.
const TOKENS: usize = 32;
/// Domains that take turns.
const DOMAINS: u64 = 4;

/// The devices: what they are called, and the size of their reservoir. The first is the one that
/// the others are compared with, the last never gets old.
const DEVICES: [(&str, u64); 3] = [("500 blocks", 500), ("5000 blocks", 5_000), ("young", 500)];

fn settings(blocks: u64) -> Settings {
    Settings {
        iters: STEPS,
        batch_size: BATCH,
        replay_batch_size: BATCH,
        replay_blocks: blocks,
        replay_hidden: true,
        num_layers: 2,
        max_seq_length: TOKENS,
        threads: 1,
        steps_per_report: 1,
        // Whatever is learned is committed: a rejected job would leave less behind.
        gate_new: -1.0,
        gate_old: 10.0,
        gate_general: 10.0,
        ..Settings::default()
    }
}

/// What a job learns and is judged by: seeded noise, so that every job is new.
fn material(job: u64, vocab: u32) -> Material {
    let mut chance = ChaCha8Rng::seed_from_u64(job);
    let mut blocks = |count: usize| -> Vec<Block> {
        let mut block = || {
            let length = TOKENS - (chance.next_u32() % 4) as usize;
            let tokens = (0..length).map(|_| chance.next_u32() % vocab).collect();
            let learn = (0..length).map(|t| t > 0).collect();
            Block { tokens, learn, bytes: length as u32, domain: 0 }
        };
        (0..count).map(|_| block()).collect()
    };
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&job.to_le_bytes());
    let name = format!("domain {}", job % DOMAINS);
    let (train, valid, general) = (blocks(STEPS as usize * BATCH), blocks(8), blocks(8));
    Material { key: name.clone(), name, hash, train, valid, general, start: Vec::new() }
}

/// One device's share of a job: 100 steps, its gate and its commit.
#[derive(Clone, Copy)]
struct Row {
    /// Which of the devices.
    device: usize,
    /// Steps of its life; of the young one as if it were old.
    step: u64,
    /// Wall time of a step, in milliseconds, see [`undisturbed`].
    wall_ms: f64,
    /// CPU time of the whole job by its steps, in milliseconds.
    cpu_ms: f64,
    /// Memory of the whole process that is resident, in MiB.
    resident_mib: f64,
    /// The state folder but for the reservoir, in MiB.
    state_mib: f64,
    /// The reservoir's file, in MiB.
    reservoir_mib: f64,
    /// Blocks in the reservoir.
    held: u64,
}

const HEADER: &str = "device,step,wall_ms,cpu_ms,resident_mib,state_mib,reservoir_mib,held";

impl Row {
    fn line(&self) -> String {
        let Self { step, wall_ms, cpu_ms, resident_mib, state_mib, reservoir_mib, held, .. } = self;
        let device = DEVICES[self.device].0;
        format!(
            "{device},{step},{wall_ms:.4},{cpu_ms:.4},{resident_mib:.2},{state_mib:.4},\
             {reservoir_mib:.4},{held}"
        )
    }
}

/// CPU time of all threads of this process so far, in milliseconds; none of them ends.
fn cpu_ms() -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().context("schedstat is empty")?;
        nanoseconds += first.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e6)
}

/// Resident memory of this process, in MiB.
fn resident_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.trim().strip_suffix("kB")).context("no VmRSS")?;
    Ok(kib.trim().parse::<f64>()? / 1024.0)
}

/// MiB of a file, or of all files in a folder.
fn mib(path: &Path) -> Result<f64> {
    let found = fs::metadata(path)?;
    if !found.is_dir() {
        return Ok(found.len() as f64 / f64::from(1 << 20));
    }
    fs::read_dir(path)?.map(|entry| mib(&entry?.path())).sum()
}

#[expect(clippy::disallowed_methods, reason = "a benchmark is a program: this is its clock")]
fn now() -> Instant {
    Instant::now()
}

/// What the fastest tenth takes less than: other programs only ever make a step slower.
fn undisturbed(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 10).copied().unwrap_or_default()
}

/// A state folder and what it is for.
struct Device {
    index: usize,
    folder: PathBuf,
    disk: Arc<Disk>,
}

impl Device {
    /// One that has learned nothing.
    fn new(out: &Path, index: usize) -> Result<Self> {
        let folder = out.join(format!("state-{index}"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        Ok(Self { index, disk: Arc::new(Disk::exclusive(&folder)?), folder })
    }

    /// One job, from opening the state folder to the commit.
    fn job(&self, engines: &Engines, number: u64) -> Result<Row> {
        let (mut last, mut steps, mut held_now) = (None, Vec::new(), 0);
        let mut tell = |event: &Event| {
            if let Event::Step { held, .. } = event {
                let now = now();
                steps.extend(last.map(|last| now.duration_since(last)));
                (last, held_now) = (Some(now), *held);
            }
            ControlFlow::Continue(())
        };
        let material = material(number, engines.base.config().vocab as u32);
        let settings = settings(DEVICES[self.index].1);
        let before = cpu_ms()?;
        let mut state = State::open(self.disk.clone())?;
        let outcome = adapt(engines, &mut state, &material, &settings, &mut tell)?;
        let after = cpu_ms()?;
        let Outcome::Judged { verdict, .. } = outcome else { anyhow::bail!("the job was stopped") };
        ensure!(verdict.keeps(), "job {number} was not kept: {verdict}");
        let reservoir_mib = mib(&self.folder.join("reservoir"))?;
        Ok(Row {
            device: self.index,
            step: (number + 1) * STEPS,
            wall_ms: undisturbed(&mut steps).as_secs_f64() * 1e3,
            cpu_ms: (after - before) / STEPS as f64,
            resident_mib: resident_mib()?,
            state_mib: mib(&self.folder)? - reservoir_mib,
            reservoir_mib,
            held: held_now,
        })
    }
}

/// All lives, side by side.
fn live(out: &Path, jobs: u64) -> Result<Vec<Row>> {
    let (noise, model) = (out.join("noise"), out.join("model"));
    tiny::write(&noise, 7, tiny::VOCAB).map_err(|error| anyhow::anyhow!("{error}"))?;
    if model.exists() {
        fs::remove_dir_all(&model)?;
    }
    export(&noise, &model, ExportOptions::default())?;
    let engines = Engines::load(&model, &settings(DEVICES[0].1))?;
    let new = |index| Device::new(out, index);
    let mut devices: Vec<Device> = (0..DEVICES.len()).map(new).collect::<Result<_>>()?;
    let mut file = fs::File::create(out.join("age.csv"))?;
    writeln!(file, "{HEADER}")?;
    let mut rows = Vec::new();
    for number in 0..jobs {
        if number % YOUTH == 0
            && let Some(young) = devices.pop()
        {
            let index = young.index;
            drop(young);
            devices.push(new(index)?);
        }
        for device in &devices {
            let row = device.job(&engines, number)?;
            writeln!(file, "{}", row.line())?;
            rows.push(row);
        }
    }
    devices.iter().try_for_each(|device| fs::remove_dir_all(&device.folder))?;
    Ok(rows)
}

/// The rows of one device.
fn of(rows: &[Row], device: usize) -> Vec<Row> {
    rows.iter().filter(|row| row.device == device).copied().collect()
}

/// The mean of a column over some rows.
fn mean(rows: &[Row], column: impl Fn(&Row) -> f64) -> f64 {
    rows.iter().map(column).sum::<f64>() / rows.len().max(1) as f64
}

/// The middle one of some numbers: a job that something else held up does not move it.
fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The slope of a column, per 1,000 steps: the line of least squares.
fn slope(rows: &[Row], column: impl Fn(&Row) -> f64) -> f64 {
    let (x_mean, y_mean) = (mean(rows, |row| row.step as f64), mean(rows, &column));
    let spread = |row: &Row| row.step as f64 - x_mean;
    let square: f64 = rows.iter().map(|row| spread(row).powi(2)).sum();
    let product: f64 = rows.iter().map(|row| spread(row) * (column(row) - y_mean)).sum();
    1e3 * product / square.max(1.0)
}

/// One column of a device in the first tenth of the jobs and in the last, and what it is by that
/// of another device in the same jobs: medians.
fn line(rows: &[Row], beside: &[Row], column: fn(&Row) -> f64) -> String {
    let tenth = rows.len().div_ceil(10);
    let [first, last] = [0..tenth, rows.len() - tenth..rows.len()].map(|jobs| {
        let both = rows[jobs.clone()].iter().zip(&beside[jobs.clone()]);
        let ratios = both.map(|(row, beside)| column(row) / column(beside));
        (median(rows[jobs].iter().map(column)), median(ratios))
    });
    format!("{:.3} -> {:.3} ({:.3} -> {:.3} of it)", first.0, last.0, first.1, last.1)
}

/// What a reader wants to know: old against young, large against small, and memory.
fn summary(rows: &[Row]) -> String {
    let [small, large, young] = [0, 1, 2].map(|device| of(rows, device));
    let mut text = String::from("first tenth of the jobs -> last, ms a step, medians\n");
    for (name, rows, beside) in
        [("500 blocks, beside young", &small, &young), ("5000 blocks, beside 500", &large, &small)]
    {
        let wall = line(rows, beside, |row| row.wall_ms);
        let cpu = line(rows, beside, |row| row.cpu_ms);
        text += &format!("{name}: undisturbed step {wall}, CPU with gate and commit {cpu}\n");
    }
    let after = &small[small.len().div_ceil(10)..];
    text + &format!(
        "after the first tenth, per 1,000 steps: resident {:+.3} of {:.1} MiB, state without \
         reservoir {:+.4} of {:.3} MiB\n",
        slope(after, |row| row.resident_mib),
        mean(after, |row| row.resident_mib),
        slope(after, |row| row.state_mib),
        mean(after, |row| row.state_mib)
    )
}

fn main() -> Result<()> {
    // cargo adds a flag of its own.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let out = words.next().context("usage: cargo bench --bench age -- OUT [JOBS]")?;
    let jobs = words.next().map_or(Ok(JOBS), |word| word.parse())?;
    ensure!(jobs > 0, "expected at least one job");
    let out = Path::new(&out);
    fs::create_dir_all(out)?;
    let rows = live(out, jobs)?;
    write!(std::io::stdout(), "{}", summary(&rows))?;
    Ok(fs::write(out.join("age.svg"), plot::draw(&rows))?)
}
