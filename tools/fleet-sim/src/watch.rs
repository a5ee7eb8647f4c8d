//! A row a minute: what was answered, how fast, and what it cost.
//!
//! - In: counts that grow, processes, a folder. Out: rows, as text of a CSV file.

use crate::machine::{self, Cost};
use crate::operator::Operator;
use crate::tally::{Calls, Kind, now};
use crate::world::World;
use fleet_server::rollout::STAGES;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// A column: its name, and its number in a row.
pub type Column = (&'static str, fn(&Row) -> f64);

const MIB: f64 = (1 << 20) as f64;

/// What was so in a minute, or at its end.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Real seconds since the start, and of this row.
    pub real_s: [f64; 2],
    /// Simulated ms since the start.
    pub simulated_ms: u64,
    /// What was called.
    pub calls: Calls,
    /// Devices that take part.
    pub enrolled: u64,
    /// What servers cost in it, memory at its end; together, where there are several.
    pub server: Cost,
    /// The same of this program.
    pub own: Cost,
    /// Bytes of the book, and of adapters.
    pub stored: [u64; 2],
    /// Bytes up and down.
    pub bytes: [u64; 2],
    /// Rounds that ended.
    pub rounds: u64,
    /// The newest release: sequence, per cent of its stage, whether it is offered.
    pub release: Option<(u64, u64, &'static str)>,
    /// Devices that run the bad release.
    pub run_bad: u64,
    /// Processes that wanted to run.
    pub load: f64,
}

/// Every column.
pub const COLUMNS: [Column; 25] = [
    ("real_s", |row| row.real_s[0]),
    ("simulated_min", |row| row.simulated_ms as f64 / 60_000.0),
    ("enrolled", |row| row.enrolled as f64),
    ("check_ins_per_s", |row| row.calls.whole.count() as f64 / row.real_s[1]),
    ("p50_ms", |row| row.calls.whole.quantile(0.5) as f64 / 1000.0),
    ("p90_ms", |row| row.calls.whole.quantile(0.9) as f64 / 1000.0),
    ("p99_ms", |row| row.calls.whole.quantile(0.99) as f64 / 1000.0),
    ("max_ms", |row| row.calls.whole.max() as f64 / 1000.0),
    ("answer_p50_ms", |row| row.calls.answer.quantile(0.5) as f64 / 1000.0),
    ("answer_p99_ms", |row| row.calls.answer.quantile(0.99) as f64 / 1000.0),
    ("tls_p50_ms", |row| row.calls.shake.quantile(0.5) as f64 / 1000.0),
    ("uploads", |row| row.calls.ended(Kind::Upload, "ok") as f64),
    ("downloads", |row| row.calls.ended(Kind::Artifact, "ok") as f64),
    ("errors", |row| row.calls.errors() as f64),
    ("server_cpu", |row| row.server.cpu_s / row.real_s[1]),
    ("server_mib", |row| row.server.resident as f64 / MIB),
    ("own_cpu", |row| row.own.cpu_s / row.real_s[1]),
    ("own_mib", |row| row.own.resident as f64 / MIB),
    ("book_mib", |row| row.stored[0] as f64 / MIB),
    ("blobs_mib", |row| row.stored[1] as f64 / MIB),
    ("up_mib", |row| row.bytes[0] as f64 / MIB),
    ("down_mib", |row| row.bytes[1] as f64 / MIB),
    ("rounds", |row| row.rounds as f64),
    ("run_bad", |row| row.run_bad as f64),
    ("load", |row| row.load),
];

/// Rows as a CSV file.
pub fn csv(rows: &[Row]) -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let mut text = format!("{},sequence,per_cent,state\n", names.join(","));
    for row in rows {
        for (_, number) in COLUMNS {
            // Writing to a string cannot fail.
            let _ = write!(text, "{:.3},", number(row));
        }
        let (sequence, per_cent, state) = row.release.unwrap_or((0, 0, ""));
        let _ = writeln!(text, "{sequence},{per_cent},{state}");
    }
    text
}

/// Who looks.
pub struct Watch {
    world: Arc<World>,
    folder: Option<PathBuf>,
    processes: Vec<u32>,
    operator: Option<Operator>,
    begun: Instant,
    last_s: f64,
    costs: [Cost; 2],
    bytes: [u64; 2],
}

impl Watch {
    /// Over servers' processes, and a folder where it is on this machine.
    #[expect(clippy::disallowed_methods, reason = "rates are by real time")]
    pub fn new(
        world: Arc<World>,
        folder: Option<PathBuf>,
        processes: Vec<u32>,
        operator: Option<Operator>,
    ) -> Self {
        let (begun, last_s) = (Instant::now(), 0.0);
        let mut watch = Self {
            world,
            folder,
            processes,
            operator,
            begun,
            last_s,
            costs: Default::default(),
            bytes: [0; 2],
        };
        watch.costs = watch.cost();
        watch
    }

    fn cost(&self) -> [Cost; 2] {
        let servers = self.processes.iter().map(|process| machine::cost(*process));
        let sum = |all: Cost, one: Cost| Cost {
            cpu_s: all.cpu_s + one.cpu_s,
            resident: all.resident + one.resident,
            peak: all.peak + one.peak,
        };
        [servers.fold(Cost::default(), sum), machine::cost(std::process::id())]
    }

    /// What it cost from the start until now.
    pub fn costs(&self) -> [Cost; 2] {
        self.cost()
    }

    /// The row of what was since the last one.
    ///
    /// - `rounds`: how many ended until now.
    pub fn row(&mut self, rounds: u64) -> Row {
        let real_s = self.begun.elapsed().as_secs_f64();
        let (costs, bytes) = (self.cost(), self.world.lines.bytes());
        let since = |at: usize| Cost { cpu_s: costs[at].cpu_s - self.costs[at].cpu_s, ..costs[at] };
        let folder = self.folder.as_deref();
        let stored = |folder: &std::path::Path| {
            [machine::bytes(folder, "fleet.db"), machine::bytes(&folder.join("blobs"), "")]
        };
        let newest = self.operator.as_ref().and_then(|operator| operator.newest().ok().flatten());
        let row = Row {
            real_s: [real_s, (real_s - self.last_s).max(1e-3)],
            simulated_ms: self.world.time.passed_ms(),
            calls: self.world.tally.minute(),
            enrolled: now(&self.world.tally.enrolled),
            server: since(0),
            own: since(1),
            stored: folder.map_or([0; 2], stored),
            bytes: [0, 1].map(|at| bytes[at] - self.bytes[at]),
            rounds,
            release: newest.map(|release| {
                let per_cent = STAGES.get(release.stage as usize).copied().unwrap_or(100);
                (release.sequence, per_cent, release.state.name())
            }),
            run_bad: now(&self.world.tally.run_bad),
            load: machine::load(),
        };
        (self.last_s, self.costs, self.bytes) = (real_s, costs, bytes);
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_number_for_every_column() {
        let text = csv(&[Row { real_s: [60.0, 60.0], ..Row::default() }]);
        let widths: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(widths, [COLUMNS.len() + 3; 2]);
        assert!(text.lines().nth(1).is_some_and(|row| row.starts_with("60.000,0.000,0.000,")));
    }
}
