//! The book in one file of SQLite: the door to `rusqlite`.
//!
//! - One thread writes. It takes what waits, up to 256 transactions, runs each in a savepoint of its
//!   own, and commits them together: one sync for all. Readers see what was committed.
//! - Write-ahead log, `synchronous = FULL`: what was answered survives a power cut.
//! - Two processes may have the book open, a server and a command; each waits for the other's commit.
//! - Where nothing can be written, a book whose log is folded into it can be read.

use super::{Book, BookError, Guard, OpenError, Row, Statement, Value, schema, storable};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Transactions of one commit.
const TOGETHER_MAX: usize = 256;
/// How long one process waits for another's commit.
const BUSY: Duration = Duration::from_secs(5);
/// Connections that read, and are kept.
const READERS_MAX: usize = 4;
/// Statements that a connection keeps compiled.
const STATEMENTS_MAX: usize = 128;

type Written = Result<Vec<Vec<Row>>, BookError>;

/// A transaction that waits, and whoever waits for it.
struct Job {
    transaction: Vec<Statement>,
    reply: SyncSender<Written>,
}

/// The book in a file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl Sqlite {
    /// Makes the tables in a new file, and their first rows.
    ///
    /// # Errors
    /// [`BookError`].
    pub fn create(path: &Path, first: &[Statement]) -> Result<(), BookError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = connect(path, flags).map_err(failed)?;
        for table in schema::TABLES.iter().chain(schema::SQLITE) {
            connection.execute(table, ()).map_err(failed)?;
        }
        run(&connection, first).map(drop)
    }

    /// Opens a book that is there and of this version.
    ///
    /// # Errors
    /// [`OpenError`]; the file is as it was.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let book = Self::open_any(path)?;
        schema::check(&book, &path.display().to_string())?;
        Ok(book)
    }

    /// Opens a book of any version.
    ///
    /// # Errors
    /// [`OpenError`]; the file is as it was.
    pub fn open_any(path: &Path) -> Result<Self, OpenError> {
        let wrong = |source| OpenError::Book { place: path.display().to_string(), source };
        let connection =
            connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|e| wrong(failed(e)))?;
        let (jobs, waiting) = channel();
        let writer = std::thread::Builder::new()
            .name("book".to_owned())
            .spawn(move || write_on(&connection, &waiting))
            .map_err(|error| wrong(BookError::Failed { problem: error.to_string() }))?;
        let (path, readers) = (path.to_owned(), Mutex::default());
        Ok(Self { path, readers, jobs: Some(jobs), writer: Some(writer) })
    }

    /// Folds the log into the file, which then stands alone.
    ///
    /// # Errors
    /// [`BookError`].
    pub fn fold(&self) -> Result<(), BookError> {
        let connection = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        select(&connection, "pragma wal_checkpoint(truncate)", &[]).map(drop)
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that nobody can write until this is dropped; everybody can read it.
#[derive(Debug)]
pub struct Frozen(Connection);

impl Frozen {
    /// Waits for who writes, and lets nobody else.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn new(path: &Path) -> Result<Self, OpenError> {
        let frozen = || -> rusqlite::Result<Self> {
            let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.execute_batch("begin immediate")?;
            Ok(Self(connection))
        };
        let place = path.display().to_string();
        frozen().map_err(|error| OpenError::Book { place, source: failed(error) })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Closing ends it too.
        let _ = self.0.execute_batch("rollback");
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A writer that broke off has answered nobody; each of them was told so.
            let _ = writer.join();
        }
    }
}

impl Book for Sqlite {
    fn read(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, BookError> {
        storable(0, values)?;
        let kept = self.readers().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?,
        };
        let rows = select(&connection, sql, values);
        let mut readers = self.readers();
        if readers.len() < READERS_MAX {
            readers.push(connection);
        }
        rows
    }

    fn write(&self, transaction: Vec<Statement>) -> Written {
        for (at, statement) in transaction.iter().enumerate() {
            storable(at, &statement.values)?;
        }
        let gone = || BookError::Failed { problem: "its writer has ended".to_owned() };
        let (reply, answer) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Job { transaction, reply }).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    connected(path, flags).or_else(|error| match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) if is_still(path) => still(path),
        _ => Err(error),
    })
}

