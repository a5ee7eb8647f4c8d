//! What stands in the way of learning now: Android's vocabulary of constraints over the readings.
//!
//! - In: [`Readings`], the [`Situation`] of the program, a clock and a time zone. Out: a [`Look`]: every
//!   constraint that applies, whether a job may start, and whether one that runs may go on.
//! - Never here: what a run has spent (`budget`), doing anything about it (the worker).
//!
//! | constraint | holds when | a job that runs | order | cannot be read |
//! |---|---|---|---|---|
//! | `charging` | on power | stops | skips it | not met |
//! | `idle` | load is low and no text is being generated | stops; its own load is not counted | skips it | not met |
//! | `battery-not-low` | charge at least `battery-low-percent` | stops | holds | met |
//! | `storage-not-low` | free bytes at least `storage-low-bytes` | stops | holds | met |
//! | `temperature` | at most `hot-celsius`, after that at most `cool-celsius` | stops | holds | met |
//! | `windows` | the time of day lies in one of them | stops | skips it | |
//! | `memory` | free bytes at least `memory-low-bytes` | stops | holds | met |
//! | `memory-stall` | at most `memory-stall-percent` | stops | holds | met |
//! | `memory-for-job` | what the job will take is free beside that | goes on | holds | met |
//! | `samples` | `samples-min` wait; 1 for an order, none to go on with a stopped job | goes on | | |
//! | `jobs-per-day` | fewer starts in 24 hours | goes on | skips it | |
//! | `not-paused` | no operator has said otherwise | stops | holds | |
//!
//! - What was asked for and cannot be known is not met: an operator who wants learning on power only
//!   would rather have none. What protects by default is met on a device without the sensor; one that
//!   falls silent leaves what it said last.
//! - Invariant: what a reading has undone stays undone for [`REST`] after the last reading against
//!   it, and until one is better by a margin. So a job cannot stop and start faster than that.
//! - Source: Android's JobInfo and BatteryService (low, and no longer low 5 percent above).

mod latch;
#[cfg(test)]
mod tests;

pub use latch::REST;

use crate::clock::Clock;
use crate::config::{self, Config};
use crate::probe::Readings;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use latch::{Latch, Reading};
use serde::Serialize;
use std::time::Duration;

/// Percent above the bound at which a battery is no longer low.
const BATTERY_MARGIN_PERCENT: f32 = 5.0;
/// Load a core that a job bears above the bound at which it may start.
const IDLE_LOAD_MARGIN: f32 = 0.25;

/// What the program itself is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Situation {
    /// Samples that wait in the inbox.
    pub samples: u64,
    /// Why no samples are asked for, where that is so: a stopped job has its own, others need none.
    pub sampled: Option<&'static str>,
    /// An operator asked for this job: what is a matter of taste is skipped, for as long as it runs.
    pub ordered: bool,
    /// An operator said to wait.
    pub paused: bool,
    /// Texts that are being generated.
    pub serving: u64,
    /// Starts of a job in 24 hours, as `budget::Starts::in_a_day` counts them.
    pub jobs_today: u32,
    /// Load a core of the job under way, its threads over the machine's; 0 while none is.
    pub own_load: f32,
    /// Bytes of memory that a job would take beside what is resident; 0 while one runs.
    pub job_bytes: u64,
}

/// One constraint and whether it holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConstraintState {
    /// Its name, as in the configuration.
    pub name: &'static str,
    /// Whether it holds.
    pub met: bool,
    /// What was read, against what is asked.
    pub why: String,
}

/// What was decided at one look.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Every constraint that is asked for, in the order of the module's table.
    pub states: Vec<ConstraintState>,
    /// Whether a job may start; otherwise all that stands in its way, in one line.
    pub start: Result<(), String>,
    /// Whether a job that runs may go on; otherwise why it must stop, in one line.
    pub go_on: Result<(), String>,
}

/// All constraints, with what they remember of earlier readings.
#[derive(Debug)]
pub struct Constraints {
    config: config::Constraints,
    samples_min: u64,
    jobs_per_day: Option<u32>,
    zone: TimeZone,
    charging: Latch,
    idle: Latch,
    battery: Latch,
    storage: Latch,
    heat: Latch,
    memory: Latch,
    stall: Latch,
}

