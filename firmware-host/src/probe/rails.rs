//! What the device draws: INA3221 power monitors of a Jetson, energy counters of an x86 processor.
//!
//! - In: `class/hwmon/hwmon*` whose name is `ina3221`, `class/powercap/intel-rapl:N/energy_uj`.
//! - The INA3221 has three channels of a label, millivolts and milliamperes. An Orin Nano's `VDD_IN`
//!   feeds the whole module. An AGX Orin has no such rail: its rails are added up.
//! - A RAPL counter wraps at `max_energy_range_uj`; [`Counters`] goes on counting.
//! - Source: the kernel's `hwmon/ina3221` and `power/powercap/powercap`.

use super::files;
use super::supply::WATTS_MAX;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rails that everything hangs on, by board, the best known first.
const WHOLE_BOARD: [&str; 4] = ["VDD_IN", "VIN", "5V_IN", "POM_5V_IN"];

/// One rail that could be read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rail {
    /// Its label.
    pub(super) label: String,
    /// The folder of its monitor.
    pub(super) source: String,
    /// What flows, in watts.
    pub(super) watts: f64,
}

/// Every rail that can be read; a channel that is not connected has no label, or `NC`.
pub(super) fn rails(sys: &Path) -> Vec<Rail> {
    let monitors = files::entries(&sys.join("class/hwmon"), "hwmon").into_iter();
    let monitors =
        monitors.filter(|chip| files::value(&chip.join("name")).as_deref() == Some("ina3221"));
    // Channels above the third are the monitor's own sums.
    monitors.flat_map(|chip| (1..=3).filter_map(move |channel| rail(&chip, channel))).collect()
}

fn rail(chip: &Path, channel: u32) -> Option<Rail> {
    let label = files::value(&chip.join(format!("in{channel}_label")))?;
    if label == "NC" {
        return None;
    }
    let millivolts = files::whole(&chip.join(format!("in{channel}_input")))? as f64;
    let milliamperes = files::whole(&chip.join(format!("curr{channel}_input")))? as f64;
    let watts = millivolts * milliamperes / 1e6;
    let sane = watts.abs() <= WATTS_MAX;
    sane.then(|| Rail { label, source: chip.display().to_string(), watts })
}

/// What the device draws, and the rails that say so: the one named `wanted`, or the one that feeds the
/// whole board, or all of them together.
pub(super) fn drawn(rails: &[Rail], wanted: Option<&str>) -> Option<(f32, String)> {
    let labelled = |label: &str| rails.iter().find(|rail| rail.label == label);
    let one = match wanted {
        Some(label) => Some(labelled(label)?),
        None => WHOLE_BOARD.iter().find_map(|label| labelled(label)),
    };
    let counted: Vec<&Rail> = one.map_or_else(|| rails.iter().collect(), |rail| vec![rail]);
    let watts = counted.iter().map(|rail| rail.watts).sum::<f64>();
    let labels: Vec<&str> = counted.iter().map(|rail| rail.label.as_str()).collect();
    let sane = !counted.is_empty() && (0.0..=WATTS_MAX).contains(&watts);
    sane.then(|| (watts as f32, labels.join(" + ")))
}

/// Energy counters of the processor packages, or of the platform where there is one.
#[derive(Debug, Default)]
pub(super) struct Counters(BTreeMap<PathBuf, Counter>);

#[derive(Debug)]
struct Counter {
    /// As read last, in microjoules.
    last: u64,
    /// Since the first reading, in joules.
    joules: f64,
}

impl Counters {
    /// Joules since the first call, and the counters that say so.
    pub(super) fn read(&mut self, sys: &Path) -> Option<(f64, String)> {
        let mut sum = 0.0;
        let mut sources = Vec::new();
        for domain in domains(sys) {
            let micro = |name: &str| u64::try_from(files::whole(&domain.join(name))?).ok();
            let Some(now) = micro("energy_uj") else { continue };
            let range = micro("max_energy_range_uj").unwrap_or(0);
            sources.push(domain.display().to_string());
            let counter = self.0.entry(domain).or_insert(Counter { last: now, joules: 0.0 });
            counter.joules += since(counter.last, now, range) as f64 / 1e6;
            counter.last = now;
            sum += counter.joules;
        }
        (!sources.is_empty()).then(|| (sum, sources.join(" + ")))
    }
}

/// Microjoules from one reading to the next; a counter that began anew gives none.
fn since(last: u64, now: u64, range: u64) -> u64 {
    match now.checked_sub(last) {
        Some(spent) => spent,
        None => range.checked_sub(last).map_or(0, |rest| rest.saturating_add(now)),
    }
}

/// The domains that count: `psys` holds all others, `package-*` hold their cores.
fn domains(sys: &Path) -> Vec<PathBuf> {
    let all = files::entries(&sys.join("class/powercap"), "intel-rapl:");
    let named = |path: &PathBuf| Some((files::value(&path.join("name"))?, path.clone()));
    let all: Vec<(String, PathBuf)> = all.iter().filter_map(named).collect();
    // Who may not read the platform's counter may still read the packages'.
    let readable = |path: &Path| files::whole(&path.join("energy_uj")).is_some();
    let platform = all.iter().find(|(name, path)| name == "psys" && readable(path));
    if let Some((_, path)) = platform {
        return vec![path.clone()];
    }
    all.into_iter().filter(|(name, _)| name.starts_with("package")).map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_wraps_goes_on_and_one_that_began_anew_gives_nothing() {
        assert_eq!(since(100, 250, 1_000), 150);
        assert_eq!(since(900, 50, 1_000), 150);
        assert_eq!(since(900, 50, 0), 0, "where it wraps is not known");
        assert_eq!(since(u64::MAX, 5, 1_000), 0);
        assert_eq!(since(1, 0, u64::MAX), u64::MAX - 1);
    }
}
