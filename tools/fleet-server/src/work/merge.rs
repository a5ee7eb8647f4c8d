//! The merge of a round: uploads that are kept in, one global adapter out.
//!
//! - Norms were taken when the uploads were checked, so that each file is read twice here, not three times.
//! - Clipped at the median, started from the last global. Weighed by how far behind; where the cohort's
//!   policy has the mean by tokens too, where it has the robust rule by what the updates say of each other.
//! - The same uploads give the same bytes, whoever merges, and however often.
//! - An upload that cannot be read is no part of a merge: its round is merged again without it only by an
//!   operator's word.

use crate::aggregate::{
    self, AggregateError, Clip, DROPPED_MAX, Facts, Plan, Robust, Rule, Source, Told,
};
use crate::cohorts::{self, Cohort, shape_bytes};
use crate::home::Home;
use crate::rounds;
use crate::rounds::{FEW, NONE, Round, Sent, Upload, UploadState};
use crate::store::blobs::BlobError;
use crate::store::{BookError, Statement};
use sapwood::adapter::{Adapter, AdapterError, Spec, Strength, Target, wire};
use sapwood_protocol::fleet::id::{DeviceId, Hash};
use sapwood_protocol::fleet::update::{Expected, Kind, Meta, Shape};
use sapwood_protocol::limits::{FLEET_INTEGER_MAX, FLEET_RANK_MAX};
use serde_json::json;
use std::collections::BTreeMap;

/// Why a round is not merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Somebody else merges it.
    #[error("somebody else has the task")]
    Lost,
    /// The server stops.
    #[error("the server stops; the merge begins again with the next one")]
    Stopped,
    /// Too few uploads are of the same modules.
    #[error("{got} uploads have the same modules, expected at least {expected} (min_devices)")]
    Few {
        /// How many.
        got: u64,
        /// How many there should be.
        expected: u64,
    },
    /// A blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The book.
    #[error(transparent)]
    Book(BookError),
    /// An adapter that is none any more.
    #[error("adapter {hash}: {source}")]
    Adapter {
        /// Its name.
        hash: Hash,
        /// What is wrong.
        source: AdapterError,
    },
    /// The arithmetic.
    #[error(transparent)]
    Aggregate(#[from] AggregateError),
}

impl From<BookError> for MergeError {
    fn from(error: BookError) -> Self {
        if error.is_lost() { Self::Lost } else { Self::Book(error) }
    }
}

impl MergeError {
    /// Whether it is worth another try.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Blob(_) | Self::Book(_))
    }
}

/// What came of a merge.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The file of the global adapter.
    pub file: Vec<u8>,
    /// How many updates it is made of.
    pub updates: u64,
    /// The part of their energy that its rank leaves out.
    pub dropped: f64,
    /// By which rule they were weighed.
    pub rule: Rule,
    /// What the robust rule found.
    pub told: Option<Told>,
    /// What each device's update weighed, in parts of an equal weight, before it was drawn in.
    pub weights: BTreeMap<DeviceId, f64>,
    /// What an operator should know.
    pub warnings: Vec<String>,
    /// The cohort's modules.
    pub shape: Shape,
    /// Uploads that have other modules.
    pub others: Vec<DeviceId>,
}

/// A merged round, its adapter kept.
pub(super) struct Kept {
    hash: Hash,
    file: Vec<u8>,
    pub(super) updates: u64,
    /// How they were weighed.
    pub(super) weighed: String,
    report: String,
    shape: Shape,
    others: Vec<DeviceId>,
}

/// Merges a round and keeps the adapter. `alive`: called before each file is read.
pub(super) fn round(
    home: &Home,
    round: &Round,
    cohort: &Cohort,
    alive: impl Fn() -> Result<(), MergeError>,
) -> Result<Kept, MergeError> {
    let candidate = merged(home, round, cohort, 1.0, alive)?;
    let hash = home.blobs.put(&candidate.file)?;
    candidate.warnings.iter().for_each(|warning| tracing::warn!(round = round.id, "{warning}"));
    let weights = candidate.weights.iter().map(|(device, weight)| (device.to_string(), *weight));
    let weights: BTreeMap<String, f64> = weights.collect();
    let report = json!({
        "updates": candidate.updates,
        "merge": candidate.rule,
        "robust": candidate.told,
        "dropped": candidate.dropped,
        "weights": weights,
        "warnings": candidate.warnings,
        "eta": 1.0,
    });
    let name = candidate.rule.name();
    let weighed = candidate.told.map_or(name.to_owned(), |told| format!("{name}: {told}"));
    let Candidate { file, updates, shape, others, .. } = candidate;
    Ok(Kept { hash, file, updates, weighed, report: report.to_string(), shape, others })
}

impl Kept {
    /// Has the adapter be there, now that a row names it.
    pub(super) fn see_to(&self, home: &Home) -> Result<(), BlobError> {
        home.blobs.see_to(self.hash, &self.file)
    }

