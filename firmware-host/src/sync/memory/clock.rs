//! A clock that goes on as it is wound; what it shows first may be far off.

use crate::clock::Clock;
use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The clock.
#[derive(Debug)]
pub struct Wound {
    elapsed_ms: AtomicU64,
    start_ms: u64,
}

impl Wound {
    /// One that shows so many ms since 1970.
    pub fn at(start_ms: u64) -> Arc<Self> {
        Arc::new(Self { elapsed_ms: AtomicU64::new(0), start_ms })
    }

    /// Seconds since it began.
    pub fn elapsed_s(&self) -> u64 {
        self.elapsed_ms.load(Ordering::Relaxed) / 1000
    }

    /// So much later it is.
    pub fn wind(&self, more: Duration) {
        self.elapsed_ms.fetch_add(more.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for Wound {
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms.load(Ordering::Relaxed))
    }

    fn now(&self) -> Timestamp {
        let now = self.start_ms + self.elapsed_ms.load(Ordering::Relaxed);
        Timestamp::from_millisecond(now as i64).unwrap()
    }
}
