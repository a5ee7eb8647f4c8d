//! The server's time: the device's own until an answer says better. No clock is ever set.
//!
//! - Once it is known it goes on with a clock that never jumps, so that setting the device's clock in
//!   between changes nothing.

use crate::clock::Clock;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The time that requests are signed with and statements are judged by.
pub(super) struct ServerTime {
    clock: Arc<dyn Clock>,
    /// The server's time, ms since 1970, and how long the program had run then.
    heard: Mutex<Option<(u64, Duration)>>,
}

impl fmt::Debug for ServerTime {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("ServerTime").field(&self.now_ms()).finish()
    }
}

impl ServerTime {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, heard: Mutex::new(None) }
    }

    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match heard {
            Some((then_ms, at)) => {
                let since = self.clock.elapsed().saturating_sub(at);
                then_ms.saturating_add(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            None => u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0),
        }
    }

    /// Whether a server has said what time it is.
    pub(super) fn is_heard(&self) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A server says what time it is.
    pub(super) fn hear(&self, time_ms: u64) {
        let heard = Some((time_ms, self.clock.elapsed()));
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
    }
}
