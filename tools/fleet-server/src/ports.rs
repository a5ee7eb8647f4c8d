//! The doors to time and to chance: everything else gets both as numbers.
//!
//! - Out: milliseconds since 1970, a count that never goes back, bytes that nobody can guess.
//! - Tests bring a clock that they wind and chance that they know.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What time it is.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
    /// Time since the program began; never less than before.
    fn elapsed(&self) -> Duration;
}

/// Where keys, tokens and seeds come from.
pub trait Chance: Send + Sync {
    /// Fills all of `bytes`.
    ///
    /// # Errors
    /// [`ChanceError`] when there is none to be had.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), ChanceError>;
}

/// The system has no randomness to give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no randomness to give: {problem}; nothing was changed")]
pub struct ChanceError {
    /// What it said.
    pub problem: String,
}

/// So many bytes of chance.
///
/// # Errors
/// [`ChanceError`].
pub fn draw<const N: usize>(chance: &dyn Chance) -> Result<[u8; N], ChanceError> {
    let mut bytes = [0; N];
    chance.fill(&mut bytes)?;
    Ok(bytes)
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
    #[expect(clippy::disallowed_methods, reason = "this file is the door to the clock")]
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The system's randomness.
#[derive(Clone, Copy, Debug)]
pub struct SystemChance;

impl Chance for SystemChance {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), ChanceError> {
        getrandom::fill(bytes).map_err(|error| ChanceError { problem: error.to_string() })
    }
}
