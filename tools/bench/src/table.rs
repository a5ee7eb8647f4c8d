//! The table: medians over the rounds, ratios within a round, goals beside them.
//!
//! - A ratio is taken between neighbours in time, and the middle one is shown: what slows the
//!   machine for minutes slows both.
//! - Goals are set against the first peer of a work; of several, the fastest is marked.

use crate::machine;
use crate::measure::{Line, median};
use crate::works::{BLOCKS, Peer, RANK, TOKENS, Work};
use sapwood::settings::Device;
use std::collections::BTreeMap;
use std::fmt::Write;

/// One round of a work.
pub(crate) struct Round {
    /// Rate of f32 products with the same threads.
    pub(crate) gflops: f64,
    /// Our side.
    pub(crate) ours: Line,
    /// The peers.
    pub(crate) theirs: Vec<(Peer, Line)>,
}

/// All rounds of a work.
pub(crate) struct Measured {
    /// The work.
    pub(crate) work: Work,
    /// Operations of its matrix products.
    pub(crate) flops: f64,
    /// Largest relative difference to each peer in the first step.
    pub(crate) differences: Vec<(Peer, f64)>,
    /// What was measured.
    pub(crate) rounds: Vec<Round>,
}

/// The works so far, and how they were measured.
pub(crate) struct Table {
    load: Option<f64>,
    device: Device,
    threads: usize,
    rounds: usize,
    steps: usize,
    measured: Vec<Measured>,
}

const HEAD: &str = "\
| work | against | ours, ms | theirs, ms | ratio | goal | CPU ratio | ours, MB | theirs, MB \
| ratio | goal | ratio without libraries | GEMM limit, ms | limit / ours | difference |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

impl Table {
    /// A table without rows; `steps` of every one of `rounds` are timed.
    pub(crate) fn new(device: Device, threads: usize, [rounds, steps]: [usize; 2]) -> Self {
        Self { load: machine::load(), device, threads, rounds, steps, measured: Vec::new() }
    }

    /// Adds the rows of a work.
    pub(crate) fn add(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// Everything as Markdown.
    pub(crate) fn text(&self) -> String {
        let peak = self.peak();
        let on_cpu = self.device == Device::Cpu;
        let rows = self.measured.iter().map(|measured| match on_cpu {
            true => measured.rows(|peer, difference| measured.row(peer, difference, peak)),
            false => measured.rows(|peer, difference| measured.row_of_gpu(peer, difference)),
        });
        let rows: String = rows.collect();
        let (head, legend) = if on_cpu { (HEAD, LEGEND) } else { (HEAD_OF_GPU, LEGEND_OF_GPU) };
        format!("{}\n{head}{rows}\n{legend}", self.conditions())
    }

    /// The machine, the versions, and how often what was done.
    fn conditions(&self) -> String {
        let lines = self.all().flat_map(|round| {
            std::iter::once(&round.ours).chain(round.theirs.iter().map(|(_, line)| line))
        });
        let versions: BTreeMap<&String, &String> = lines.flat_map(|line| &line.versions).collect();
        let versions: Vec<String> =
            versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let load = self.load.map_or_else(|| "unknown".to_owned(), |load| format!("{load:.1}"));
        format!(
            "{}{}, {} cores, load average before the run {load}, {} threads; {}. B {BLOCKS} x T \
             {TOKENS}, rank {RANK} on q and v; median of {} rounds of {} steps; f32 GEMM peak of \
             the CPU {:.0} GFLOP/s.\n",
            machine::gpu(self.device),
            machine::processor(),
            machine::cores(),
            self.threads,
            versions.join(", "),
            self.rounds,
            self.steps,
            self.peak(),
        )
    }

    fn all(&self) -> impl Iterator<Item = &Round> {
        self.measured.iter().flat_map(|measured| &measured.rounds)
    }

    /// The best rate of f32 products in any round, GFLOP/s: what stood in its way were others.
    fn peak(&self) -> f64 {
        self.all().map(|round| round.gflops).fold(0.0, f64::max)
    }
}

const LEGEND: &str = "\
A step is forward, backward, clipping, AdamW and average, from token ids; hidden states of replayed \
blocks are stored on our side and computed again on theirs. Ratios are ours over theirs, the median \
over rounds. Memory is the most a process held in its life, loading and libraries included; the \
last ratio of memory leaves out what it held before it loaded a model. The limit is the time of the \
work's own matrix products in f32 at the peak rate; products in bf16 and int8 can pass it. Difference: the \
largest of losses and gradient norm in the first step, relative; the MSE counts only where both \
sides compute in f32.
";

const HEAD_OF_GPU: &str = "\
| work | against | ours, ms | theirs, ms | ratio | CPU ratio | ours, MB of GPU | theirs, MB of GPU \
| ratio | difference |
|---|---|---|---|---|---|---|---|---|---|
";

const LEGEND_OF_GPU: &str = "\
A step is forward, backward, clipping, AdamW and average, from token ids; hidden states of replayed \
blocks are stored on our side, in the host's memory, and computed again on theirs. Ratios are ours \
over theirs, the median over rounds. Memory is what the GPU's driver counts as used after the last \
step, less what it counted before: context, libraries and what they hold back for later included. \
Difference: the largest of losses and gradient norm in the first step, relative; the MSE counts only \
where both sides compute in f32.
";

impl Measured {
    /// One row a peer.
    fn rows(&self, row: impl Fn(Peer, f64) -> String) -> String {
        let mut text = String::new();
        for &(peer, difference) in &self.differences {
            // Writing to a String cannot fail.
            let _done = writeln!(text, "{}", row(peer, difference));
        }
        text
    }

