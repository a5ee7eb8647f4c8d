//! Orders about rounds and cohorts: open, close, approve, merge again without a device (`redo`).

pub use super::redo::{Redone, redo};

use super::trust::signed;
use super::{OrderError, WHO};
use crate::cohorts::{self, Cohort, Policy, PolicyError};
use crate::devices;
use crate::home::Home;
use crate::ports::{Chance, draw};
use crate::rollout;
use crate::rounds::{self, NONE, Round, State};
use crate::store::{Book, BookError, Columns, Statement};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::statement::Role;
use serde_json::{Value, json};

/// The cohort of that name; the only one that there is, when no name is given.
///
/// # Errors
/// [`OrderError::Unknown`].
pub fn cohort(book: &dyn Book, name: Option<CohortId>) -> Result<Cohort, OrderError> {
    let unknown = |name: String| OrderError::Unknown { what: "cohort", name };
    match name {
        Some(id) => cohorts::find(book, id)?.ok_or_else(|| unknown(id.to_string())),
        None => {
            let mut all = cohorts::all(book)?;
            match (all.pop(), all.is_empty()) {
                (Some(one), true) => Ok(one),
                (None, _) => {
                    Err(unknown("at all: it comes to be with its first device".to_owned()))
                }
                (Some(_), false) => Err(OrderError::Which { count: all.len() + 1 }),
            }
        }
    }
}

/// Gives a cohort another policy, of which only what is said changes.
///
/// # Errors
/// [`OrderError`].
pub fn policy(
    book: &dyn Book,
    cohort: &Cohort,
    change: &str,
    now_ms: u64,
) -> Result<Policy, OrderError> {
    let wrong = |error: serde_json::Error| PolicyError::Json(error.to_string());
    let change: serde_json::Map<String, Value> = serde_json::from_str(change).map_err(wrong)?;
    let mut fields = json!(cohort.policy);
    for (name, value) in change {
        fields[name] = value;
    }
    let policy = Policy::read(&fields.to_string())?;
    let sql = "update cohort set policy = $2 where id = $1 and policy = $3";
    let values = [cohort.id.into(), policy.write().into(), cohort.policy.write().into()];
    let audit = devices::audit(now_ms, WHO, "policy", format!("{} {}", cohort.id, policy.write()));
    book.write(vec![Statement::one(sql, values), audit])?;
    Ok(policy)
}

/// A cohort's global adapter and the one before it; zeros for none.
///
/// # Errors
/// [`BookError`].
pub fn standing(book: &dyn Book, cohort: CohortId) -> Result<[Hash; 2], BookError> {
    let all = rollout::standing(book, cohort)?;
    let artifact = |at: usize| all.get(at).map_or(NONE, |release| release.artifact);
    Ok([artifact(0), artifact(1)])
}

/// Opens a round of a cohort; its number.
///
/// # Errors
/// [`OrderError::State`] while another one of the cohort is open.
pub fn open(
    home: &Home,
    cohort: &Cohort,
    chance: &dyn Chance,
    now_ms: u64,
) -> Result<u64, OrderError> {
    let book = &home.book;
    if let Some(round) = rounds::open_one(book, cohort.id)? {
        let (what, name) = ("cohort", cohort.id.to_string());
        let got = format!("in round {}", round.id);
        return Err(OrderError::State { what, name, expected: "in no round", got });
    }
    let [artifact, previous] = standing(book, cohort.id)?;
    let round = rounds::open(cohort, artifact, previous, draw(chance)?, now_ms);
    let audit = devices::audit(now_ms, WHO, "round open", cohort.id.to_string());
    let rows = book.write(vec![round, audit])?;
    let row = rows.into_iter().next().and_then(|rows| rows.into_iter().next());
    Ok(Columns::of(row.unwrap_or_default()).number()?)
}

