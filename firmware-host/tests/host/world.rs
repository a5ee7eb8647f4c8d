//! The world that a simulated device stands in: time that goes with every look, weather, a base of noise.

use firmware_host::clock::Clock;
use firmware_host::config::Config;
use firmware_host::device::Handle;
use firmware_host::probe::{Probes, Readings};
use jiff::Timestamp;
use sapwood::base::{ExportOptions, export};
use sapwood::inbox::{Bounds, InboxError, Receipt};
use sapwood::intake::Sample;
use sapwood::settings::Settings;
use sapwood_tiny as tiny;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) const MINUTE_MS: u64 = 60_000;
/// Time that passes with every look at the clock.
const LOOK_MS: u64 = 3_000;
pub(crate) const DAY_MINUTES: u64 = 24 * 60;
/// A midnight, UTC.
pub(crate) const MIDNIGHT_SECONDS: i64 = 1_795_305_600;
pub(crate) const BOUNDS: Bounds = Bounds { bytes: 256 << 10, samples: 4_096 };

/// Time and weather.
#[derive(Default)]
pub(crate) struct Sky(pub(crate) AtomicU64);

impl Sky {
    pub(crate) fn milliseconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn minute(&self) -> u64 {
        self.milliseconds() / MINUTE_MS % DAY_MINUTES
    }

    pub(crate) fn is_hot(minute: u64) -> bool {
        // An hour at noon, and three minutes of every quarter after it.
        (12 * 60..13 * 60).contains(&minute) || (minute > 13 * 60 && minute % 15 < 3)
    }

    pub(crate) fn is_drained(minute: u64) -> bool {
        (3 * 60..4 * 60).contains(&minute)
    }
}

impl Clock for Sky {
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(LOOK_MS, Ordering::Relaxed))
    }

    fn now(&self) -> Timestamp {
        let seconds = MIDNIGHT_SECONDS + (self.milliseconds() / 1_000) as i64;
        Timestamp::from_second(seconds).unwrap()
    }
}

pub(crate) struct Weather(pub(crate) Arc<Sky>);

impl Probes for Weather {
    fn read(&mut self) -> Readings {
        let minute = self.0.minute();
        Readings {
            celsius: Some(if Sky::is_hot(minute) { 91.0 } else { 45.0 }),
            battery_percent: Some(if Sky::is_drained(minute) { 9.0 } else { 80.0 }),
            watts: Some(6.5),
            memory_bytes: Some(4 << 30),
            storage_bytes: Some(8 << 30),
            ..Readings::default()
        }
    }
}

pub(crate) fn config(model: &Path) -> Config {
    let learn = Settings {
        num_layers: 2,
        max_seq_length: 32,
        batch_size: 2,
        replay_batch_size: 2,
        replay_blocks: 24,
        rank: 2,
        anchor_blocks: 4,
        target_modules: vec!["q_proj".to_owned(), "v_proj".to_owned()],
        save_every: 2,
        steps_per_eval: 0,
        threads: 2,
        gate_new: -1.0,
        gate_old: 1.0,
        ..Settings::default()
    };
    let mut config = Config { model: Some(model.to_owned()), learn, ..Config::default() };
    config.job.samples_min = 12;
    config.job.samples_max = 40;
    config.job.epochs = 2.0;
    config.job.iters_min = 3;
    config.job.iters_max = 30;
    config.intake.inbox_bytes_max = BOUNDS.bytes;
    config.intake.inbox_samples_max = BOUNDS.samples;
    config.budget.jobs_per_day = Some(120);
    config.budget.seconds = Some(240.0);
    config.check().unwrap();
    config
}

/// A base of noise in a folder of the test's own.
pub(crate) fn base(folder: &Path) -> PathBuf {
    let [hf, model] = ["hf", "model"].map(|name| folder.join(name));
    tiny::write(&hf, 7, tiny::VOCAB).unwrap();
    export(&hf, &model, ExportOptions::default()).unwrap();
    model
}

/// Offers a text.
pub(crate) fn offer(handle: &Handle, text: &str) -> Result<Receipt, InboxError> {
    handle.offer(&[&Sample::text(text).unwrap()])
}
