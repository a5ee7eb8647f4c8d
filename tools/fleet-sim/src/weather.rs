//! What befalls devices: slow lines, clocks at 1970, nights, power cuts, copied and hostile ones.
//!
//! - In: shares. Out: which device meets what; the same seed, the same devices.
//! - Never here: what follows from it.

use crate::luck::Luck;
use fleet_server::aggregate::attacks::Attack;

const HOUR_MS: u64 = 3_600_000;
/// Hours of a day in which a device is switched on.
const DAY_HOURS: u64 = 14;

/// What the operator of a simulation asks for.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Whether devices are off at night, each in a time zone of its own.
    pub nights: bool,
    /// Share of devices on slow lines.
    pub slow: f64,
    /// Bytes a second that those send, in simulated time.
    pub uplink: u64,
    /// Share of devices whose clock begins at 1970 at every start.
    pub old_clocks: f64,
    /// Share of calls in which the power goes.
    pub cuts: f64,
    /// Share of hostile devices, and what they do.
    pub hostile: f64,
    /// What those send.
    pub attack: Attack,
    /// Share of devices for which a bad release is worse.
    pub worse: f64,
    /// Share of installs that a device's own gate declines, of any release.
    pub declined: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            nights: false,
            slow: 0.0,
            uplink: 8_000,
            old_clocks: 0.0,
            cuts: 0.0,
            hostile: 0.0,
            attack: Attack::Flip,
            worse: 0.05,
            declined: 0.0,
        }
    }
}

/// What a device is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// On a slow line.
    pub slow: bool,
    /// Its clock begins at 1970.
    pub old_clock: bool,
    /// Sends an attack.
    pub hostile: bool,
    /// A bad release is worse for it.
    pub worse: bool,
    /// Hours that its day begins later.
    pub zone: u8,
}

impl Weather {
    /// What a device is like.
    pub fn traits(&self, seed: u64, device: u32) -> Traits {
        let mut luck = Luck::of(seed, 5 << 40 | u64::from(device));
        Traits {
            slow: luck.hits(self.slow),
            old_clock: luck.hits(self.old_clocks),
            hostile: luck.hits(self.hostile),
            worse: luck.hits(self.worse),
            zone: (luck.draw() % 24) as u8,
        }
    }

    /// How long a device sleeps from a time on; 0 by day.
    pub fn sleeps_ms(&self, zone: u8, now_ms: u64) -> u64 {
        let day_ms = 24 * HOUR_MS;
        let hour = (now_ms + (24 - u64::from(zone)) * HOUR_MS) % day_ms;
        match self.nights && hour >= DAY_HOURS * HOUR_MS {
            true => day_ms - hour,
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_ends_when_the_day_begins_in_every_zone() {
        let weather = Weather { nights: true, ..Weather::default() };
        for zone in 0..24 {
            let awake = (0..24).filter(|hour| weather.sleeps_ms(zone, hour * HOUR_MS) == 0);
            assert_eq!(awake.count() as u64, DAY_HOURS);
            let begin = u64::from(zone) * HOUR_MS;
            assert_eq!(weather.sleeps_ms(zone, begin), 0);
            let night = begin + DAY_HOURS * HOUR_MS + 1;
            assert_eq!(weather.sleeps_ms(zone, night), 10 * HOUR_MS - 1);
        }
        assert_eq!(Weather::default().sleeps_ms(0, 20 * HOUR_MS), 0);
    }

    #[test]
    fn shares_are_met_and_the_same_again() {
        let weather = Weather { slow: 0.2, hostile: 0.5, ..Weather::default() };
        let all: Vec<Traits> = (0..10_000).map(|device| weather.traits(1, device)).collect();
        let count = |of: fn(&Traits) -> bool| all.iter().filter(|one| of(one)).count();
        // Five deviations of a binomial.
        assert!(count(|one| one.slow).abs_diff(2000) < 200);
        assert!(count(|one| one.hostile).abs_diff(5000) < 250);
        assert_eq!(count(|one| one.old_clock), 0);
        assert_eq!(all[77], weather.traits(1, 77));
    }
}
