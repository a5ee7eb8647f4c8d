//! The ranges of `[job]`, `[intake]`, `[serve]`, `[constraints]`, `[budget]`, `[probes]` and `[fleet]`, each refused by name.
//!
//! - Invariant: a range holds no NaN, so a comparison by range refuses that too.

use super::{
    Budget, Config, ConfigError, Constraints, Fleet, Intake, JOBS_PER_DAY_MAX, Job, Probes, Serve,
    aliases, origin,
};
use sapwood_protocol::limits::{INBOX_BATCH_BYTES_MAX, INBOX_BYTES_MAX, INBOX_SAMPLES_MAX};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// A day, a year, and more than any counter of a device: numbers that are surely a slip of the hand.
const DAY_SECONDS: f64 = 86_400.0;
const YEAR_SECONDS: f64 = 366.0 * DAY_SECONDS;
const BYTES_MAX: u64 = 1 << 50;
/// A gigabit line that is busy for a day.
const MB_A_DAY_MAX: u64 = 10_000_000;

/// One value of a section within its bounds, both included.
fn within<T: PartialOrd + Display>(
    key: &'static str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let expected = format!("{} to {}", allowed.start(), allowed.end());
    Err(ConfigError::range(key, expected, value))
}

impl Config {
    /// The sections whose ranges stand in this file.
    pub(super) fn check_ranges(&self) -> Result<(), ConfigError> {
        self.job.check()?;
        self.intake.check()?;
        self.serve.check()?;
        self.constraints.check()?;
        self.budget.check()?;
        self.probes.check()?;
        self.fleet.check()
    }
}

impl Job {
    fn check(&self) -> Result<(), ConfigError> {
        let steps_max = u64::from(u32::MAX);
        within("job.samples-min", self.samples_min, 1..=INBOX_SAMPLES_MAX)?;
        within("job.samples-max", self.samples_max, 1..=steps_max)?;
        within("job.epochs", self.epochs, 0.001..=1_000.0)?;
        within("job.iters-min", self.iters_min, 1..=steps_max)?;
        within("job.iters-max", self.iters_max, 1..=steps_max)?;
        within("job.poll-seconds", self.poll_seconds, 0.01..=3_600.0)
    }
}

impl Intake {
    fn check(&self) -> Result<(), ConfigError> {
        within("intake.inbox-bytes-max", self.inbox_bytes_max, 4_096..=INBOX_BYTES_MAX)?;
        within("intake.inbox-samples-max", self.inbox_samples_max, 1..=INBOX_SAMPLES_MAX)?;
        within("intake.watch-seconds", self.watch_seconds, 0.05..=3_600.0)?;
        within("intake.watch-quiet-seconds", self.watch_quiet_seconds, 0.0..=86_400.0)?;
        if let Some(kept) = self.watch_files_kept {
            within("intake.watch-files-kept", kept, 1..=1 << 20)?;
        }
        let bauds = self.serial.iter().filter_map(|line| line.baud);
        bauds.into_iter().try_for_each(|baud| within("intake.serial.baud", baud, 50..=4_000_000))
    }
}

impl Serve {
    fn check(&self) -> Result<(), ConfigError> {
        let bytes_max = usize::try_from(INBOX_BATCH_BYTES_MAX).unwrap_or(usize::MAX);
        origin::check(&self.origins)?;
        aliases::check(&self.aliases)?;
        within("serve.adapters-max", self.adapters_max, 1..=64)?;
        within("serve.body-bytes-max", self.body_bytes_max, 1_024..=bytes_max)?;
        within("serve.tokens-max", self.tokens_max, 1..=1 << 20)?;
        within("serve.prompt-cache-bytes", self.prompt_cache_bytes, 0..=1 << 40)?;
        within("serve.concurrency", self.concurrency, 1..=64)?;
        within("serve.queue", self.queue, 0..=4_096)?;
        within("serve.connections-max", self.connections_max, 1..=4_096)?;
        within("serve.seconds-max", self.seconds_max, 0.1..=DAY_SECONDS)
    }
}

impl Constraints {
    fn check(&self) -> Result<(), ConfigError> {
        within("constraints.battery-low-percent", self.battery_low_percent, 0.0..=100.0)?;
        within("constraints.storage-low-bytes", self.storage_low_bytes, 0..=BYTES_MAX)?;
        within("constraints.hot-celsius", self.hot_celsius, -40.0..=150.0)?;
        within("constraints.cool-celsius", self.cool_celsius, -50.0..=150.0)?;
        within("constraints.memory-low-bytes", self.memory_low_bytes, 0..=BYTES_MAX)?;
        within("constraints.memory-stall-percent", self.memory_stall_percent, 0.1..=100.0)?;
        within("constraints.idle-load", self.idle_load, 0.0..=1_000.0)
    }
}

