//! What the device can tell of itself: heat, power, memory, storage, load; every reading optional.
//!
//! - In: roots of sysfs and procfs from the configuration; on macOS the system's own calls. Out:
//!   [`Readings`].
//! - Never here: what a reading means for learning (`constraints`).
//! - A reading that cannot be had is `None`, never an error: a device without a battery still learns.
//!   Files may hold anything, be too long, or be folders; what is out of all reason is `None` too.

mod readings;
mod files;
mod heat;
mod kernel;
mod supply;
mod rails;
#[cfg(target_os = "macos")]
mod mac;
#[cfg(test)]
mod tests;

pub use readings::{Finding, Gauge, Readings};

use crate::config;
#[cfg(target_os = "macos")]
use readings::Found;
use readings::{Roots, Sourced};
use std::path::{Path, PathBuf};

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
        let found = self.sourced();
        let config::Probes { sys, proc, .. } = &self.config;
        let readings = found.findings(&Roots { sys, proc, state: &self.state });
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

/// A battery or another supply, by what it says in `file`.
fn part(kind: &str, folder: &Path, file: &str) -> Finding {
    Finding {
        name: format!("{kind} {}", files::name(folder)),
        source: folder.display().to_string(),
        value: files::value(&folder.join(file)).unwrap_or_else(|| "none".to_owned()),
    }
}

/// Bytes that this user may still write to the disk of a folder.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}
