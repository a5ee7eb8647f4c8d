//! The device as its fleet's sync knows it: a view, the own part as a file, files to install.
//!
//! - Never here: what may be sent or taken, which is the sync's to decide.

use super::{Handle, Order, OwnPart};
use crate::sync::{Install, Learner, Offered, Part, View};
use sapwood::adapter::wire;
use sapwood::state::InstallOutcome;
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::message::Outcome;
use sapwood_protocol::fleet::update::{Kind, Meta};
use std::sync::Arc;

impl Learner for Handle {
    fn view(&self) -> Option<View> {
        let view = self.fleet_view();
        let installs = view.installs.into_iter().map(|install| Install {
            sequence: install.sequence,
            artifact: Hash(install.artifact),
            outcome: match install.outcome {
                InstallOutcome::Trialled => None,
                InstallOutcome::Confirmed => Some(Outcome::Confirmed),
                InstallOutcome::Reverted => Some(Outcome::Reverted),
                InstallOutcome::Declined => Some(Outcome::Declined),
                InstallOutcome::Failed => Some(Outcome::Failed),
            },
            reason: install.reason,
            before: install.before,
            after: install.after,
        });
        Some(View {
            facts: view.facts,
            generation: view.generation,
            installed: view.installed,
            trial: view.trial,
            ready: view.ready,
            installs: installs.collect(),
        })
    }

    fn own_part(&self, cohort: CohortId) -> Result<Option<Part>, String> {
        let Some(own) = Self::own_part(self) else { return Ok(None) };
        let OwnPart { adapter, generation, steps, tokens, from } = own;
        let (from, base) = (Hash(from), self.fleet_view().facts.base);
        let rank = adapter.spec.modules.first().map_or(0, |module| module.rank as u32);
        let meta = Meta { kind: Kind::Update, base, cohort, from, generation, steps, tokens };
        let bytes = wire::encode(&adapter, &meta).map_err(|error| error.to_string())?;
        Ok(Some(Part { from, rank, bytes }))
    }

    fn install(&self, offered: Offered) {
        let Offered { sequence, artifact, path } = offered;
        let offered = super::Offered { sequence, artifact: artifact.0, path };
        // A worker that is gone installs nothing; the next start is given the file again.
        let _ = self.order(Order::Install(Arc::new(offered)));
    }
}
