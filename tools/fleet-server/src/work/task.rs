//! Tasks: who does a thing that takes long, with a fence against two who both think that they do.
//!
//! ```text
//! ready -> leased (fence + 1, 60 s, renewed) -> done
//!      <- 1, 4, 16 s, ... up to an hour later; for a day
//! ```
//! - Only what carries the current fence is taken.
//! - A lease ends by the book's time: the clocks of two servers need not agree.

use crate::store::{Book, BookError, Columns, Statement, Value};

/// How long a lease holds that is not renewed.
const LEASE_MS: u64 = 60_000;
/// After how long it is renewed.
const RENEW_MS: u64 = 20_000;
/// How often a task is begun: with the pauses between, for a day.
const TRIES_MAX: u64 = 30;
/// For so many counts a try whose server ended before it did, so that a task that ends servers ends soon.
const DEATH: u64 = 10;
/// The pause after the first try that failed, and the longest; each is four times the one before.
const PAUSE_MS: u64 = 1_000;
const PAUSE_MS_MAX: u64 = 3_600_000;

/// What a task is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The merge of a round.
    Merge = 1,
}

/// A task that is held.
pub(super) struct Task {
    kind: Kind,
    subject: u64,
    fence: u64,
    /// How often it was begun before.
    tries: u64,
    /// When the lease was last renewed, by this server's clock.
    renewed_ms: std::cell::Cell<u64>,
}

/// What came of asking for one.
pub(super) enum Lease {
    /// It is held now.
    Had(Task),
    /// Somebody has it, or it is done.
    Others,
    /// It was tried as often as it may be; why it failed last.
    Over(String),
}

/// Takes a task, which is made if it is not there.
pub(super) fn lease(
    book: &dyn Book,
    kind: Kind,
    subject: u64,
    now_ms: u64,
) -> Result<Lease, BookError> {
    let own_ms = now_ms;
    let now_ms = book.now_ms(own_ms)?;
    let key: [Value; 2] = [(kind as u64).into(), subject.into()];
    let make =
        "insert into task(kind, subject, state, fence, lease, tries) values ($1, $2, 1, 0, 0, 0)
        on conflict do nothing";
    let take = "update task set state = 2, fence = fence + 1, lease = $3, tries = tries + $6
        where kind = $1 and subject = $2 and tries < $4 and state in (1, 2) and lease <= $5
        returning fence, tries - $6";
    let values = [
        key[0].clone(),
        key[1].clone(),
        now_ms.saturating_add(LEASE_MS).into(),
        TRIES_MAX.into(),
        now_ms.into(),
        DEATH.into(),
    ];
    let rows = book.write(vec![Statement::any(make, key.clone()), Statement::any(take, values)])?;
    if let Some(row) = rows.into_iter().nth(1).and_then(|rows| rows.into_iter().next()) {
        let mut columns = Columns::of(row);
        let (fence, tries) = (columns.number()?, columns.number()?);
        return Ok(Lease::Had(Task { kind, subject, fence, tries, renewed_ms: own_ms.into() }));
    }
    let sql = "select tries, state, lease, why from task where kind = $1 and subject = $2";
    let row = book.read(sql, &key)?.into_iter().next().unwrap_or_default();
    let mut columns = Columns::of(row);
    let (tries, state, lease_ms) = (columns.number()?, columns.number()?, columns.number()?);
    let is_over = tries >= TRIES_MAX && (state == 1 || (state == 2 && lease_ms < now_ms));
    let why = columns.maybe_text()?.unwrap_or_else(|| "it was begun and never ended".to_owned());
    Ok(if is_over {
        Lease::Over(format!("tried as often as it may be: {why}"))
    } else {
        Lease::Others
    })
}

impl Task {
    fn key(&self) -> [Value; 3] {
        [(self.kind as u64).into(), self.subject.into(), self.fence.into()]
    }

    /// Holds the task for longer, now and then; a lost one is an error.
    pub(super) fn renew(&self, book: &dyn Book, now_ms: u64) -> Result<(), BookError> {
        if now_ms < self.renewed_ms.get() + RENEW_MS {
            return Ok(());
        }
        let sql = "update task set lease = $4 where kind = $1 and subject = $2 and fence = $3 and state = 2";
        let [kind, subject, fence] = self.key();
        let until_ms = book.now_ms(now_ms)?.saturating_add(LEASE_MS);
        let values = [kind, subject, fence, until_ms.into()];
        book.write(vec![Statement::one(sql, values)])?;
        self.renewed_ms.set(now_ms);
        Ok(())
    }

    /// Ends the task, if it is still held.
    pub(super) fn done(&self) -> Statement {
        let sql = "update task set state = 3 where kind = $1 and subject = $2 and fence = $3 and state = 2";
        Statement::one(sql, self.key())
    }

    /// Gives the task back as if it had not been begun.
    pub(super) fn back(&self, book: &dyn Book) -> Result<(), BookError> {
        let sql = "update task set state = 1, lease = 0, tries = tries - $4 where kind = $1 and subject = $2
            and fence = $3 and state = 2";
        let [kind, subject, fence] = self.key();
        book.write(vec![Statement::one(sql, [kind, subject, fence, DEATH.into()])]).map(drop)
    }

    /// Gives the task back, to be tried again after a pause, of which it tells the milliseconds.
    pub(super) fn failed(&self, book: &dyn Book, why: &str, now_ms: u64) -> Result<u64, BookError> {
        let sql =
            "update task set state = 1, why = $4, lease = $5, tries = tries - $6 where kind = $1
            and subject = $2 and fence = $3 and state = 2";
        let [kind, subject, fence] = self.key();
        let doublings = 2 * self.tries.min(30) as u32;
        let pause_ms = (PAUSE_MS << doublings.min(32)).min(PAUSE_MS_MAX);
        let until_ms = book.now_ms(now_ms)?.saturating_add(pause_ms);
        let values = [kind, subject, fence, why.into(), until_ms.into(), (DEATH - 1).into()];
        book.write(vec![Statement::one(sql, values)])?;
        Ok(pause_ms)
    }
}

