//! What all devices share: the servers, the fleet, what is learned, the weather, the count.

use crate::device::Device;
use crate::line::Lines;
use crate::shape::{Shape, Whose};
use crate::tally::Tally;
use crate::time::Time;
use crate::weather::Weather;
use sapwood::adapter::{Adapter, AdapterError};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::trust::Trust;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What a device is told of its fleet.
pub struct Invitation {
    /// What lets it in.
    pub token: Option<String>,
    /// The first trust statement's hash.
    pub trust: Hash,
}

/// What all devices share.
pub struct World {
    /// Of everything that is drawn.
    pub seed: u64,
    /// Simulated time.
    pub time: Time,
    /// The network.
    pub lines: Lines,
    /// Of ordinary devices and of the lab.
    pub invitations: [Invitation; 2],
    /// What is learned.
    pub shape: Shape,
    /// What befalls devices.
    pub weather: Weather,
    /// Simulated time of a trial.
    pub trial_ms: u64,
    /// Simulated time within which those who enrolled check in first.
    pub first_ms: u64,
    /// Simulated time between two check-ins whatever the server says.
    pub every_ms: Option<u64>,
    /// Whom devices trust, once the first has enrolled.
    pub trust: OnceLock<Trust>,
    /// The cohort, once its label is known.
    pub cohort: OnceLock<CohortId>,
    /// The artifact that is bad, if one is.
    pub bad: Mutex<Option<Hash>>,
    /// What hostile devices send, of the round for which it was asked last.
    pub attacks: Mutex<(u64, Vec<Adapter>)>,
    /// What is counted.
    pub tally: Tally,
}

impl World {
    /// Whether an artifact is the bad one.
    pub fn is_bad(&self, artifact: Hash) -> bool {
        *self.bad.lock().unwrap_or_else(PoisonError::into_inner) == Some(artifact)
    }

    /// From now on an artifact is bad.
    pub fn spoil(&self, artifact: Hash) {
        *self.bad.lock().unwrap_or_else(PoisonError::into_inner) = Some(artifact);
    }

    /// The file that a device sends in a round: what it learned, or an attack.
    ///
    /// # Errors
    /// [`AdapterError`] where its numbers are too large to be sent.
    pub fn update(
        &self,
        device: &Device,
        round: u64,
        cohort: CohortId,
        from: Hash,
    ) -> Result<Vec<u8>, AdapterError> {
        let whose = Whose { seed: self.seed, device: device.number, round };
        if !device.traits.hostile {
            return self.shape.file(&self.shape.learned(whose), whose, cohort, from);
        }
        let mut made = self.attacks.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != round {
            *made = (round, self.shape.attacks(self.weather.attack, self.seed, round)?);
        }
        let own = device.number as usize % made.1.len().max(1);
        let sent = made.1.get(own).map(|sent| self.shape.file(sent, whose, cohort, from));
        sent.unwrap_or_else(|| self.shape.file(&self.shape.learned(whose), whose, cohort, from))
    }
}