/// What not being met means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The device is in danger, or was told to wait: nothing starts, and what runs stops.
    Protects,
    /// As `Protects`, but an order is above it.
    Taste,
    /// Nothing starts, what runs goes on.
    Start,
    /// As `Start`, but an order is above it.
    StartTaste,
}

struct Row {
    role: Role,
    state: ConstraintState,
}

fn row(role: Role, name: &'static str, (met, why): (bool, String)) -> Option<Row> {
    Some(Row { role, state: ConstraintState { name, met, why } })
}

impl Constraints {
    /// The constraints of a checked configuration; `zone` is where the windows' times are local.
    pub fn new(config: &Config, zone: TimeZone) -> Self {
        Self {
            config: config.constraints.clone(),
            samples_min: config.job.samples_min,
            jobs_per_day: config.budget.jobs_per_day,
            zone,
            charging: Latch::default(),
            idle: Latch::default(),
            battery: Latch::default(),
            storage: Latch::default(),
            heat: Latch::default(),
            memory: Latch::default(),
            stall: Latch::default(),
        }
    }

    /// Decides, and remembers what was read.
    pub fn look(&mut self, readings: &Readings, situation: &Situation, clock: &dyn Clock) -> Look {
        let at = clock.elapsed();
        let rows = [
            self.charging(at, readings),
            self.idle(at, readings, situation),
            self.battery(at, readings),
            self.storage(at, readings),
            self.temperature(at, readings),
            self.windows(clock.now()),
            self.memory(at, readings),
            self.stall(at, readings),
            self.memory_for_job(readings, situation),
            self.samples(situation),
            self.jobs(situation),
            paused(situation),
        ];
        let rows: Vec<Row> = rows.into_iter().flatten().collect();
        let stops = |roles: &[Role]| {
            let stop = |row: &&Row| !row.state.met && roles.contains(&row.role);
            let tell = |row: &Row| format!("{}: {}", row.state.name, row.state.why);
            let all: Vec<String> = rows.iter().filter(stop).map(tell).collect();
            if all.is_empty() { Ok(()) } else { Err(all.join("; ")) }
        };
        let (start, go_on) = if situation.ordered {
            (stops(&[Role::Protects, Role::Start]), stops(&[Role::Protects]))
        } else {
            let start = [Role::Protects, Role::Taste, Role::Start, Role::StartTaste];
            (stops(&start), stops(&[Role::Protects, Role::Taste]))
        };
        Look { states: rows.into_iter().map(|row| row.state).collect(), start, go_on }
    }

    fn charging(&mut self, at: Duration, readings: &Readings) -> Option<Row> {
        if !self.config.charging {
            return None;
        }
        let on = readings.charging == Some(true);
        let shown = match readings.charging {
            Some(true) => "on power",
            Some(false) => "on battery",
            None => "asked for, but this device does not tell whether it is on power",
        };
        let reading = Reading { fails: !on, recovers: on, shown: shown.to_owned() };
        row(Role::Taste, "charging", self.charging.look(at, Some(reading), Default::default()))
    }

    fn idle(&mut self, at: Duration, readings: &Readings, situation: &Situation) -> Option<Row> {
        if !self.config.idle {
            return None;
        }
        let limit = self.config.idle_load;
        let own = situation.own_load.max(0.0);
        let bears = if own > 0.0 { limit + IDLE_LOAD_MARGIN } else { limit };
        let others = readings.load.map(|load| (load - own).max(0.0));
        let quiet = situation.serving == 0;
        let load = match others {
            Some(load) => format!("load of others {load:.2} a core"),
            None => "asked for, but this device does not tell its load".to_owned(),
        };
        let reading = Reading {
            fails: !quiet || others.is_none_or(|load| load > bears),
            recovers: quiet && others.is_some_and(|load| load <= limit),
            shown: format!("{load}, {} texts being generated", situation.serving),
        };
        let asks = [bears, limit].map(|load| format!("at most {load:.2} and no text"));
        row(Role::Taste, "idle", self.idle.look(at, Some(reading), asks))
    }

