//! What a fleet may know of the device: what it stands on, what became of installs, its own part.
//!
//! - In: what is committed. Out: [`FleetView`] and [`OwnPart`], from memory.
//! - Never here: text, scores of single domains, the network.
//! - Invariant: a job under way is not seen; what is told was committed.

use super::served::Current;
use sapwood::adapter::stacked::part;
use sapwood::adapter::{Adapter, Spec, wire};
use sapwood::state::{Install, InstallOutcome, State};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{Facts, Installed, Ready};

/// How the device is now, for a fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetView {
    /// What it adapts.
    pub facts: Facts,
    /// Number of its last commit, 0 before the first.
    pub generation: u64,
    /// The global adapter that the generation in use stands on.
    pub installed: Option<Installed>,
    /// Whether that is on trial.
    pub trial: bool,
    /// What was learned since it was installed, if anything was and nothing is on trial.
    pub ready: Option<Ready>,
    /// The last installs, oldest first.
    pub installs: Vec<Install>,
}

/// What the device lends: the own ranks of the slow adapter in use.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnPart {
    /// The own ranks.
    pub adapter: Adapter,
    /// The generation that they are of.
    pub generation: u64,
    /// Optimiser steps since the global adapter beside them was installed, or since the first.
    pub steps: u64,
    /// Tokens of the text that was learned in them.
    pub tokens: u64,
    /// BLAKE3 of that global adapter's file, zeros before any.
    pub from: [u8; 32],
}

/// What a device with this base and these own ranks adapts.
pub(super) fn facts(base: [u8; 32], own: &Spec) -> Facts {
    let shape = wire::shape(own);
    let rank = own.modules.first().map_or(0, |module| module.rank as u32);
    Facts { base: Hash(base), first_layer: shape.first_layer, targets: shape.targets, rank }
}

impl FleetView {
    /// As the state says.
    pub(super) fn of(facts: Facts, state: &State) -> Self {
        let current = state.current();
        let trial = state.trial().is_some();
        let since = current.map(|generation| generation.since).unwrap_or_default();
        let (steps, tokens) = (since.steps, since.tokens);
        Self {
            facts,
            generation: current.map_or(0, |generation| generation.number),
            installed: installed(state),
            trial,
            ready: (!trial && steps > 0 && tokens > 0).then_some(Ready { steps, tokens }),
            installs: state.installs().to_vec(),
        }
    }
}

/// The global adapter in use, under the last sequence that offered it.
fn installed(state: &State) -> Option<Installed> {
    let global = state.global()?;
    let again = state.installs().iter().filter(|install| {
        install.artifact == global.artifact && install.outcome == InstallOutcome::Confirmed
    });
    let sequence = again.map(|install| install.sequence).fold(global.sequence, u64::max);
    Some(Installed { sequence, artifact: Hash(global.artifact) })
}

/// The own ranks of what is in use; none while nothing was learned since the install.
pub(super) fn own_part(current: &Current) -> Option<OwnPart> {
    let Current { generation, adapter, global, since } = current;
    let adapter = adapter.as_ref().filter(|_| since.steps > 0)?;
    let still = global.map_or(0, |global| global.ranks as usize);
    Some(OwnPart {
        adapter: part(adapter, &(still..usize::MAX)),
        generation: (*generation)?,
        steps: since.steps,
        tokens: since.tokens,
        from: global.map_or([0; 32], |global| global.artifact),
    })
}
