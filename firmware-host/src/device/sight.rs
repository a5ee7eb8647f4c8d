//! What the worker looks at, and where others see it: clock, probes, constraints, the board.
//!
//! - One look reads, decides and shows, between runs and during one alike.

use crate::clock::Clock;
use crate::constraints::{Constraints, Look, Situation};
use crate::probe::{Probes, Readings};
use crate::status::Board;
use std::sync::Arc;
use std::time::Duration;

/// What the worker looks at.
pub(super) struct Sight {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) probes: Box<dyn Probes>,
    pub(super) constraints: Constraints,
    pub(super) board: Arc<Board>,
}

impl Sight {
    /// Reads all probes, decides, and shows both; `elapsed` is the time of the look.
    pub(super) fn look(&mut self, elapsed: Duration, situation: &Situation) -> (Readings, Look) {
        let readings = self.probes.read();
        let look = self.constraints.look(&readings, situation, &*self.clock);
        let resident_bytes = self.probes.resident_bytes();
        self.board.update(|status| {
            status.resident_bytes = resident_bytes;
            status.uptime_seconds = elapsed.as_secs_f64();
            status.readings = readings.clone();
            status.constraints.clone_from(&look.states);
        });
        (readings, look)
    }
}
