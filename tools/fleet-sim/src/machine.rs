//! What processes and files cost: processor time and memory from `/proc`, sizes of files.
//!
//! - Out: numbers; zeros where the system does not tell.

use std::fs;
use std::path::Path;

/// Ticks of a second in `/proc/PID/stat`: Linux has 100 on every machine.
const TICKS: f64 = 100.0;
/// Bytes of a unit of `/proc/PID/status`.
const UNIT: u64 = 1024;

/// What a process has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Processor seconds, its own and the system's for it.
    pub cpu_s: f64,
    /// Resident bytes now.
    pub resident: u64,
    /// Most resident bytes so far.
    pub peak: u64,
}

/// What a process has cost until now.
pub fn cost(process: u32) -> Cost {
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}"));
    let [stat, status] = ["stat", "status"].map(|name| read(name).unwrap_or_default());
    Cost { cpu_s: cpu_s(&stat), resident: units(&status, "VmRSS:"), peak: units(&status, "VmHWM:") }
}

fn cpu_s(stat: &str) -> f64 {
    // The name in brackets may hold anything.
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS
}

fn units(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let units = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    units.unwrap_or(0) * UNIT
}

/// Processes that wanted to run in the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// Bytes of the files whose names begin so, or of all in a folder.
pub fn bytes(folder: &Path, begin: &str) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        match is_folder && begin.is_empty() {
            true => bytes(&entry.path(), ""),
            false => entry.metadata().map_or(0, |about| about.len()),
        }
    };
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(begin);
    entries.flatten().filter(named).map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_this_process_is_known() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 90 0 0 0 250 50 0 0 20 0 1 0 5 9 8";
        assert_eq!(cpu_s(stat), 3.0);
        assert_eq!((cpu_s(""), units("VmRSS:\t  12 kB\n", "VmRSS:")), (0.0, 12 * 1024));
        let cost = cost(std::process::id());
        assert!(cost.resident > 0 && cost.peak >= cost.resident, "{cost:?}");
    }
}
