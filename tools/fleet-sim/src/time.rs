//! Simulated time: real time, or so many times as fast. The door to the clock.
//!
//! - Two processes that are told the same start and speed agree, as far as the system's clock does.
//! - Invariant: it never runs back, whatever happens to the system's clock meanwhile.

use fleet_server::ports::Clock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that was started.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    start_ms: u64,
    speed: f64,
    /// What it showed when this process got it, and the moment of that.
    then_ms: u64,
    then: Instant,
}

impl Time {
    /// One that starts now.
    #[expect(clippy::disallowed_methods, reason = "this file is the door to the clock")]
    pub fn start(speed: f64) -> Self {
        let now_ms = system_ms();
        Self { start_ms: now_ms, speed, then_ms: now_ms, then: Instant::now() }
    }

    /// One that another process started, at that time of the system.
    #[expect(clippy::disallowed_methods, reason = "this file is the door to the clock")]
    pub fn started(start_ms: u64, speed: f64) -> Self {
        let passed_ms = system_ms().saturating_sub(start_ms) as f64 * speed;
        Self { start_ms, speed, then_ms: start_ms + passed_ms as u64, then: Instant::now() }
    }

    /// When it started, ms since 1970.
    pub fn start_ms(&self) -> u64 {
        self.start_ms
    }

    /// How many times as fast as real time it runs.
    pub fn speed(&self) -> f64 {
        self.speed
    }

    /// Simulated milliseconds since its start.
    pub fn passed_ms(&self) -> u64 {
        self.now_ms() - self.start_ms
    }

    /// Real time that a simulated one takes.
    pub fn real(&self, simulated_ms: u64) -> Duration {
        Duration::from_secs_f64(simulated_ms as f64 / 1000.0 / self.speed)
    }
}

impl Clock for Time {
    fn now_ms(&self) -> u64 {
        self.then_ms + (self.then.elapsed().as_secs_f64() * 1000.0 * self.speed) as u64
    }

    fn elapsed(&self) -> Duration {
        self.then.elapsed().mul_f64(self.speed)
    }
}

#[expect(clippy::disallowed_methods, reason = "this file is the door to the clock")]
fn system_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clocks_of_one_start_agree_and_run_so_many_times_as_fast() {
        let first = Time::start(1000.0);
        std::thread::park_timeout(Duration::from_millis(20));
        let second = Time::started(first.start_ms(), first.speed());
        let (one, two) = (first.now_ms(), second.now_ms());
        assert!(first.passed_ms() >= 20_000, "{}", first.passed_ms());
        // A system's clock counts whole milliseconds here, a second each.
        assert!(one.abs_diff(two) < 3_000, "{one} {two}");
        assert_eq!(first.real(60_000), Duration::from_millis(60));
    }
}
