//! What the server does by itself: rounds close, are merged, releases go on.
//!
//! - In: the folder, a time. Out: rows and blobs; the same whoever does it, and how often.
//! - Every step is guarded: several may work on one book.
//! - Never here: sockets, chance. What follows from what is `rounds` and `rollout`.

mod task; //  leases with a fence
mod merge; // uploads -> a global adapter
mod sweep; // what nobody needs any more

pub use merge::{Candidate, MergeError, merged};
pub use task::{Waiting, waiting};
pub(crate) use task::{again, free};

use crate::cohorts::{self, Cohort};
use crate::devices;
use crate::home::Home;
use crate::rollout::{self, STAGES};
use crate::rounds::{self, Round, State, Step};
use crate::store::{Book, BookError};
use task::Kind;

/// Who does it, in the audit log.
const WHO: &str = "server";

/// Does what is to be done now. What is wrong with one round or release does not stop the others.
///
/// - `stops`: asked in between, so that a server does not wait for the end of a merge.
pub fn turn(home: &Home, now_ms: impl Fn() -> u64, stops: impl Fn() -> bool) {
    let told = |what: &str, done: Result<(), BookError>| match done {
        Err(error) if !error.is_lost() => tracing::error!(%error, "{what}"),
        _ => {}
    };
    told("rounds", close(&home.book, now_ms()));
    told("merges", merge_closed(home, &now_ms, &stops));
    told("releases", roll_out(&home.book, now_ms()));
    sweep::sweep(home, now_ms());
}

/// Closes rounds whose time has come.
fn close(book: &dyn Book, now_ms: u64) -> Result<(), BookError> {
    for round in rounds::of_state(book, State::Open)? {
        let Some(cohort) = cohorts::find(book, round.cohort)? else { continue };
        if rounds::step(&round, &cohort.policy, now_ms) == Step::Close {
            book.write(vec![rounds::close(round.id)])?;
        }
    }
    Ok(())
}

/// Merges rounds that are closed, or ends those with too few uploads.
fn merge_closed(
    home: &Home,
    now_ms: &impl Fn() -> u64,
    stops: &impl Fn() -> bool,
) -> Result<(), BookError> {
    for round in rounds::of_state(&home.book, State::Closed)? {
        let Some(cohort) = cohorts::find(&home.book, round.cohort)? else { continue };
        match rounds::step(&round, &cohort.policy, now_ms()) {
            Step::Fail(why) => fail(&home.book, &round, &why, now_ms())?,
            Step::Merge => merge_one(home, &round, &cohort, now_ms, stops)?,
            Step::Wait | Step::Close => {}
        }
    }
    Ok(())
}

fn fail(book: &dyn Book, round: &Round, why: &str, now_ms: u64) -> Result<(), BookError> {
    tracing::warn!(round = round.id, "round failed: {why}");
    let report = serde_json::json!({"failed": why}).to_string();
    let mut all = rounds::failed(round, &report).to_vec();
    all.push(devices::audit(now_ms, WHO, "round failed", format!("{}: {why}", round.id)));
    book.write(all).map(drop)
}

/// Takes a round's task, if nobody has it, and merges.
fn merge_one(
    home: &Home,
    round: &Round,
    cohort: &Cohort,
    now_ms: &impl Fn() -> u64,
    stops: &impl Fn() -> bool,
) -> Result<(), BookError> {
    let book = &home.book;
    let task = match task::lease(book, Kind::Merge, round.id, now_ms())? {
        task::Lease::Had(task) => task,
        task::Lease::Others => return Ok(()),
        task::Lease::Over(why) => return fail(book, round, &why, now_ms()),
    };
    let alive = || match stops() {
        true => Err(MergeError::Stopped),
        false => Ok(task.renew(book, now_ms())?),
    };
    let merge = merge::round(home, round, cohort, alive);
    match merge {
        Ok(merged) => {
            let mut all = vec![task.done()];
            all.extend(merged.statements(round));
            let detail = format!("{}: {} updates, {}", round.id, merged.updates, merged.weighed);
            all.push(devices::audit(now_ms(), WHO, "round merged", detail));
            let written = book.write(all).map(drop);
            if written.is_ok() {
                tracing::info!(round = round.id, updates = merged.updates, "merged");
                if let Err(error) = merged.see_to(home) {
                    tracing::error!(%error, round = round.id, "the merged adapter may be gone");
                }
            }
            written
        }
        Err(MergeError::Lost) => Ok(()),
        Err(MergeError::Stopped) => task.back(book),
        Err(error) if error.passes() => {
            let pause_ms = task.failed(book, &error.to_string(), now_ms())?;
            let again_s = pause_ms / 1000;
            tracing::warn!(
                round = round.id,
                again_s,
                "the merge failed and is tried again: {error}"
            );
            Ok(())
        }
        Err(error) => fail(book, round, &error.to_string(), now_ms()),
    }
}

/// Has releases go on, or stop, by what became of them.
fn roll_out(book: &dyn Book, now_ms: u64) -> Result<(), BookError> {
    for release in rollout::active(book)? {
        let Some(cohort) = cohorts::find(book, release.cohort)? else { continue };
        let tally = rollout::tally(book, &release, &cohort.policy, now_ms)?;
        let (what, mut all) = match rollout::step(&release, &tally, &cohort.policy, now_ms) {
            rollout::Step::Stay(_) => continue,
            rollout::Step::Advance => {
                let next = STAGES.get(release.stage as usize + 1).copied().unwrap_or(100);
                let next = format!("to {next} %");
                (next, vec![rollout::advanced(&release, now_ms)])
            }
            rollout::Step::Complete => {
                let done = rollout::moved(&release, rollout::State::Complete, None);
                ("complete".to_owned(), vec![done, rollout::replaced(&release)])
            }
            rollout::Step::Pause(why) => {
                let paused = rollout::moved(&release, rollout::State::Paused, Some(&why));
                (format!("paused: {why}"), vec![paused])
            }
        };
        let detail = format!("{} {}: {what}", release.cohort, release.sequence);
        all.push(devices::audit(now_ms, WHO, "rollout", detail));
        match book.write(all) {
            Err(error) if !error.is_lost() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
