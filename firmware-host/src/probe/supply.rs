//! Whether the device is on power, and how full its battery is.
//!
//! - In: `class/power_supply/*`. Out: a [`Supply`].
//! - Without a battery of its own the device is on power, whatever else is listed: it runs. A Jetson
//!   AGX on its barrel jack lists its USB-C port as a supply that is offline.
//! - Batteries of mice and keyboards (`scope` is `Device`) are not the device's.
//! - Source: the kernel's `ABI/testing/sysfs-class-power`; micro-units.

use super::files;
use std::path::{Path, PathBuf};

/// More is no device that this program runs on.
pub(super) const WATTS_MAX: f64 = 10_000.0;

/// What the supplies say together.
#[derive(Debug, Default)]
pub(super) struct Supply {
    /// Whether the device is on power; none when a battery does not say.
    pub(super) charging: Option<bool>,
    /// Charge of all batteries together, in percent.
    pub(super) percent: Option<f32>,
    /// What the batteries give, in watts, while they are the only source.
    pub(super) watts: Option<f32>,
    /// Folders of the batteries.
    pub(super) batteries: Vec<PathBuf>,
    /// Folders of the other supplies.
    pub(super) lines: Vec<PathBuf>,
}

/// Reads all supplies.
pub(super) fn read(sys: &Path) -> Supply {
    let mut supply = Supply::default();
    for folder in files::entries(&sys.join("class/power_supply"), "") {
        match files::value(&folder.join("type")).as_deref() {
            Some("Battery" | "UPS") if is_own_battery(&folder) => supply.batteries.push(folder),
            Some("Battery" | "UPS") | None => {}
            Some(_) => supply.lines.push(folder),
        }
    }
    supply.charging = charging(&supply.batteries, &supply.lines);
    supply.percent = percent(&supply.batteries);
    if supply.charging == Some(false) {
        supply.watts = drawn(&supply.batteries);
    }
    supply
}

fn is_own_battery(folder: &Path) -> bool {
    files::value(&folder.join("scope")).as_deref() != Some("Device")
        && files::whole(&folder.join("present")) != Some(0)
}

/// A line that is online or a battery that fills means power; a battery that empties, or lines that
/// are all offline, means none. "Full" and "Not charging" say nothing against a line that is online,
/// and where no line is listed they mean power too: a battery on its own discharges.
fn charging(batteries: &[PathBuf], lines: &[PathBuf]) -> Option<bool> {
    if batteries.is_empty() {
        return Some(true);
    }
    let online: Vec<i64> =
        lines.iter().filter_map(|line| files::whole(&line.join("online"))).collect();
    let states: Vec<String> =
        batteries.iter().filter_map(|folder| files::value(&folder.join("status"))).collect();
    let any = |state: &str| states.iter().any(|found| found == state);
    if online.iter().any(|&mode| mode > 0) || any("Charging") {
        Some(true)
    } else if !online.is_empty() || any("Discharging") {
        Some(false)
    } else {
        (any("Full") || any("Not charging")).then_some(true)
    }
}

/// By energy or charge where every battery tells it, otherwise the mean of their percentages.
fn percent(batteries: &[PathBuf]) -> Option<f32> {
    let by = |now: &str, full: &str| {
        let mut sums = [0.0; 2];
        for folder in batteries {
            sums[0] += files::whole(&folder.join(now))? as f64;
            sums[1] += files::whole(&folder.join(full))? as f64;
        }
        Some((100.0 * sums[0] / sums[1]) as f32)
    };
    let stated: Vec<f32> = batteries
        .iter()
        .filter_map(|folder| files::whole(&folder.join("capacity")))
        .map(|percent| percent as f32)
        .collect();
    let mean = stated.iter().sum::<f32>() / stated.len() as f32;
    let whole = if batteries.len() > 1 {
        by("energy_now", "energy_full").or_else(|| by("charge_now", "charge_full"))
    } else {
        None
    };
    // 0/0 is no number, and no range holds that.
    whole.or(Some(mean)).filter(|percent| (0.0..=100.0).contains(percent))
}

/// Power, or current times voltage; some drivers give what flows out a minus.
fn drawn(batteries: &[PathBuf]) -> Option<f32> {
    let watts = |folder: &PathBuf| {
        let micro = |name: &str| files::whole(&folder.join(name)).map(|value| value as f64 / 1e6);
        micro("power_now").or_else(|| Some(micro("current_now")? * micro("voltage_now")?))
    };
    let all: Vec<f64> = batteries.iter().filter_map(watts).map(f64::abs).collect();
    let sum = all.iter().sum::<f64>();
    (!all.is_empty() && sum <= WATTS_MAX).then_some(sum as f32)
}
