//! Tasks: who does a thing that takes long, with a fence against two who both think that they do.
//!
//! ```text
//! ready -> leased (fence + 1, 60 s, renewed) -> done; 3 tries
//! ```
//! - Only what carries the current fence is taken.
//! - A lease ends by the book's time: the clocks of two servers need not agree.

use crate::store::{Book, BookError, Columns, Statement, Value};

/// How long a lease holds that is not renewed.
const LEASE_MS: u64 = 60_000;
/// After how long it is renewed.
const RENEW_MS: u64 = 20_000;
/// How often a task is begun.
const TRIES_MAX: u64 = 3;

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
    let take = "update task set state = 2, fence = fence + 1, lease = $3, tries = tries + 1
        where kind = $1 and subject = $2 and tries < $4 and (state = 1 or (state = 2 and lease < $5))
        returning fence";
    let values = [
        key[0].clone(),
        key[1].clone(),
        now_ms.saturating_add(LEASE_MS).into(),
        TRIES_MAX.into(),
        now_ms.into(),
    ];
    let rows = book.write(vec![Statement::any(make, key.clone()), Statement::any(take, values)])?;
    if let Some(row) = rows.into_iter().nth(1).and_then(|rows| rows.into_iter().next()) {
        let fence = Columns::of(row).number()?;
        return Ok(Lease::Had(Task { kind, subject, fence, renewed_ms: own_ms.into() }));
    }
    let sql = "select tries, state, lease, why from task where kind = $1 and subject = $2";
    let row = book.read(sql, &key)?.into_iter().next().unwrap_or_default();
    let mut columns = Columns::of(row);
    let (tries, state, lease_ms) = (columns.number()?, columns.number()?, columns.number()?);
    let is_over = tries >= TRIES_MAX && (state == 1 || (state == 2 && lease_ms < now_ms));
    let why = columns.maybe_text()?.unwrap_or_else(|| "it was begun and never ended".to_owned());
    Ok(if is_over { Lease::Over(format!("tried {tries} times: {why}")) } else { Lease::Others })
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
        let sql = "update task set state = 1, tries = tries - 1 where kind = $1 and subject = $2
            and fence = $3 and state = 2";
        book.write(vec![Statement::one(sql, self.key())]).map(drop)
    }

    /// Gives the task back, to be tried again.
    pub(super) fn failed(&self, book: &dyn Book, why: &str) -> Result<(), BookError> {
        let sql = "update task set state = 1, why = $4 where kind = $1 and subject = $2 and fence = $3 and state = 2";
        let [kind, subject, fence] = self.key();
        book.write(vec![Statement::one(sql, [kind, subject, fence, why.into()])]).map(drop)
    }
}

/// Ends the leases of servers that died: for a book that only one server has.
pub(crate) fn free() -> Statement {
    Statement::any("update task set lease = 0 where state = 2", [])
}

/// Has a task be done once more from the start.
pub(crate) fn again(subject: u64) -> Statement {
    let sql = "update task set state = 1, tries = 0, fence = fence + 1, why = null where kind = 1 and subject = $1";
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
    fn only_the_current_fence_ends_a_task_and_three_tries_are_all() {
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
        second.failed(&book, "no room").unwrap();
        let Lease::Had(third) = lease(90_002) else { panic!("it was given back") };
        third.failed(&book, "no room again").unwrap();
        let Lease::Over(why) = lease(90_003) else { panic!("three were all") };
        assert!(why.contains("tried 3 times: no room again"), "{why}");
        book.write(vec![again(7)]).unwrap();
        let Lease::Had(last) = lease(90_004) else { panic!("an operator said so") };
        book.write(vec![last.done()]).unwrap();
        assert!(matches!(lease(u64::MAX / 2), Lease::Others), "done");
    }
}
