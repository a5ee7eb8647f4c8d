//! Orders about releases: promote a candidate, take a release back, go on, stop.
//!
//! - A release is signed here, by keys that the server does not have, and counts as many of them as the
//!   fleet's trust asks for.
//! - Taking back is a release of what stood before under a new sequence, offered to all at once.

use super::trust::signed;
use super::{OrderError, WHO};
use crate::cohorts::{self, Cohort};
use crate::devices;
use crate::home::Home;
use crate::rollout::{self, FIRST_STAGE, Release, STAGES, State};
use crate::rounds::{self, NONE};
use crate::store::{Book, Statement};
use sapwood::adapter::{Adapter, Spec, Strength, Target, wire};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::statement::Role;
use sapwood_protocol::fleet::update::{Kind, Meta};

/// The statement of a cohort with that sequence.
///
/// # Errors
/// [`OrderError::Unknown`].
pub fn release(book: &dyn Book, cohort: CohortId, sequence: u64) -> Result<Release, OrderError> {
    let unknown = || OrderError::Unknown { what: "sequence", name: sequence.to_string() };
    rollout::find(book, cohort, sequence)?.ok_or_else(unknown)
}

fn wrong_state(release: &Release, expected: &'static str) -> OrderError {
    let role = if release.role == Role::Candidate { "candidate" } else { "release" };
    let (what, name) = ("sequence", release.sequence.to_string());
    let got = format!("{role}, {}", release.state.name());
    OrderError::State { what, name, expected, got }
}

/// Makes a candidate a release, which begins at 1 % of the devices. Its sequence.
///
/// # Errors
/// [`OrderError`]; above all when too few of the fleet's release keys sign.
pub fn promote(
    home: &Home,
    cohort: &Cohort,
    sequence: u64,
    keys: &[SecretKey],
    now_ms: u64,
) -> Result<u64, OrderError> {
    let candidate = release(&home.book, cohort.id, sequence)?;
    if candidate.role != Role::Candidate || candidate.state != State::Active {
        return Err(wrong_state(&candidate, "a candidate that is active"));
    }
    let mut moved = stands(&home.book, &candidate)?;
    let file =
        Artifact { hash: candidate.artifact, bytes: candidate.bytes, round: candidate.round };
    let all = rollout::all(&home.book, cohort.id)?;
    let before = all.iter().filter(|older| {
        older.role == Role::Release && matches!(older.state, State::Active | State::Paused)
    });
    moved.extend(before.map(|older| rollout::moved(older, State::Replaced, Some("another came"))));
    moved.push(rollout::moved(&candidate, State::Replaced, Some("it was promoted")));
    publish(home, cohort, &file, keys, FIRST_STAGE, moved, "promote", now_ms)
}

/// That the round of a candidate did not come to nothing since, and was not merged again: what holds while
/// it is so.
fn stands(book: &dyn Book, candidate: &Release) -> Result<Vec<Statement>, OrderError> {
    let Some(id) = candidate.round else { return Ok(Vec::new()) };
    let round = super::rounds::round(book, id)?;
    if round.state != rounds::State::Candidate {
        return Err(super::rounds::wrong_state(&round, "candidate"));
    }
    let sql = "update round set state = state where id = $1 and state = $2";
    Ok(vec![Statement::one(sql, [id.into(), (round.state as u64).into()])])
}

/// What an operator should know before a candidate is promoted.
///
/// # Errors
/// [`OrderError`].
pub fn untried(
    book: &dyn Book,
    cohort: CohortId,
    sequence: u64,
) -> Result<Option<String>, OrderError> {
    let confirmed = rollout::total(book, &release(book, cohort, sequence)?)?.confirmed;
    let line =
        || format!("no device of the lab has confirmed sequence {sequence}, expected one at least");
    Ok((confirmed == 0).then(line))
}

/// What a release names.
struct Artifact {
    hash: Hash,
    bytes: u64,
    round: Option<u64>,
}

/// Signs a release, sees that enough keys did, and keeps it.
#[expect(clippy::too_many_arguments, reason = "two orders end here, and nothing else is shared")]
fn publish(
    home: &Home,
    cohort: &Cohort,
    file: &Artifact,
    keys: &[SecretKey],
    stage: u64,
    mut statements: Vec<Statement>,
    what: &str,
    now_ms: u64,
) -> Result<u64, OrderError> {
    let about = (Role::Release, file.hash, file.bytes);
    let (offer, signatures, still) = signed(home, cohort, about, keys, now_ms)?;
    statements.push(still);
    statements.extend(rollout::published(&offer, &signatures, stage, file.round, now_ms));
    let detail = format!("{}: sequence {}, artifact {}", cohort.id, offer.sequence, file.hash);
    statements.push(devices::audit(now_ms, WHO, what, detail));
    home.book.write(statements)?;
    Ok(offer.sequence)
}

