//! What macOS tells through its own calls, where Linux has sysfs and procfs.
//!
//! - In: `sysinfo` for heat, load and memory, `starship-battery` for the battery. Out: the readings
//!   that the files did not give.
//! - A Mac without a battery is on power.

use super::supply::WATTS_MAX;
use super::{Found, Sourced};
use starship_battery::units::power::watt;
use starship_battery::units::ratio::percent;
use starship_battery::{Battery, Manager, State};
use std::thread::available_parallelism;
use sysinfo::{Components, System};

/// Names of the libraries, as sources.
const SYSINFO: &str = "sysinfo";
const BATTERY: &str = "IOKit";

/// Handles that are worth keeping between readings.
#[derive(Default)]
pub(super) struct Mac {
    system: Option<System>,
    components: Option<Components>,
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, into: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        into.debug_struct("Mac").finish_non_exhaustive()
    }
}

impl Mac {
    /// Fills in what the files did not give.
    pub(super) fn fill(&mut self, found: Sourced, types: &[String]) -> Sourced {
        let batteries = batteries();
        // Without files every device looks as if it had no battery.
        let charging = batteries.as_ref().map(|all| charging(all));
        Sourced {
            celsius: found.celsius.or_else(|| sourced(self.celsius(types), SYSINFO)),
            charging: sourced(charging, BATTERY),
            battery_percent: found
                .battery_percent
                .or_else(|| sourced(batteries.as_ref().and_then(|all| charge(all)), BATTERY)),
            watts: found
                .watts
                .or_else(|| sourced(batteries.as_ref().and_then(|all| drawn(all)), BATTERY)),
            load: found.load.or_else(|| sourced(load(), SYSINFO)),
            memory_bytes: found.memory_bytes.or_else(|| sourced(self.memory(), SYSINFO)),
            ..found
        }
    }

    fn celsius(&mut self, types: &[String]) -> Option<f32> {
        if self.components.is_none() {
            self.components = Components::new_with_refreshed_list().ok();
        }
        let components = self.components.as_mut()?;
        components.refresh(false);
        let counts = |label: &str| {
            types.is_empty() || types.iter().any(|wanted| label.starts_with(wanted.as_str()))
        };
        components
            .iter()
            .filter(|component| counts(component.label()))
            .filter_map(|component| component.temperature())
            .filter(|celsius| (-50.0..=200.0).contains(celsius))
            .max_by(f32::total_cmp)
    }

    fn memory(&mut self) -> Option<u64> {
        if self.system.is_none() {
            self.system = System::new().ok();
        }
        let system = self.system.as_mut()?;
        system.refresh_memory();
        // 0 is how the library says that it does not know.
        Some(system.available_memory()).filter(|&bytes| bytes > 0)
    }
}

fn sourced<T>(value: Option<T>, source: &str) -> Found<T> {
    value.map(|value| (value, source.to_owned()))
}

/// All batteries; none when the system does not say whether there are any.
fn batteries() -> Option<Vec<Battery>> {
    Some(Manager::new().ok()?.batteries().ok()?.flatten().collect())
}

/// On macOS a battery discharges when, and only when, no power is connected; all other states, unknown
/// and empty too, come with a charger.
fn charging(batteries: &[Battery]) -> bool {
    batteries.iter().all(|battery| battery.state() != State::Discharging)
}

fn charge(batteries: &[Battery]) -> Option<f32> {
    let sum: f32 = batteries.iter().map(|battery| battery.state_of_charge().get::<percent>()).sum();
    // 0/0 is no number, and no range holds that.
    Some(sum / batteries.len() as f32).filter(|charge| (0.0..=100.0).contains(charge))
}

/// While the batteries are the only source, what they give is what the device draws.
fn drawn(batteries: &[Battery]) -> Option<f32> {
    let watts = batteries.iter().map(|battery| battery.energy_rate().get::<watt>().abs()).sum();
    let sane = !charging(batteries) && f64::from(watts) <= WATTS_MAX;
    sane.then_some(watts)
}

fn load() -> Option<f32> {
    let minute = System::load_average().ok()?.one as f32;
    let cores = available_parallelism().ok()?.get() as f32;
    minute.is_finite().then_some(minute / cores)
}