/// The round of that number.
///
/// # Errors
/// [`OrderError::Unknown`].
pub fn round(book: &dyn Book, id: u64) -> Result<Round, OrderError> {
    let unknown = || OrderError::Unknown { what: "round", name: id.to_string() };
    rounds::find(book, id)?.ok_or_else(unknown)
}

pub(super) fn wrong_state(round: &Round, expected: &'static str) -> OrderError {
    let (what, name) = ("round", round.id.to_string());
    OrderError::State { what, name, expected, got: round.state.name().to_owned() }
}

/// Closes an open round with who came; a closed one stays closed.
///
/// # Errors
/// [`OrderError`].
pub fn close(book: &dyn Book, id: u64, now_ms: u64) -> Result<(), OrderError> {
    let round = round(book, id)?;
    match round.state {
        State::Closed => Ok(()),
        State::Open => {
            let audit = devices::audit(now_ms, WHO, "round close", id.to_string());
            Ok(book.write(vec![rounds::close(id), audit]).map(drop)?)
        }
        _ => Err(wrong_state(&round, "open")),
    }
}

/// A round that is merged, and waits for a word.
///
/// # Errors
/// [`OrderError::Unknown`], [`OrderError::State`].
pub fn merged(book: &dyn Book, id: u64) -> Result<Round, OrderError> {
    let round = round(book, id)?;
    match round.state {
        State::Merged => Ok(round),
        _ => Err(wrong_state(&round, "merged")),
    }
}

/// What was found of a merged round.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Who judged: the judge, or the operator.
    pub who: &'static str,
    /// The adapter that is offered: the round's, or one with a smaller step.
    pub artifact: Hash,
    /// Its bytes.
    pub bytes: u64,
    /// What goes into the round's report: texts with scores before and after, or a word.
    pub report: Value,
}

/// Makes a merged round a candidate: a statement of the online key, offered to the lab alone. Its
/// sequence. Nothing of it is offered before all of it is kept.
///
/// # Errors
/// [`OrderError`].
pub fn approve(home: &Home, id: u64, verdict: &Verdict, now_ms: u64) -> Result<u64, OrderError> {
    let book = &home.book;
    let round = merged(book, id)?;
    let cohort = cohort(book, Some(round.cohort))?;
    let about = (Role::Candidate, verdict.artifact, verdict.bytes);
    let (offer, signatures, still) = signed(home, &cohort, about, &[home.online()?], now_ms)?;
    let mut report = judged(&round, &verdict.report);
    report["sequence"] = json!(offer.sequence);
    let sql = "update round set state = 5, result = $2, bytes = $3, report = $4 where id = $1 and state = 3";
    let values =
        [id.into(), verdict.artifact.into(), verdict.bytes.into(), report.to_string().into()];
    let mut all = vec![Statement::one(sql, values), still];
    // A newer candidate takes the place of an older one.
    let older = "update release set state = 6 where cohort = $1 and role = 1 and state in (2, 3)";
    all.push(Statement::any(older, [cohort.id.into()]));
    all.extend(rollout::published(&offer, &signatures, 0, Some(id), now_ms));
    let detail = format!("{id}: sequence {}", offer.sequence);
    all.push(devices::audit(now_ms, verdict.who, "round approve", detail));
    book.write(all)?;
    Ok(offer.sequence)
}

/// The report of a round, with what the judge said.
fn judged(round: &Round, verdict: &Value) -> Value {
    let report = round.report.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let mut report: Value = report.unwrap_or_default();
    report["verdict"] = verdict.clone();
    report
}

/// Ends a merged round whose result is not good; what was given may be given again.
///
/// # Errors
/// [`OrderError`].
pub fn refuse(
    book: &dyn Book,
    id: u64,
    who: &'static str,
    verdict: &Value,
    now_ms: u64,
) -> Result<(), OrderError> {
    let round = merged(book, id)?;
    let mut all = rounds::failed(&round, &judged(&round, verdict).to_string()).to_vec();
    all.push(devices::audit(now_ms, who, "round refuse", id.to_string()));
    Ok(book.write(all).map(drop)?)
}
