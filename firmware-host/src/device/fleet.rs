//! The device as its fleet's sync knows it: a view, the own part as a file, files to install.
//!
//! - In: what is committed. Out: [`View`] and [`Part`], from memory.
//! - Never here: text, scores of single domains, the network; what may be sent or taken, which is the
//!   sync's to decide.
//! - Invariant: a job under way is not seen; what is told was committed.

use super::served::Current;
use super::{Handle, Order};
use crate::sync::{Learner, Offered, Part, View};
use sapwood::adapter::stacked::part;
use sapwood::adapter::{Spec, wire};
use sapwood::state::State;
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::message::{Facts, Ready};
use sapwood_protocol::fleet::update::{Kind, Meta};
use std::sync::{Arc, PoisonError};

/// What a device with this base and these own ranks adapts.
pub(super) fn facts(base: [u8; 32], own: &Spec) -> Facts {
    let shape = wire::shape(own);
    let rank = own.modules.first().map_or(0, |module| module.rank as u32);
    Facts { base: Hash(base), first_layer: shape.first_layer, targets: shape.targets, rank }
}

/// As the state says.
pub(super) fn view(facts: Facts, state: &State) -> View {
    let current = state.current();
    let trial = state.trial().is_some();
    let since = current.map(|generation| generation.since).unwrap_or_default();
    let (steps, tokens) = (since.steps, since.tokens);
    View {
        facts,
        generation: current.map_or(0, |generation| generation.number),
        global: state.global(),
        trial,
        ready: (!trial && steps > 0 && tokens > 0).then_some(Ready { steps, tokens }),
        installs: state.installs().to_vec(),
    }
}

/// The own ranks of what is in use, for a cohort; none while nothing was learned since the install.
fn own_part(current: &Current, base: Hash, cohort: CohortId) -> Result<Option<Part>, String> {
    let Current { generation, adapter, global, since, .. } = current;
    let adapter = adapter.as_ref().filter(|_| since.steps > 0);
    let (Some(adapter), &Some(generation)) = (adapter, generation) else { return Ok(None) };
    let still = global.map_or(0, |global| global.ranks as usize);
    let own = part(adapter, &(still..usize::MAX));
    let rank = own.spec.modules.first().map_or(0, |module| module.rank as u32);
    let from = Hash(global.map_or([0; 32], |global| global.artifact));
    let (kind, steps, tokens) = (Kind::Update, since.steps, since.tokens);
    let meta = Meta { kind, base, cohort, from, generation, steps, tokens };
    let bytes = wire::encode(&own, &meta).map_err(|error| error.to_string())?;
    Ok(Some(Part { from, rank, bytes }))
}

impl Learner for Handle {
    fn view(&self) -> Option<View> {
        Some(self.fleet.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn own_part(&self, cohort: CohortId) -> Result<Option<Part>, String> {
        let base = self.fleet.lock().unwrap_or_else(PoisonError::into_inner).facts.base;
        own_part(&self.served.current(), base, cohort)
    }

    fn install(&self, offered: Offered) {
        // A worker that is gone installs nothing; the next start is given the file again.
        let _ = self.order(Order::Install(Arc::new(offered)));
    }

    fn withdraw(&self) {
        // Nor does it then.
        let _ = self.order(Order::Withdraw);
    }

    fn recall(&self, artifact: Hash) {
        // The next start finds the trial, and is told again.
        let _ = self.order(Order::Recall(artifact));
    }
}
