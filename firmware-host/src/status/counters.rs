//! What the ways in besides HTTP count, as they go: each on its own thread, none waits for another.

use super::InboxStatus;
use std::sync::atomic::{AtomicU64, Ordering};

/// What came in by these ways since the program began.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sound frames.
    pub frames: AtomicU64,
    /// Frames that came and were dropped: damaged, too long, of another version, parts of what is lost.
    pub frames_dropped: AtomicU64,
    /// Sequence numbers that never came.
    pub frames_missing: AtomicU64,
    /// Samples that are none, or too long.
    pub refused: AtomicU64,
    /// Samples that were sent back for want of room.
    pub full: AtomicU64,
    /// Files taken in.
    pub files_taken: AtomicU64,
    /// Files put aside with a reason.
    pub files_refused: AtomicU64,
}

impl Counters {
    /// Adds what is counted here to what the inbox says of itself.
    pub(super) fn add_to(&self, status: &mut InboxStatus) {
        let [refused, full] = [&self.refused, &self.full].map(|at| at.load(Ordering::Relaxed));
        status.refused = status.refused.saturating_add(refused).saturating_add(full);
        let dropped = self.frames_dropped.load(Ordering::Relaxed);
        status.frames_dropped = status.frames_dropped.saturating_add(dropped);
    }
}
