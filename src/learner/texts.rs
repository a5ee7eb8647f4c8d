//! The text that a job is judged by: of its own domain, of earlier ones, general; and the scores on it.
//!
//! - In: held-out blocks. Out: for a learner, a score on each kind of text, and one on each old domain.
//! - Old text is scored domain by domain, each with the same weight: a small one is not lost among others.
//! - Bounded: hidden states are kept up to `HIDDEN_BYTES_MAX`; the trunk runs again for the rest.

use super::LearnError;
use super::evaluate::{HeldOut, Pulse};
use super::events::{Score, Text, Who};
use super::heritage::Group;
use crate::adapter::Adapter;
use crate::block::Block;
use crate::gate::Tally;
use crate::head::Head;
use crate::trunk::Trunk;

/// Held-out blocks scored together.
const SCORE_BATCH: usize = 8;
/// Most bytes of hidden states that a job keeps of the text it is judged by.
pub(super) const HIDDEN_BYTES_MAX: u64 = 128 << 20;

/// The text of a job.
pub(super) struct Texts<'a> {
    new: HeldOut<'a>,
    old: Vec<(&'a str, HeldOut<'a>)>,
    general: HeldOut<'a>,
}

impl<'a> Texts<'a> {
    /// Reads all of it once.
    pub(super) fn new(
        trunk: &'a Trunk,
        valid: &'a [Block],
        old: &'a [Group],
        general: &'a [Block],
        pulse: &mut Pulse<'_>,
    ) -> Result<Self, LearnError> {
        let mut room = HIDDEN_BYTES_MAX as usize;
        let mut read = |blocks| HeldOut::within(trunk, blocks, SCORE_BATCH, &mut room, pulse);
        let new = read(valid)?;
        let old = old.iter().map(|group| Ok((group.name.as_str(), read(&group.blocks)?)));
        let old = old.collect::<Result<_, LearnError>>()?;
        Ok(Self { new, old, general: read(general)? })
    }

    /// Whether there is nothing to judge by.
    pub(super) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.old.is_empty() && self.general.is_empty()
    }

    /// What a learner makes of it: a score on each kind of text there is, then on each old domain.
    pub(super) fn score(
        &self,
        head: &Head,
        who: Who,
        adapter: Option<&Adapter>,
        pulse: &mut Pulse<'_>,
    ) -> Result<Vec<Score>, LearnError> {
        let mut of = |held_out: &HeldOut<'_>| held_out.score(head, adapter, pulse);
        let one = |text, domain: Option<&str>, tally: &Tally| Score {
            text,
            who,
            domain: domain.map(str::to_owned),
            bits_per_byte: tally.bits_per_byte(),
            perplexity: tally.perplexity(),
        };
        let mut scores = Vec::new();
        if !self.new.is_empty() {
            scores.push(one(Text::New, None, &of(&self.new)?));
        }
        let mut olds = Vec::new();
        for (name, held_out) in &self.old {
            olds.push(one(Text::Old, Some(name), &of(held_out)?));
        }
        scores.extend(mean(&olds));
        if !self.general.is_empty() {
            scores.push(one(Text::General, None, &of(&self.general)?));
        }
        scores.extend(olds);
        Ok(scores)
    }
}

/// The mean over the domains, of the perplexities the geometric one; none where there is no domain.
fn mean(domains: &[Score]) -> Option<Score> {
    let first = domains.first()?;
    let count = domains.len() as f64;
    let bits = domains.iter().map(|score| score.bits_per_byte).sum::<f64>() / count;
    let nats = domains.iter().map(|score| score.perplexity.ln()).sum::<f64>() / count;
    Some(Score { domain: None, bits_per_byte: bits, perplexity: nats.exp(), ..first.clone() })
}
