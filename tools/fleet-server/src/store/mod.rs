//! What the server remembers: the book, which has rows, and the blobs, which are files.
//!
//! - A transaction is a list of guarded statements, never a conversation: who hangs up cancels nothing
//!   half way. What runs is text that SQLite and Postgres read alike.
//! - Order: a blob is durable before a row names it.
//! - Never here: what a row means. Decisions are functions of rows in the modules below.

pub mod schema; //   every table, as text
pub mod upgrade; //  a book of an older version -> of this one
pub mod row; //      values <-> fields
mod shown; //        addresses without their secrets
pub mod sqlite; //   the book in one file
pub mod postgres; // the book in a database
pub mod copy; //     every row, for another book
mod owner; //        whose new files are
pub mod blobs; //    files named by their hash, in a folder or a bucket

pub(crate) use owner::{give_file, give_path};
pub use row::{Columns, Row, Value};
pub use shown::{has_password, shown};

use std::fmt::Debug;
use std::sync::Arc;

/// Rows that a statement must change or return for its transaction to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// As many as there are.
    Any,
    /// Exactly so many.
    Rows(usize),
}

/// One statement of a transaction, with `$1`, `$2`, ... for its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text.
    pub sql: &'static str,
    /// Its values.
    pub values: Vec<Value>,
    /// What must come of it.
    pub guard: Guard,
}

impl Statement {
    /// A statement that may change any number of rows.
    pub fn any(sql: &'static str, values: impl Into<Vec<Value>>) -> Self {
        Self { sql, values: values.into(), guard: Guard::Any }
    }

    /// A statement that must change one row.
    pub fn one(sql: &'static str, values: impl Into<Vec<Value>>) -> Self {
        Self { sql, values: values.into(), guard: Guard::Rows(1) }
    }
}

/// Why the book did not do what it was asked; then it is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// A guard does not hold: somebody else was first.
    #[error(
        "statement {at} of a transaction changed {got} rows, expected {expected}; nothing was written"
    )]
    Guard {
        /// Which statement, from 0.
        at: usize,
        /// Rows that it should have changed.
        expected: usize,
        /// Rows that it did.
        got: usize,
    },
    /// A row that may be there once is there already.
    #[error("statement {at} of a transaction would write a row twice; nothing was written")]
    Twice {
        /// Which statement, from 0.
        at: usize,
    },
    /// A field that no version of this program wrote.
    #[error(
        "a row has {got} where {expected} was expected; the book was changed by another program"
    )]
    Field {
        /// What should stand there.
        expected: &'static str,
        /// What does.
        got: String,
    },
    /// A value that not every store keeps as it is.
    #[error(
        "a value of statement {at} is {got}, expected a text without NUL or a number; nothing was written"
    )]
    Unstorable {
        /// Which statement, from 0.
        at: usize,
        /// What it is.
        got: &'static str,
    },
    /// The book itself failed.
    #[error("the book failed: {problem}; nothing was written")]
    Failed {
        /// What it said.
        problem: String,
    },
    /// The book was lost in the one moment in which nobody can know.
    #[error(
        "the book was lost while it wrote: {problem}; whether it was written is unknown, look before it is said again"
    )]
    Unknown {
        /// What was heard last.
        problem: String,
    },
}

impl BookError {
    /// Whether somebody else was first: whoever asked reads again.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Guard { .. } | Self::Twice { .. })
    }
}

/// Why a book is not made or opened; it is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Of another version.
    #[error("{place} has book version {got}, expected {expected}: {hint}", expected = schema::VERSION,
        hint = upgrade::hint(*got))]
    Version {
        /// The file, or the database.
        place: String,
        /// Its version.
        got: u64,
    },
    /// Not a book, or not to be read.
    #[error("{place} cannot be opened as a book: {source}")]
    Book {
        /// The file, or the database.
        place: String,
        /// What is wrong.
        source: BookError,
    },
    /// An address that is none.
    #[error(transparent)]
    Address(#[from] postgres::AddressError),
}

/// Whether every store keeps these values as they are: a text with NUL Postgres refuses, a number that is
/// none SQLite makes nothing of.
fn storable(at: usize, values: &[Value]) -> Result<(), BookError> {
    for value in values {
        match value {
            Value::Text(text) if text.contains('\0') => {
                return Err(BookError::Unstorable { at, got: "a text with NUL" });
            }
            Value::Real(number) if number.is_nan() => {
                return Err(BookError::Unstorable { at, got: "not a number" });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The book.
pub trait Book: Debug + Send + Sync {
    /// The rows of a query, as they were at one moment.
    ///
    /// # Errors
    /// [`BookError::Failed`].
    fn read(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, BookError>;

    /// Runs a transaction, all of it or nothing; when it returns it is durable. The rows that each of
    /// its statements returned.
    ///
    /// # Errors
    /// [`BookError`]; nothing was written.
    fn write(&self, transaction: Vec<Statement>) -> Result<Vec<Vec<Row>>, BookError>;

    /// What time it is for all who have the book, in milliseconds since 1970: the caller's own where it is
    /// one machine's.
    ///
    /// # Errors
    /// [`BookError::Failed`].
    fn now_ms(&self, own_ms: u64) -> Result<u64, BookError> {
        Ok(own_ms)
    }

    /// Whether several servers may have it.
    fn is_shared(&self) -> bool {
        false
    }
}

impl Book for Arc<dyn Book> {
    fn read(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, BookError> {
        self.as_ref().read(sql, values)
    }

    fn write(&self, transaction: Vec<Statement>) -> Result<Vec<Vec<Row>>, BookError> {
        self.as_ref().write(transaction)
    }

    fn now_ms(&self, own_ms: u64) -> Result<u64, BookError> {
        self.as_ref().now_ms(own_ms)
    }

    fn is_shared(&self) -> bool {
        self.as_ref().is_shared()
    }
}