    /// The peer's title, marked where it is the fastest of several.
    fn named(&self, peer: Peer) -> String {
        let time_ms = |peer: Peer| self.middle(peer, |_, line| line.median_ms());
        let others = self.differences.iter().filter(|(other, _)| *other != peer);
        let others: Vec<f64> = others.map(|(other, _)| time_ms(*other)).collect();
        let is_fastest = !others.is_empty() && others.iter().all(|&other| time_ms(peer) < other);
        format!("{}{}", peer.title(), if is_fastest { ", the fastest" } else { "" })
    }

    /// The middle of a figure over the rounds.
    fn middle(&self, peer: Peer, figure: impl Fn(&Round, &Line) -> f64) -> f64 {
        let pairs = self.rounds.iter().flat_map(|round| {
            let theirs = round.theirs.iter().filter(|(who, _)| *who == peer);
            theirs.map(move |(_, line)| (round, line))
        });
        median(&pairs.map(|(round, line)| figure(round, line)).collect::<Vec<_>>())
    }

    fn row_of_gpu(&self, peer: Peer, difference: f64) -> String {
        let of = |figure: &dyn Fn(&Round, &Line) -> f64| self.middle(peer, figure);
        let device_mb = |line: &Line| line.device_mb.unwrap_or(f64::NAN);
        let cells = [
            self.work.title.to_owned(),
            self.named(peer),
            short(of(&|round, _| round.ours.median_ms())),
            short(of(&|_, line| line.median_ms())),
            format!("{:.2}", of(&|round, line| round.ours.median_ms() / line.median_ms())),
            format!("{:.2}", of(&|round, line| round.ours.cpu_ms / line.cpu_ms)),
            short(of(&|round, _| device_mb(&round.ours))),
            short(of(&|_, line| device_mb(line))),
            format!("{:.2}", of(&|round, line| device_mb(&round.ours) / device_mb(line))),
            format!("{difference:.0e}"),
        ];
        format!("| {} |", cells.join(" | "))
    }