/// Takes the newest release of a cohort back: what stood before it, or `to`, is offered to all at once.
/// The new sequence, and the artifact that it names; zeros stand for no adapter.
///
/// # Errors
/// [`OrderError`].
pub fn rollback(
    home: &Home,
    cohort: &Cohort,
    to: Option<u64>,
    keys: &[SecretKey],
    now_ms: u64,
) -> Result<(u64, Hash), OrderError> {
    let all = rollout::all(&home.book, cohort.id)?;
    let mut releases = all.iter().filter(|release| release.role == Role::Release);
    let stands = |release: &&Release| {
        matches!(release.state, State::Active | State::Paused | State::Complete)
    };
    let none = || OrderError::Unknown { what: "release", name: "that stands".to_owned() };
    let bad = releases.by_ref().find(stands).ok_or_else(none)?;
    let whole = STAGES.len() as u64 - 1;
    let good = match to {
        Some(sequence) => {
            let wanted =
                all.iter().find(|one| one.sequence == sequence && one.sequence < bad.sequence);
            let unknown =
                || OrderError::Unknown { what: "earlier sequence", name: sequence.to_string() };
            Some(wanted.ok_or_else(unknown)?)
        }
        // What came as far as all devices and is not the bad one again.
        None => releases.find(|one| {
            one.stage == whole && one.state != State::Aborted && one.artifact != bad.artifact
        }),
    };
    let mut made = None;
    let file = match good {
        Some(good) => Artifact { hash: good.artifact, bytes: good.bytes, round: good.round },
        None => {
            let file = made.insert(nothing(cohort)?);
            let hash = home.blobs.put(file)?;
            Artifact { hash, bytes: file.len() as u64, round: None }
        }
    };
    if file.hash == bad.artifact {
        return Err(OrderError::Same { sequence: bad.sequence, artifact: bad.artifact });
    }
    let aborted = rollout::moved(bad, State::Aborted, Some("an operator took it back"));
    let sequence = publish(home, cohort, &file, keys, whole, vec![aborted], "rollback", now_ms)?;
    if let Some(bytes) = made {
        home.blobs.see_to(file.hash, &bytes)?;
    }
    Ok((sequence, file.hash))
}

/// A global adapter that changes nothing: what stood before the first release.
fn nothing(cohort: &Cohort) -> Result<Vec<u8>, OrderError> {
    let shape = cohort.shape.unwrap_or_else(|| cohorts::shape([0; cohorts::SHAPE_BYTES]));
    let first = usize::from(shape.first_layer);
    let spec = Spec::placed(first..first + usize::from(shape.layers), |_, target| {
        let at = Target::ALL.iter().position(|other| *other == target)?;
        let [fan_in, fan_out] = shape.fans[at].map(|width| width as usize);
        let strength = Strength { rank: 1, alpha: 1.0 };
        (shape.targets >> at & 1 == 1).then_some((strength, (fan_in, fan_out)))
    });
    let values = vec![0.0; spec.len()];
    let meta = Meta {
        kind: Kind::Global,
        base: cohort.base,
        cohort: cohort.id,
        from: NONE,
        generation: 0,
        steps: 0,
        tokens: 0,
    };
    Ok(wire::encode(&Adapter { spec, values }, &meta)?)
}

/// A word about a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It goes to its next stage now.
    Advance,
    /// It is offered no further.
    Pause,
    /// It goes on; what was counted in its stage is no reason to pause again.
    Resume,
}

/// Says a word about a release of a cohort.
///
/// # Errors
/// [`OrderError`].
pub fn say(
    book: &dyn Book,
    cohort: CohortId,
    sequence: u64,
    word: Word,
    now_ms: u64,
) -> Result<Release, OrderError> {
    let release = release(book, cohort, sequence)?;
    let is_last = release.stage + 1 >= STAGES.len() as u64;
    let expected = match word {
        Word::Advance => "a release that is active, and not at 100 %",
        Word::Pause => "a release that is active",
        Word::Resume => "a release that is paused",
    };
    let (mut statements, what) = match (word, release.role, release.state) {
        (Word::Advance, Role::Release, State::Active) if !is_last => {
            (vec![rollout::advanced(&release, now_ms)], "rollout advance")
        }
        (Word::Pause, Role::Release, State::Active) => {
            let why = Some("an operator said so");
            (vec![rollout::moved(&release, State::Paused, why)], "rollout pause")
        }
        (Word::Resume, Role::Release, State::Paused) => {
            (rollout::resumed(&release, now_ms).to_vec(), "rollout resume")
        }
        _ => return Err(wrong_state(&release, expected)),
    };
    statements.push(devices::audit(now_ms, WHO, what, format!("{cohort} {sequence}")));
    book.write(statements)?;
    self::release(book, cohort, sequence)
}