    fn battery(&mut self, at: Duration, readings: &Readings) -> Option<Row> {
        if !self.config.battery_not_low {
            return None;
        }
        let low = self.config.battery_low_percent;
        let back = (low + BATTERY_MARGIN_PERCENT).min(100.0);
        let reading = readings.battery_percent.map(|percent| Reading {
            fails: percent < low,
            recovers: percent >= back,
            shown: format!("{percent:.0} %"),
        });
        let asks = [low, back].map(|percent| format!("at least {percent:.0} %"));
        let held = self.battery.look(at, reading, asks);
        row(Role::Protects, "battery-not-low", held)
    }

    fn storage(&mut self, at: Duration, readings: &Readings) -> Option<Row> {
        if !self.config.storage_not_low {
            return None;
        }
        let low = self.config.storage_low_bytes;
        let (reading, asks) = room(readings.storage_bytes, [low, low.saturating_add(low / 8)]);
        let held = self.storage.look(at, reading, asks);
        row(Role::Protects, "storage-not-low", held)
    }

    fn temperature(&mut self, at: Duration, readings: &Readings) -> Option<Row> {
        let bounds = [self.config.hot_celsius, self.config.cool_celsius];
        let held = self.heat.most(at, readings.celsius, bounds, "C");
        row(Role::Protects, "temperature", held)
    }

    fn windows(&self, now: Timestamp) -> Option<Row> {
        let windows = &self.config.windows;
        if windows.is_empty() {
            return None;
        }
        let time = self.zone.to_datetime(now).time();
        let listed = windows.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let why = format!("{:02}:{:02}, asked for {listed}", time.hour(), time.minute());
        let met = windows.iter().any(|window| window.contains(time));
        row(Role::Taste, "windows", (met, why))
    }

    fn memory(&mut self, at: Duration, readings: &Readings) -> Option<Row> {
        let low = self.config.memory_low_bytes;
        let (reading, asks) = room(readings.memory_bytes, [low, memory_back(low)]);
        let held = self.memory.look(at, reading, asks);
        row(Role::Protects, "memory", held)
    }

    fn stall(&mut self, at: Duration, readings: &Readings) -> Option<Row> {
        let most = self.config.memory_stall_percent;
        let held = self.stall.most(at, readings.memory_stall_percent, [most, 0.5 * most], "%");
        row(Role::Protects, "memory-stall", held)
    }

    /// A job that leaves less than the bound would be stopped as soon as it has taken its memory.
    fn memory_for_job(&self, readings: &Readings, situation: &Situation) -> Option<Row> {
        let free = readings.memory_bytes.filter(|_| situation.job_bytes > 0)?;
        let needed = memory_back(self.config.memory_low_bytes).saturating_add(situation.job_bytes);
        let why = format!("{} MiB free, {} MiB asked for", free >> 20, needed.div_ceil(1 << 20));
        row(Role::Start, "memory-for-job", (free >= needed, why))
    }

    fn samples(&self, situation: &Situation) -> Option<Row> {
        let (waiting, least) = (situation.samples, self.samples_min);
        if let Some(why) = situation.sampled {
            return row(Role::Start, "samples", (true, why.into()));
        }
        let least = if situation.ordered { 1 } else { least };
        let why = format!("{waiting} wait, {least} asked for");
        row(Role::Start, "samples", (waiting >= least, why))
    }

    fn jobs(&self, situation: &Situation) -> Option<Row> {
        let (begun, most) = (situation.jobs_today, self.jobs_per_day?);
        let why = format!("{begun} of {most} begun in 24 hours");
        row(Role::StartTaste, "jobs-per-day", (begun < most, why))
    }
}

fn paused(situation: &Situation) -> Option<Row> {
    let why = if situation.paused { "paused by an operator, until `resume`" } else { "not paused" };
    row(Role::Protects, "not-paused", (!situation.paused, why.to_owned()))
}

/// Free memory at which a job may start again.
fn memory_back(low: u64) -> u64 {
    low.saturating_add(low / 4)
}

/// Free bytes against the least there must be, and the least to come back.
fn room(free: Option<u64>, [low, back]: [u64; 2]) -> (Option<Reading>, [String; 2]) {
    let reading = free.map(|free| Reading {
        fails: free < low,
        recovers: free >= back,
        shown: format!("{} MiB free", free >> 20),
    });
    (reading, [low, back].map(|bytes| format!("at least {} MiB", bytes.div_ceil(1 << 20))))
}