    /// What says that the round is merged.
    pub(super) fn statements(&self, round: &Round) -> Vec<Statement> {
        let merged = "update round set state = 3, result = $2, bytes = $3, report = $4 where id = $1 and state = 2";
        let bytes = self.file.len() as u64;
        let values = [round.id.into(), self.hash.into(), bytes.into(), self.report.as_str().into()];
        let shape = "update cohort set shape = $2 where id = $1 and shape is null";
        let drop =
            "update upload set state = 4, why = 'it has other modules than most' where round = $1
            and device = $2 and state = 2";
        let count = "update upload set state = 3 where round = $1 and state = 2";
        let mut all = vec![
            Statement::one(merged, values),
            Statement::any(shape, [round.cohort.into(), shape_bytes(&self.shape).into()]),
        ];
        let others = self.others.iter();
        all.extend(others.map(|device| Statement::one(drop, [round.id.into(), (*device).into()])));
        all.push(Statement::any(count, [round.id.into()]));
        all
    }
}

/// The uploads of a round as updates.
struct Uploads<'a, Alive> {
    home: &'a Home,
    cohort: &'a Cohort,
    shape: Shape,
    files: Vec<(Hash, Hash)>,
    held: Option<Adapter>,
    alive: Alive,
}

impl<Alive: Fn() -> Result<(), MergeError>> Source for Uploads<'_, Alive> {
    type Error = MergeError;

    fn read(&mut self, at: usize) -> Result<&Adapter, MergeError> {
        (self.alive)()?;
        // Before the next is read: one less is in memory.
        self.held = None;
        let (hash, from) = self.files.get(at).copied().unwrap_or((NONE, NONE));
        let expected =
            Expected { kind: Kind::Update, from: Some(from), ..any(self.cohort, &self.shape) };
        let adapter = read(self.home, hash, &expected)?;
        Ok(self.held.insert(adapter))
    }

    fn alive(&mut self) -> Result<(), MergeError> {
        (self.alive)()
    }
}

/// Any global adapter of a cohort.
fn any<'a>(cohort: &Cohort, shape: &'a Shape) -> Expected<'a> {
    Expected {
        kind: Kind::Global,
        base: cohort.base,
        cohort: cohort.id,
        from: None,
        shape,
        rank_max: FLEET_RANK_MAX,
    }
}

fn read(home: &Home, hash: Hash, expected: &Expected<'_>) -> Result<Adapter, MergeError> {
    let bytes = home.blobs.read(hash)?;
    let (adapter, _) =
        wire::decode(&bytes, expected).map_err(|source| MergeError::Adapter { hash, source })?;
    Ok(adapter)
}

/// The merge of a round's uploads that are kept or counted: `G + eta mean`.
///
/// - `alive`: called before each file is read; its error ends the merge.
/// # Errors
/// [`MergeError`].
pub fn merged(
    home: &Home,
    round: &Round,
    cohort: &Cohort,
    eta: f64,
    alive: impl Fn() -> Result<(), MergeError>,
) -> Result<Candidate, MergeError> {
    let kept = rounds::uploads(&home.book, round.id)?
        .into_iter()
        .filter(|upload| matches!(upload.state, UploadState::Stored | UploadState::Counted));
    let all: Vec<(Upload, Sent)> =
        kept.filter_map(|upload| upload.file.clone().map(|file| (upload, file))).collect();
    let shape = cohort.shape.unwrap_or_else(|| most(&all));
    let bytes = shape_bytes(&shape);
    let (own, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, file)| file.shape == bytes);
    let updates = own.len() as u64;
    let expected = cohort.policy.min_devices;
    if updates < expected {
        return Err(MergeError::Few { got: updates, expected });
    }
    let from = match round.artifact == NONE {
        true => None,
        false => Some(read(home, round.artifact, &any(cohort, &shape))?),
    };
    let spec = spec(&shape, cohort.policy.rank);
    let files = own.iter().map(|(upload, file)| (file.hash, upload.artifact)).collect();
    let mut source = Uploads { home, cohort, shape, files, held: None, alive };
    let rule = rule(round, cohort);
    let (mut facts, mut told) = (facts(round, &own, rule), None);
    if rule == Rule::Robust {
        let robust: Robust = aggregate::robust(&mut source, &spec, &facts, round.seed)?;
        (facts, told) = (robust.facts, Some(robust.told));
    }
    let parts = aggregate::parts(&facts).into_iter();
    let weights = parts.filter_map(|(at, part)| Some((own.get(at)?.0.device, part))).collect();
    let shares = aggregate::shares(&facts, Clip::Median, eta)?;
    let plan = Plan { spec: &spec, from: from.as_ref(), shares: &shares, seed: round.seed };
    let merged = aggregate::merge(&mut source, &plan)?;
    let tokens = own.iter().fold(0, |sum: u64, (_, file)| sum.saturating_add(file.tokens));
    let meta = Meta {
        kind: Kind::Global,
        base: cohort.base,
        cohort: cohort.id,
        from: round.artifact,
        generation: round.id,
        steps: 0,
        tokens: tokens.min(FLEET_INTEGER_MAX),
    };
    let file = wire::encode(&merged.adapter, &meta)
        .map_err(|source| MergeError::Adapter { hash: NONE, source })?;
    let others = others.into_iter().map(|(upload, _)| upload.device).collect();
    let warnings = warnings(updates, merged.dropped);
    let dropped = merged.dropped;
    Ok(Candidate { file, updates, dropped, rule, told, weights, warnings, shape, others })
}