impl Budget {
    fn check(&self) -> Result<(), ConfigError> {
        if let Some(seconds) = self.seconds {
            within("budget.seconds", seconds, 1.0..=YEAR_SECONDS)?;
        }
        if let Some(joules) = self.joules {
            within("budget.joules", joules, 1.0..=1e12)?;
        }
        if let Some(bytes) = self.bytes_written {
            within("budget.bytes-written", bytes, 1..=BYTES_MAX)?;
        }
        match self.jobs_per_day {
            Some(jobs) => within("budget.jobs-per-day", jobs, 1..=JOBS_PER_DAY_MAX),
            None => Ok(()),
        }
    }
}

impl Probes {
    fn check(&self) -> Result<(), ConfigError> {
        let expected = || "a name that is not empty, or nothing at all".to_owned();
        if self.thermal_types.iter().any(|name| name.trim().is_empty()) {
            return Err(ConfigError::range("probes.thermal-types", expected(), "\"\""));
        }
        match &self.rail {
            Some(rail) if rail.trim().is_empty() => {
                Err(ConfigError::range("probes.rail", expected(), "\"\""))
            }
            _ => Ok(()),
        }
    }
}

impl Fleet {
    fn check(&self) -> Result<(), ConfigError> {
        within("fleet.up-mb-a-day", self.up_mb_a_day, 0..=MB_A_DAY_MAX)?;
        within("fleet.down-mb-a-day", self.down_mb_a_day, 0..=MB_A_DAY_MAX)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn the_defaults_are_in_range() {
        Config::default().check().unwrap();
        Config::from_toml("").unwrap();
    }

    #[test]
    fn a_value_out_of_its_range_is_refused_by_the_name_of_its_key() {
        let table = [
            ("[job]\nsamples-min = 0", "job.samples-min"),
            ("[job]\nsamples-min = 65537", "job.samples-max"),
            ("[job]\nsamples-min = 70000\nsamples-max = 70000", "job.samples-min"),
            ("[job]\nepochs = nan", "job.epochs"),
            ("[job]\niters-min = 2000", "job.iters-max"),
            ("[job]\npoll-seconds = 0", "job.poll-seconds"),
            ("[job]\npoll-seconds = inf", "job.poll-seconds"),
            ("[intake]\ninbox-bytes-max = 0", "intake.inbox-bytes-max"),
            ("[intake]\nwatch-seconds = 0", "intake.watch-seconds"),
            ("[[intake.serial]]\npath = \"x\"\nbaud = 0", "intake.serial.baud"),
            ("[constraints]\nbattery-low-percent = 101", "constraints.battery-low-percent"),
            ("[constraints]\nhot-celsius = nan", "constraints.hot-celsius"),
            ("[constraints]\nhot-celsius = 300", "constraints.hot-celsius"),
            ("[constraints]\ncool-celsius = nan", "constraints.cool-celsius"),
            ("[constraints]\ncool-celsius = 85", "constraints.cool-celsius"),
            ("[constraints]\nhot-celsius = 60", "constraints.cool-celsius"),
            ("[constraints]\nmemory-stall-percent = 0", "constraints.memory-stall-percent"),
            ("[constraints]\nidle-load = -1", "constraints.idle-load"),
            ("[budget]\nseconds = 0", "budget.seconds"),
            ("[budget]\njoules = nan", "budget.joules"),
            ("[budget]\nbytes-written = 0", "budget.bytes-written"),
            ("[budget]\njobs-per-day = 0", "budget.jobs-per-day"),
            ("[budget]\njobs-per-day = 100000", "budget.jobs-per-day"),
            ("[fleet]\nup-mb-a-day = 10000001", "fleet.up-mb-a-day"),
            ("[fleet]\ndown-mb-a-day = 10000001", "fleet.down-mb-a-day"),
            ("[probes]\nthermal-types = [\"cpu\", \"\"]", "probes.thermal-types"),
            ("[probes]\nrail = \" \"", "probes.rail"),
        ];
        for (text, key) in table {
            let error = Config::from_toml(text).unwrap_err();
            let named = matches!(&error, ConfigError::Range { key: found, .. } if *found == key);
            assert!(named, "{text:?} gave: {error}");
        }
    }

    #[test]
    fn the_message_tells_the_bound_and_the_value() {
        let error = Config::from_toml("[constraints]\ncool-celsius = 90").unwrap_err();
        let said = "constraints.cool-celsius: expected below hot-celsius (85), got 90; \
                    nothing was started";
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn a_window_that_is_none_is_refused_with_its_line() {
        let text = "[constraints]\nidle = true\nwindows = [\"22:00-06:00\", \"9-5\"]";
        let error = Config::from_toml(text).unwrap_err().to_string();
        let told = ["line 3", "22:00-06:00", "\"9-5\"", "nothing was started"];
        assert!(told.iter().all(|part| error.contains(part)), "{error}");
    }
}
