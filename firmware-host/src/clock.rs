//! The door to time: a clock that never goes back, and the time of day.
//!
//! - Durations come from [`Clock::elapsed`] alone: the time of day may jump when a network sets it.
//! - Never here: sleeping. Who waits does so at the edge of the program.

use jiff::Timestamp;
use std::time::{Duration, Instant};

/// What time it is. Tests bring one that they wind themselves.
pub trait Clock: Send + Sync {
    /// Time since the program began; never less than before.
    fn elapsed(&self) -> Duration;
    /// Time of day, UTC.
    fn now(&self) -> Timestamp;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// Starts counting now.
    #[expect(clippy::disallowed_methods, reason = "this file is the door to the clock")]
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