fn warnings(updates: u64, dropped: f64) -> Vec<String> {
    let mut warnings = Vec::new();
    if updates < FEW {
        warnings.push(format!(
            "{updates} devices are in the merge, expected at least {FEW}: what one of them learned may show"
        ));
    }
    if dropped > DROPPED_MAX {
        warnings.push(format!(
            "{:.1} % of the energy of the mean does not fit the rank, expected at most {} %: a higher rank keeps more",
            100.0 * dropped,
            100.0 * DROPPED_MAX
        ));
    }
    warnings
}

/// The rule of a round: what it was merged by, else its cohort's, so that a judge who asks for another
/// step is given the same mean.
fn rule(round: &Round, cohort: &Cohort) -> Rule {
    let report = round.report.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let merged = report.and_then(|report: serde_json::Value| {
        serde_json::from_value(report.get("merge")?.clone()).ok()
    });
    merged.unwrap_or(cohort.policy.merge)
}

/// What is known of the uploads.
fn facts(round: &Round, own: &[(Upload, Sent)], rule: Rule) -> Vec<Facts> {
    let behind = |upload: &Upload| u32::from(upload.artifact != round.artifact);
    let learned = own.iter().map(|(upload, file)| match rule {
        Rule::Mean => (file.tokens, behind(upload)),
        // What a device says of its tokens is no vote.
        Rule::Robust => (1, behind(upload)),
    });
    let learned: Vec<_> = learned.collect();
    let weights = aggregate::by_tokens(&learned);
    let facts = own.iter().zip(weights).enumerate().map(|(at, ((_, file), weight))| Facts {
        at,
        hash: file.hash.0,
        norm: file.norm,
        rank: file.rank as usize,
        weight,
    });
    facts.collect()
}

/// The modules that most uploads have; of two that as many have, the one of the smaller bytes.
fn most(all: &[(Upload, Sent)]) -> Shape {
    let mut counts = BTreeMap::<&[u8], usize>::new();
    for (_, file) in all {
        *counts.entry(&file.shape).or_default() += 1;
    }
    let most = counts.iter().max_by_key(|(bytes, count)| (**count, std::cmp::Reverse(**bytes)));
    let bytes = most.and_then(|(bytes, _)| (*bytes).try_into().ok());
    cohorts::shape(bytes.unwrap_or([0; cohorts::SHAPE_BYTES]))
}

/// A cohort's modules at one rank, scale 1.
fn spec(shape: &Shape, rank: u32) -> Spec {
    let first = usize::from(shape.first_layer);
    let rank = rank as usize;
    Spec::placed(first..first + usize::from(shape.layers), |_, target| {
        let at = Target::ALL.iter().position(|other| *other == target)?;
        let [fan_in, fan_out] = shape.fans[at].map(|width| width as usize);
        let strength = Strength { rank, alpha: rank as f32 };
        (shape.targets >> at & 1 == 1).then_some((strength, (fan_in, fan_out)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::State;
    use sapwood_protocol::fleet::id::CohortId;

    /// Goal: fleet's weights, tokens over the root of one more than the releases behind; by the robust rule
    /// what a device says of its tokens is no vote.
    #[test]
    fn an_update_that_is_a_release_behind_weighs_less() {
        let [newest, before] = [Hash([2; 32]), Hash([1; 32])];
        let round = Round {
            id: 1,
            cohort: CohortId([0; 32]),
            artifact: newest,
            previous: before,
            state: State::Closed,
            quota: 3,
            invited: 3,
            stored: 3,
            opened_ms: 0,
            deadline_ms: 1,
            seed: [0; 32],
            result: None,
            report: None,
        };
        let given = |n: u8, artifact, tokens| {
            let hash = Hash([n; 32]);
            let sent = Sent { hash, bytes: 1, tokens, rank: 2, norm: 1.0, shape: vec![] };
            let (device, state) = (DeviceId([n; 16]), UploadState::Stored);
            let file = Some(sent.clone());
            (Upload { round: 1, device, artifact, state, file, why: None }, sent)
        };
        let own = [given(1, newest, 100), given(2, newest, 400), given(3, before, 100)];
        for (rule, expected) in [
            (Rule::Mean, [100.0, 400.0, 100.0 * 0.5_f64.sqrt()]),
            (Rule::Robust, [1.0, 1.0, 0.5_f64.sqrt()]),
        ] {
            for (one, expected) in facts(&round, &own, rule).iter().zip(expected) {
                assert!((one.weight - expected).abs() < 1e-12 * expected, "{rule:?}: {one:?}");
            }
        }
    }
}