    fn row(&self, peer: Peer, difference: f64, peak: f64) -> String {
        let first = self.work.peers(Device::Cpu).first() == Some(&peer);
        let [time_goal, memory_goal] = if first { self.work.goals } else { [None; 2] };
        let of = |figure: &dyn Fn(&Round, &Line) -> f64| self.middle(peer, figure);
        let limit_ms = self.flops / peak / 1e6;
        let own_mb = |line: &Line| line.peak_mb - line.libraries_mb;
        let goal = |goal: Option<f64>| goal.map_or_else(String::new, |goal| format!("{goal:.2}"));
        let cells = [
            self.work.title.to_owned(),
            self.named(peer),
            short(of(&|round, _| round.ours.median_ms())),
            short(of(&|_, line| line.median_ms())),
            format!("{:.2}", of(&|round, line| round.ours.median_ms() / line.median_ms())),
            goal(time_goal),
            format!("{:.2}", of(&|round, line| round.ours.cpu_ms / line.cpu_ms)),
            short(of(&|round, _| round.ours.peak_mb)),
            short(of(&|_, line| line.peak_mb)),
            format!("{:.3}", of(&|round, line| round.ours.peak_mb / line.peak_mb)),
            goal(memory_goal),
            format!("{:.3}", of(&|round, line| own_mb(&round.ours) / own_mb(line))),
            short(limit_ms),
            format!("{:.2}", of(&|round, _| limit_ms / round.ours.median_ms())),
            format!("{difference:.0e}"),
        ];
        format!("| {} |", cells.join(" | "))
    }
}

/// Three digits or more, none without meaning.
fn short(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { format!("{number:.0}") }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn line(step_ms: f64, peak_mb: f64) -> Line {
        Line {
            step_ms: vec![step_ms],
            cpu_ms: 2.0 * step_ms,
            libraries_mb: 50.0,
            loaded_mb: 60.0,
            peak_mb,
            device_mb: Some(peak_mb / 2.0),
            checks: BTreeMap::new(),
            versions: BTreeMap::from([("PyTorch".into(), "2.15.0".into())]),
        }
    }

    fn round(gflops: f64, ours_ms: f64, theirs_ms: f64) -> Round {
        let theirs = vec![(Peer::TorchF32, line(theirs_ms, 1000.0))];
        Round { gflops, ours: line(ours_ms, 150.0), theirs }
    }

    #[test]
    fn the_fastest_of_several_peers_is_marked() {
        let theirs =
            [(Peer::TorchF32, 90.0), (Peer::TorchBf16, 80.0), (Peer::TorchBf16Weights, 70.0)];
        let differences = theirs.map(|(peer, _)| (peer, 1e-3)).to_vec();
        let theirs = theirs.map(|(peer, time_ms)| (peer, line(time_ms, 1000.0))).to_vec();
        let rounds = vec![Round { gflops: 100.0, ours: line(50.0, 150.0), theirs }];
        let work = Work::named("15m").unwrap();
        let measured = Measured { work, flops: 3e9, differences, rounds };
        let named = [Peer::TorchF32, Peer::TorchBf16, Peer::TorchBf16Weights];
        let expected = [
            "PyTorch + PEFT, f32",
            "PyTorch + PEFT, bf16 autocast",
            "PyTorch + PEFT, bf16 weights, the fastest",
        ];
        assert_eq!(named.map(|peer| measured.named(peer)), expected);
    }

    #[test]
    fn a_row_holds_medians_and_the_median_of_ratios_within_rounds() {
        let rounds =
            vec![round(100.0, 50.0, 100.0), round(100.0, 300.0, 500.0), round(50.0, 70.0, 100.0)];
        let work = Work::named("15m").unwrap();
        let differences = vec![(Peer::TorchF32, 2e-6)];
        let mut table = Table::new(Device::Cpu, 2, [3, 5]);
        table.add(Measured { work, flops: 3e9, differences, rounds });
        let text = table.text();
        let row = text.lines().find(|line| line.starts_with("| 15M")).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let expected = [
            "15M shape, all layers",
            "PyTorch + PEFT, f32",
            "70.0",
            "100",
            "0.60",
            "0.55",
            "0.60",
            "150",
            "1000",
            "0.150",
            "0.15",
            "0.105",
            "30.0",
            "0.43",
            "2e-6",
        ];
        assert_eq!(cells[1..16], expected);
        assert!(text.contains("PyTorch 2.15.0") && text.contains("2 threads"));
        table.device = Device::Metal;
        let text = table.text();
        let row = text.lines().find(|line| line.starts_with("| 15M")).unwrap();
        assert!(row.ends_with("| 70.0 | 100 | 0.60 | 0.60 | 75.0 | 500 | 0.15 | 2e-6 |"), "{row}");
    }
}