/// Whether a file is all there is of a book, and nobody can change it from here.
fn is_still(path: &Path) -> bool {
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        std::fs::symlink_metadata(name).is_ok()
    };
    let writes = std::fs::File::options().write(true).open(path);
    let refuses = writes.is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
    });
    refuses && !beside("-wal") && !beside("-shm")
}

/// Reads a file as it is: a log beside it could not be made, nor a lock taken.
fn still(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let text = path.to_str().unwrap_or_default();
    let escaped = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let uri = format!("file:{escaped}?immutable=1");
    let connection = Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

fn connected(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    Ok(connection)
}

/// Takes what waits, runs it, commits, answers; until nobody can ask any more.
fn write_on(connection: &Connection, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let mut jobs = vec![first];
        jobs.extend(waiting.try_iter().take(TOGETHER_MAX - 1));
        let (transactions, replies): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|job| (job.transaction, job.reply)).unzip();
        let written = together(connection, &transactions);
        for (reply, written) in replies.into_iter().zip(written) {
            // Who asked may have gone; what was written stays.
            let _ = reply.send(written);
        }
    }
}

/// Several transactions in one commit. Where that fails, none of them was written.
fn together(connection: &Connection, transactions: &[Vec<Statement>]) -> Vec<Written> {
    let all = || -> rusqlite::Result<Vec<Written>> {
        connection.execute_batch("begin immediate")?;
        let mut written = Vec::with_capacity(transactions.len());
        for transaction in transactions {
            connection.execute_batch("savepoint one")?;
            let done = run(connection, transaction);
            let end = if done.is_ok() { "release one" } else { "rollback to one; release one" };
            connection.execute_batch(end)?;
            written.push(done);
        }
        connection.execute_batch("commit")?;
        Ok(written)
    };
    all().unwrap_or_else(|error| {
        if !connection.is_autocommit() {
            // The next begin would fail if this did; then everybody is told.
            let _ = connection.execute_batch("rollback");
        }
        let problem = error.to_string();
        transactions.iter().map(|_| Err(BookError::Failed { problem: problem.clone() })).collect()
    })
}

fn run(connection: &Connection, transaction: &[Statement]) -> Written {
    let mut all = Vec::with_capacity(transaction.len());
    for (at, Statement { sql, values, guard }) in transaction.iter().enumerate() {
        let (rows, changed) = step(connection, sql, values).map_err(|error| told(at, &error))?;
        let got = if rows.is_empty() { changed } else { rows.len() };
        match *guard {
            Guard::Rows(expected) if got != expected => {
                return Err(BookError::Guard { at, expected, got });
            }
            Guard::Rows(_) | Guard::Any => all.push(rows),
        }
    }
    Ok(all)
}

/// The rows that a statement returns, and how many it changed.
fn step(
    connection: &Connection,
    sql: &str,
    values: &[Value],
) -> rusqlite::Result<(Vec<Row>, usize)> {
    let mut statement = connection.prepare_cached(sql)?;
    // By name: SQLite counts `$2` by where it stands, Postgres by its number.
    for (at, value) in values.iter().enumerate() {
        if let Some(index) = statement.parameter_index(&format!("${}", at + 1))? {
            statement.raw_bind_parameter(index, value)?;
        }
    }
    if statement.column_count() == 0 {
        let changed = statement.raw_execute()?;
        return Ok((Vec::new(), changed));
    }
    let columns = statement.column_count();
    let (mut rows, mut all) = (statement.raw_query(), Vec::new());
    while let Some(row) = rows.next()? {
        all.push((0..columns).map(|at| row.get_ref(at).map(value)).collect::<Result<_, _>>()?);
    }
    Ok((all, 0))
}

fn select(connection: &Connection, sql: &str, values: &[Value]) -> Result<Vec<Row>, BookError> {
    step(connection, sql, values).map(|(rows, _)| rows).map_err(failed)
}

