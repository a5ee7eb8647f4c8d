//! A yes that is lost at one value and comes back at a better one, and not at once.
//!
//! - In: readings, each against both bounds. Out: whether it holds, and why.
//! - Invariant: lost at a moment, it is not met before [`REST`] later, and only by a reading that
//!   recovers. No reading at all changes nothing.

use std::time::Duration;

/// How long a constraint stays undone after the last reading against it. Stopping costs a checkpoint
/// and starting an estimate, both of seconds.
pub const REST: Duration = Duration::from_secs(30);

/// A reading against its two bounds.
pub(super) struct Reading {
    /// Beyond the bound at which the constraint is lost.
    pub(super) fails: bool,
    /// Good enough for it to come back.
    pub(super) recovers: bool,
    /// What was read, for a person.
    pub(super) shown: String,
}

/// Whether a constraint holds; at first it does, until a reading fails.
#[derive(Debug, Default)]
pub(super) struct Latch {
    /// The last reading that failed, while the constraint is lost.
    failed_at: Option<Duration>,
}

impl Latch {
    /// Whether it holds at a moment of the clock, and why. `asks` says what is asked for, and what is
    /// asked for to come back.
    pub(super) fn look(
        &mut self,
        at: Duration,
        reading: Option<Reading>,
        [asks, asks_back]: [String; 2],
    ) -> (bool, String) {
        let Some(Reading { fails, recovers, shown }) = reading else {
            return match self.failed_at {
                None => (true, "cannot be read here, taken as met".to_owned()),
                Some(_) => (false, "cannot be read any more, and was not met before".to_owned()),
            };
        };
        let told = |asks: String| {
            if asks.is_empty() { shown.clone() } else { format!("{shown}, asked for {asks}") }
        };
        if fails {
            self.failed_at = Some(at);
        }
        let Some(failed_at) = self.failed_at else { return (true, told(asks)) };
        let rest = REST.saturating_sub(at.saturating_sub(failed_at));
        if recovers && rest.is_zero() {
            self.failed_at = None;
            return (true, told(asks));
        }
        match recovers {
            true => (false, format!("{shown}, for {} s more", rest.as_secs_f32().ceil())),
            false => (false, told(asks_back)),
        }
    }

    /// For a value that must not be above a bound, and must fall to another one to come back.
    pub(super) fn most(
        &mut self,
        at: Duration,
        value: Option<f32>,
        [most, back]: [f32; 2],
        unit: &str,
    ) -> (bool, String) {
        let reading = value.map(|value| Reading {
            fails: value > most,
            recovers: value <= back,
            shown: format!("{value:.1} {unit}"),
        });
        let asks = [most, back].map(|bound| format!("at most {bound:.0} {unit}"));
        self.look(at, reading, asks)
    }
}
