//! What the device can tell of itself: heat, power, memory, storage, load; every reading optional.
//!
//! - In: roots of sysfs and procfs from the configuration; on macOS the system's own calls. Out:
//!   [`Readings`].
//! - Never here: what a reading means for learning (`constraints`).
//! - A reading that cannot be had is `None`, never an error: a device without a battery still learns.
//!   Files may hold anything, be too long, or be folders; what is out of all reason is `None` too.

mod files;
mod heat;
mod kernel;
mod supply;
mod rails;
#[cfg(target_os = "macos")]
mod mac;
#[cfg(test)]
mod tests;

use crate::config;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What could be read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Readings {
    /// The hottest thermal zone that counts, in degrees Celsius.
    pub celsius: Option<f32>,
    /// Whether the device is on power; one without a battery is.
    pub charging: Option<bool>,
    /// Charge of the battery, in percent; none without one.
    pub battery_percent: Option<f32>,
    /// What the device draws, in watts.
    pub watts: Option<f32>,
    /// A counter of the energy it has drawn, in joules, where the hardware keeps one.
    pub joules: Option<f64>,
    /// Load a core over the last minute.
    pub load: Option<f32>,
    /// Part of the last 10 s that some task waited for a core, in percent.
    pub processor_stall_percent: Option<f32>,
    /// Memory that can be had, in bytes, the limits of the control group included.
    pub memory_bytes: Option<u64>,
    /// Part of the last 10 s that some task waited for memory, in percent.
    pub memory_stall_percent: Option<f32>,
    /// Free bytes of the state folder's disk.
    pub storage_bytes: Option<u64>,
}

/// Where readings come from; tests bring scripted ones.
pub trait Probes: Send {
    /// All that can be read now.
    fn read(&mut self) -> Readings;

    /// Resident memory of this process, in bytes.
    fn resident_bytes(&mut self) -> Option<u64> {
        None
    }
}

/// All memory of the machine, in bytes; none where procfs does not tell it.
///
/// - `proc`: root of procfs.
pub fn machine_bytes(proc: &Path) -> Option<u64> {
    kernel::machine(proc)
}

/// One thing that was found, or looked for in vain, for a person to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A field of [`Readings`], or a sensor, rail or supply behind one, with its label.
    pub name: String,
    /// The file or folder it comes from, or where it would have to be.
    pub source: String,
    /// What it says now, with its unit; `none` when it cannot be read.
    pub value: String,
}

/// Probes of the system that the program runs on, or of a copy of its files.
#[derive(Debug)]
pub struct SystemProbes {
    config: config::Probes,
    /// The state folder: its disk is the one that may fill up.
    state: PathBuf,
    counters: rails::Counters,
    #[cfg(target_os = "macos")]
    mac: mac::Mac,
}

/// A reading with where it comes from.
type Found<T> = Option<(T, String)>;

/// All readings with where they come from.
struct Sourced {
    celsius: Found<f32>,
    charging: Found<bool>,
    battery_percent: Found<f32>,
    watts: Found<f32>,
    joules: Found<f64>,
    load: Found<f32>,
    processor_stall_percent: Found<f32>,
    memory_bytes: Found<u64>,
    memory_stall_percent: Found<f32>,
    storage_bytes: Found<u64>,
}

impl SystemProbes {
    /// Probes as configured; `state` is the folder whose disk is watched. Nothing is read yet.
    pub fn new(config: config::Probes, state: PathBuf) -> Self {
        Self {
            config,
            state,
            counters: rails::Counters::default(),
            #[cfg(target_os = "macos")]
            mac: mac::Mac::default(),
        }
    }

    /// What was found and where: every reading, then every sensor, rail and supply behind them. It
    /// shows what `[probes] thermal-types` and `rail` may name.
    pub fn describe(&mut self) -> Vec<Finding> {
        let readings = self.sourced().findings(&self.config.sys, &self.config.proc, &self.state);
        let sensors = heat::sensors(&self.config.sys, &self.config.thermal_types);
        let sensors = sensors.into_iter().map(|sensor| Finding {
            name: format!("sensor {}", sensor.kind),
            source: sensor.source,
            value: format!("{:.1} C", sensor.celsius),
        });
        let rails = rails::rails(&self.config.sys).into_iter().map(|rail| Finding {
            name: format!("rail {}", rail.label),
            source: rail.source,
            value: format!("{:.2} W", rail.watts),
        });
        let supply = supply::read(&self.config.sys);
        let batteries = supply.batteries.iter().map(|folder| part("battery", folder, "status"));
        let lines = supply.lines.iter().map(|folder| part("supply", folder, "online"));
        readings.into_iter().chain(sensors).chain(rails).chain(batteries).chain(lines).collect()
    }