fn value(column: ValueRef<'_>) -> Value {
    match column {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn failed(error: rusqlite::Error) -> BookError {
    BookError::Failed { problem: error.to_string() }
}

fn told(at: usize, error: &rusqlite::Error) -> BookError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => BookError::Twice { at },
        _ => BookError::Failed { problem: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::sync::Arc;

    const META: &str = "insert into meta(version, fleet, name, created) values ($1, $2, $3, $4)";
    const TOKEN: &str = "insert into token(hash, label, uses, auto, lab, expires)
        values ($1, $2, $3, 0, 0, $3)";
    const USE: &str =
        "update token set uses = uses - 1 where hash = $1 and uses > 0 returning uses";

    fn made(folder: &Path, version: u64) -> PathBuf {
        let path = folder.join("fleet.db");
        let values = [version.into(), vec![7; 16].into(), "fleet".into(), 1_u64.into()];
        Sqlite::create(&path, &[Statement::one(META, values)]).unwrap();
        path
    }

    fn book(folder: &Path) -> Sqlite {
        Sqlite::open(&made(folder, schema::VERSION)).unwrap()
    }

    fn token(hash: u8, uses: u64) -> Statement {
        Statement::one(TOKEN, [vec![hash].into(), "a label".into(), uses.into()])
    }

    fn uses(book: &Sqlite) -> Vec<Row> {
        book.read("select hash, uses from token order by hash", &[]).unwrap()
    }

    #[test]
    fn a_transaction_holds_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());
        book.write(vec![token(1, 1)]).unwrap();
        let used = Statement::one(USE, [vec![1].into()]);
        let rows = book.write(vec![token(2, 5), used.clone()]).unwrap();
        assert_eq!(rows, [vec![], vec![vec![Value::Integer(0)]]]);
        let lost = book.write(vec![token(3, 5), used]).unwrap_err();
        assert_eq!(lost, BookError::Guard { at: 1, expected: 1, got: 0 });
        assert!(lost.is_lost());
        assert_eq!(book.write(vec![token(4, 1), token(2, 1)]), Err(BookError::Twice { at: 1 }));
        let wrong = Statement::any("insert into none values (1)", []);
        assert!(matches!(book.write(vec![token(5, 1), wrong]), Err(BookError::Failed { .. })));
        let left = [(1, 0), (2, 5)]
            .map(|(hash, uses)| vec![Value::Bytes(vec![hash]), Value::Integer(uses)]);
        assert_eq!(uses(&book), left);
    }

    #[test]
    fn values_are_named_by_their_number_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());
        let rows = book.read("select $2, $1, $2", &["one".into(), 2.5.into()]).unwrap();
        assert_eq!(rows, [vec![Value::Real(2.5), "one".into(), Value::Real(2.5)]]);
    }

    #[test]
    fn many_who_want_the_last_use_of_a_token_get_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let book = Arc::new(book(folder.path()));
        book.write(vec![token(1, 7)]).unwrap();
        let one = |_| {
            let book = book.clone();
            std::thread::spawn(move || {
                book.write(vec![Statement::one(USE, [vec![1].into()])]).is_ok()
            })
        };
        let all: Vec<_> = (0..40).map(one).collect();
        let won = all.into_iter().map(|one| one.join().unwrap());
        assert_eq!(won.filter(|won| *won).count(), 7);
    }

    #[test]
    fn two_processes_write_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let first = book(folder.path());
        let second = Sqlite::open(&folder.path().join("fleet.db")).unwrap();
        let many = |book: Sqlite, from: u8| {
            std::thread::spawn(move || {
                (from..from + 50).for_each(|hash| drop(book.write(vec![token(hash, 1)]).unwrap()));
            })
        };
        let both = [many(first, 0), many(second, 100)];
        both.into_iter().for_each(|one| one.join().unwrap());
        let book = Sqlite::open(&folder.path().join("fleet.db")).unwrap();
        assert_eq!(uses(&book).len(), 100);
    }

    #[test]
    fn a_book_of_another_version_and_what_is_no_book_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path(), 9);
        let error = Sqlite::open(&path).unwrap_err().to_string();
        assert!(error.contains("version 9, expected 2"), "{error}");
        std::fs::write(folder.path().join("text"), "no book at all, but a text".repeat(100))
            .unwrap();
        let error = Sqlite::open(&folder.path().join("text")).unwrap_err().to_string();
        assert!(error.contains("not a database"), "{error}");
        assert!(Sqlite::open(&folder.path().join("none")).is_err());
        assert!(!folder.path().join("none").exists());
    }
}
