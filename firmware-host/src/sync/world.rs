//! What the sync stands on: the learner, time, chance, room on the disk and the way to the server.
//!
//! - In: what the system or a test has. Out: a value that is cloned for every turn.

use super::exchange::Network;
use super::learner::Learner;
use crate::clock::Clock;
use std::sync::Arc;

/// What the sync stands on; tests bring their own.
#[derive(Clone)]
pub struct World {
    /// The learner.
    pub learner: Arc<dyn Learner>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// 64 bits of chance.
    pub chance: fn() -> u64,
    /// Free bytes of the folder's disk, where that can be told.
    pub free: fn(&std::path::Path) -> Option<u64>,
    /// The way to the server.
    pub network: Network,
}

impl World {
    /// A learner, and what the system has.
    pub fn new(learner: Arc<dyn Learner>, clock: Arc<dyn Clock>) -> Self {
        // Without chance a device waits as the others do, no more.
        let chance = || getrandom::u64().unwrap_or(0);
        let (free, network) = (crate::probe::free_bytes, Network::System);
        Self { learner, clock, chance, free, network }
    }
}
