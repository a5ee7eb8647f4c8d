//! What an operator sees: the fleet at one look, as JSON.
//!
//! - In: the book. Out: cohorts with their devices, rounds and releases, rates of what became of them, and
//!   held-out bits per byte before and after.
//! - Never here: keys, tokens, adapters.

use crate::cohorts::{self, Cohort};
use crate::devices;
use crate::home::Home;
use crate::rollout::{self, Release, SILENT_MS, STAGES};
use crate::rounds::{self, Round};
use crate::store::{Book, BookError, Columns, Row};
use crate::work;
use sapwood_protocol::fleet::id::CohortId;
use sapwood_protocol::fleet::statement::Role;
use serde_json::{Map, Value, json};

/// Rounds and releases of a cohort that are shown, the newest.
const SHOWN_MAX: usize = 20;

/// The fleet at one look.
///
/// # Errors
/// [`BookError`].
pub fn overview(home: &Home, now_ms: u64) -> Result<Value, BookError> {
    let book = &home.book;
    let rounds = rounds::all(book)?;
    let cohorts: Vec<Value> = cohorts::all(book)?
        .iter()
        .map(|cohort| of_cohort(book, cohort, &rounds, now_ms))
        .collect::<Result<_, _>>()?;
    Ok(json!({
        "fleet": home.fleet,
        "name": home.name,
        "time": now_ms,
        "devices": states(book, None)?,
        "cohorts": cohorts,
    }))
}

fn of_cohort(
    book: &dyn Book,
    cohort: &Cohort,
    rounds: &[Round],
    now_ms: u64,
) -> Result<Value, BookError> {
    let own = rounds.iter().filter(|round| round.cohort == cohort.id).take(SHOWN_MAX);
    let own: Vec<Value> = own.map(|round| of_round(book, round)).collect::<Result<_, _>>()?;
    let releases = rollout::all(book, cohort.id)?;
    let releases: Vec<Value> = releases
        .iter()
        .take(SHOWN_MAX)
        .map(|release| of_release(book, release))
        .collect::<Result<_, _>>()?;
    Ok(json!({
        "cohort": cohort.id,
        "label": cohort.label,
        "base": cohort.base,
        "first_layer": cohort.first_layer,
        "targets": cohort.targets,
        "sequence": cohort.sequence,
        "policy": cohort.policy,
        "devices": states(book, Some(cohort.id))?,
        "silent": silent(book, cohort.id, now_ms)?,
        "trial": on_trial(book, cohort.id)?,
        "rounds": own,
        "releases": releases,
    }))
}

/// Devices by state, of a cohort or of all.
fn states(book: &dyn Book, cohort: Option<CohortId>) -> Result<Value, BookError> {
    let rows = match cohort {
        Some(cohort) => book.read(
            "select state, count(*) from device where cohort = $1 group by state order by state",
            &[cohort.into()],
        ),
        None => book.read("select state, count(*) from device group by state order by state", &[]),
    };
    let mut states = Map::new();
    for row in rows? {
        let mut columns = Columns::of(row);
        let (state, count) = (devices::state(columns.number()?)?, columns.number()?);
        states.insert(json!(state).as_str().unwrap_or_default().to_owned(), json!(count));
    }
    Ok(states.into())
}

/// Devices that take part and were not heard of for as long as makes them silent.
fn silent(book: &dyn Book, cohort: CohortId, now_ms: u64) -> Result<u64, BookError> {
    let sql = "select count(*) from device where cohort = $1 and seen < $2 and state = 1";
    one(book.read(sql, &[cohort.into(), now_ms.saturating_sub(SILENT_MS).into()])?)
}

/// Devices that have not confirmed yet what they installed.
fn on_trial(book: &dyn Book, cohort: CohortId) -> Result<u64, BookError> {
    let sql = "select count(*) from device where cohort = $1 and trial = 1 and state = 1";
    one(book.read(sql, &[cohort.into()])?)
}

/// The number of a query for one.
fn one(rows: Vec<Row>) -> Result<u64, BookError> {
    Columns::of(rows.into_iter().next().unwrap_or_default()).number()
}

/// What came of a round, as it is kept.
pub fn report(round: &Round) -> Option<Value> {
    round.report.as_deref().and_then(|report| serde_json::from_str(report).ok())
}

/// A round as it is shown, and why its merge waits. What each device weighed is told of one round alone: of
/// many it would be long.
///
/// # Errors
/// [`BookError`].
pub fn of_round(book: &dyn Book, round: &Round) -> Result<Value, BookError> {
    let mut report = report(round);
    if let Some(fields) = report.as_mut().and_then(Value::as_object_mut) {
        fields.remove("weights");
    }
    let waits = match round.state {
        rounds::State::Closed => work::waiting(book, round.id)?,
        _ => None,
    };
    Ok(json!({
        "round": round.id,
        "cohort": round.cohort,
        "state": round.state.name(),
        "artifact": round.artifact,
        "quota": round.quota,
        "invited": round.invited,
        "stored": round.stored,
        "opened": round.opened_ms,
        "deadline": round.deadline_ms,
        "result": round.result.map(|(hash, _)| hash),
        "report": report,
        "waits": waits.map(|waits| json!({"why": waits.why, "again": waits.next_ms})),
    }))
}

/// A release as it is shown, with what became of it.
///
/// # Errors
/// [`BookError`].
pub fn of_release(book: &dyn Book, release: &Release) -> Result<Value, BookError> {
    let tally = rollout::total(book, release)?;
    let outcomes = tally.outcomes();
    let rate = |count: u64| (outcomes > 0).then(|| count as f64 / outcomes as f64);
    // The mean over devices that measured both.
    let sql =
        "select avg(before), avg(after), count(*) from install where cohort = $1 and sequence = $2
        and before is not null and after is not null";
    let rows = book.read(sql, &[release.cohort.into(), release.sequence.into()])?;
    let mut columns = Columns::of(rows.into_iter().next().unwrap_or_default());
    let (before, after) = (columns.maybe_real()?, columns.maybe_real()?);
    let measured = columns.number()?;
    Ok(json!({
        "sequence": release.sequence,
        "role": if release.role == Role::Candidate { "candidate" } else { "release" },
        "state": release.state.name(),
        "stage_percent": STAGES.get(release.stage as usize),
        "since": release.since_ms,
        "expires": release.expires_s * 1000,
        "artifact": release.artifact,
        "bytes": release.bytes,
        "round": release.round,
        "reason": release.reason,
        "confirmed": tally.confirmed,
        "reverted": tally.reverted,
        "declined": tally.declined,
        "failed": tally.failed,
        "success_rate": rate(tally.confirmed),
        "revert_rate": rate(tally.reverted),
        "bits_per_byte": {"before": before, "after": after, "devices": measured},
    }))
}