    fn sourced(&mut self) -> Sourced {
        let config::Probes { sys, proc, thermal_types, rail } = &self.config;
        let sensors = heat::sensors(sys, thermal_types);
        let hottest = heat::hottest(&sensors);
        let supply = supply::read(sys);
        let folders = if supply.batteries.is_empty() { &supply.lines } else { &supply.batteries };
        let named = match folders.first() {
            Some(folder) => folder.display().to_string(),
            None => sys.join("class/power_supply").display().to_string() + " (empty: no battery)",
        };
        let drawn = rails::drawn(&rails::rails(sys), rail.as_deref());
        let file = |path: &str| proc.join(path).display().to_string();
        let stall = |what: &str| {
            Some((kernel::stall_percent(proc, what)?, file(&format!("pressure/{what}"))))
        };
        let found = Sourced {
            celsius: hottest.map(|sensor| (sensor.celsius, sensor.source.clone())),
            charging: supply.charging.map(|on| (on, named.clone())),
            battery_percent: supply.percent.map(|percent| (percent, named.clone())),
            watts: drawn.or_else(|| Some((supply.watts?, named))),
            joules: self.counters.read(sys),
            load: kernel::load(sys, proc).map(|load| (load, file("loadavg"))),
            processor_stall_percent: stall("cpu"),
            memory_bytes: kernel::memory(sys, proc),
            memory_stall_percent: stall("memory"),
            storage_bytes: free_bytes(&self.state)
                .map(|bytes| (bytes, self.state.display().to_string())),
        };
        // Another root is a copy of another device's files; this machine has no say in it.
        #[cfg(target_os = "macos")]
        let found = if *sys == config::Probes::default().sys {
            self.mac.fill(found, thermal_types)
        } else {
            found
        };
        found
    }
}

impl Probes for SystemProbes {
    fn read(&mut self) -> Readings {
        self.sourced().readings()
    }

    fn resident_bytes(&mut self) -> Option<u64> {
        kernel::resident(&self.config.proc)
    }
}

impl Sourced {
    fn readings(self) -> Readings {
        fn value<T>(from: Found<T>) -> Option<T> {
            from.map(|(value, _)| value)
        }
        Readings {
            celsius: value(self.celsius),
            charging: value(self.charging),
            battery_percent: value(self.battery_percent),
            watts: value(self.watts),
            joules: value(self.joules),
            load: value(self.load),
            processor_stall_percent: value(self.processor_stall_percent),
            memory_bytes: value(self.memory_bytes),
            memory_stall_percent: value(self.memory_stall_percent),
            storage_bytes: value(self.storage_bytes),
        }
    }

    /// One line a reading; one that is missing names the place that was searched.
    fn findings(self, sys: &Path, proc: &Path, state: &Path) -> Vec<Finding> {
        fn line<T>(name: &str, found: Found<T>, at: &Path, show: fn(T) -> String) -> Finding {
            let (value, source) = match found {
                Some((value, source)) => (show(value), source),
                None => ("none".to_owned(), at.display().to_string()),
            };
            Finding { name: name.to_owned(), source, value }
        }
        let class = ["thermal", "power_supply", "hwmon", "powercap"];
        let [heat, supplies, rails, counters] = class.map(|name| sys.join("class").join(name));
        let [load, memory, cpu_stall, memory_stall] =
            ["loadavg", "meminfo", "pressure/cpu", "pressure/memory"].map(|name| proc.join(name));
        let percent = |value: f32| format!("{value:.1} %");
        let bytes = |value: u64| format!("{} MiB", value >> 20);
        vec![
            line("celsius", self.celsius, &heat, |celsius| format!("{celsius:.1} C")),
            line("charging", self.charging, &supplies, |on| on.to_string()),
            line("battery_percent", self.battery_percent, &supplies, percent),
            line("watts", self.watts, &rails, |watts| format!("{watts:.2} W")),
            line("joules", self.joules, &counters, |joules| format!("{joules:.1} J")),
            line("load", self.load, &load, |load| format!("{load:.2} a core")),
            line("processor_stall_percent", self.processor_stall_percent, &cpu_stall, percent),
            line("memory_bytes", self.memory_bytes, &memory, bytes),
            line("memory_stall_percent", self.memory_stall_percent, &memory_stall, percent),
            line("storage_bytes", self.storage_bytes, state, bytes),
        ]
    }
}

/// A battery or another supply, by what it says in `file`.
fn part(kind: &str, folder: &Path, file: &str) -> Finding {
    Finding {
        name: format!("{kind} {}", files::name(folder)),
        source: folder.display().to_string(),
        value: files::value(&folder.join(file)).unwrap_or_else(|| "none".to_owned()),
    }
}

/// Bytes that this user may still write to the disk of a folder.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}