/// A merge that failed, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Why it failed last.
    pub why: String,
    /// When it is tried again, ms since 1970.
    pub next_ms: u64,
}

/// Whether the merge of a round waits to be tried again.
///
/// # Errors
/// [`BookError`].
pub fn waiting(book: &dyn Book, round: u64) -> Result<Option<Waiting>, BookError> {
    let sql = "select why, lease from task where kind = 1 and subject = $1 and state in (1, 2)
        and why is not null";
    let Some(row) = book.read(sql, &[round.into()])?.into_iter().next() else { return Ok(None) };
    let mut columns = Columns::of(row);
    Ok(Some(Waiting { why: columns.text()?, next_ms: columns.number()? }))
}

/// Ends the leases of servers that died, and the pauses of what failed: for a book that only one server has.
pub(crate) fn free() -> Statement {
    Statement::any("update task set lease = 0 where state in (1, 2)", [])
}

/// Has a task be done once more from the start.
pub(crate) fn again(subject: u64) -> Statement {
    let sql = "update task set state = 1, tries = 0, lease = 0, fence = fence + 1, why = null where kind = 1 and subject = $1";
    Statement::any(sql, [subject.into()])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::store::sqlite::Sqlite;

    fn book(folder: &std::path::Path) -> Sqlite {
        let path = folder.join("fleet.db");
        let meta = "insert into meta(version, fleet, name, created) values (2, $1, 'x', 1)";
        Sqlite::create(&path, &[Statement::one(meta, [vec![0; 16].into()])]).unwrap();
        Sqlite::open(&path).unwrap()
    }

    #[test]
    fn a_server_that_stops_costs_no_try_and_one_that_died_no_minute() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());
        let lease = || lease(&book, Kind::Merge, 7, 1_000).unwrap();
        for _ in 0..2 * TRIES_MAX {
            let Lease::Had(task) = lease() else { panic!("it was given back") };
            task.back(&book).unwrap();
        }
        let Lease::Had(_dead) = lease() else { panic!("it was given back") };
        assert!(matches!(lease(), Lease::Others));
        book.write(vec![free()]).unwrap();
        assert!(matches!(lease(), Lease::Had(_)));
    }

    #[test]
    fn only_the_current_fence_ends_a_task() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());
        let lease = |now_ms| lease(&book, Kind::Merge, 7, now_ms).unwrap();
        let Lease::Had(first) = lease(0) else { panic!("it was free") };
        assert!(matches!(lease(59_999), Lease::Others));
        first.renew(&book, 30_000).unwrap();
        assert!(matches!(lease(89_999), Lease::Others), "renewed");
        let Lease::Had(second) = lease(90_001) else { panic!("its lease had ended") };
        assert!(book.write(vec![first.done()]).unwrap_err().is_lost());
        assert!(first.renew(&book, 200_000).unwrap_err().is_lost());
        book.write(vec![second.done()]).unwrap();
        assert!(matches!(lease(u64::MAX / 2), Lease::Others), "done");
    }

    /// An outage of hours costs no round: the pauses grow, and end after a day.
    #[test]
    fn what_failed_is_tried_again_after_pauses_that_grow_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());
        let lease = |now_ms| lease(&book, Kind::Merge, 7, now_ms).unwrap();
        let (mut now_ms, mut pauses) = (5, Vec::new());
        let why = loop {
            match lease(now_ms) {
                Lease::Had(task) => {
                    let pause_ms = task.failed(&book, "no room", now_ms).unwrap();
                    let waits = Waiting { why: "no room".to_owned(), next_ms: now_ms + pause_ms };
                    assert_eq!(waiting(&book, 7).unwrap(), Some(waits));
                    if (pauses.len() as u64) + 1 < TRIES_MAX {
                        assert!(matches!(lease(now_ms + pause_ms - 1), Lease::Others), "too soon");
                    }
                    now_ms += pause_ms;
                    pauses.push(pause_ms / 1000);
                }
                Lease::Over(why) => break why,
                Lease::Others => panic!("nobody has it"),
            }
        };
        assert_eq!(pauses[..7], [1, 4, 16, 64, 256, 1024, 3600]);
        let hours = pauses.iter().sum::<u64>() / 3600;
        assert!((23..=25).contains(&hours) && pauses.iter().all(|pause| *pause <= 3600), "{hours}");
        assert!(why.contains("tried as often as it may be: no room"), "{why}");
        book.write(vec![again(7)]).unwrap();
        assert_eq!(waiting(&book, 7).unwrap(), None);
        let Lease::Had(task) = lease(now_ms) else { panic!("an operator said so") };
        task.failed(&book, "no room", now_ms).unwrap();
        book.write(vec![free()]).unwrap();
        assert!(matches!(lease(now_ms), Lease::Had(_)), "a server that begins waits for nothing");
    }

    #[test]
    fn a_task_that_ends_its_server_three_times_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());
        for _ in 0..3 {
            let task = lease(&book, Kind::Merge, 7, 1_000).unwrap();
            assert!(matches!(task, Lease::Had(_)));
            book.write(vec![free()]).unwrap();
        }
        let Lease::Over(why) = lease(&book, Kind::Merge, 7, 1_000).unwrap() else {
            panic!("three were all")
        };
        assert!(why.contains("it was begun and never ended"), "{why}");
    }
}
