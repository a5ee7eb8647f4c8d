//! What the server remembers: the book, which has rows, and the blobs, which are files.
//!
//! - A transaction is a list of guarded statements, never a conversation: who hangs up cancels nothing
//!   half way, and what runs in SQLite is text that Postgres runs too.
//! - Order: a blob is durable before a row names it.
//! - Never here: what a row means. Decisions are functions of rows in the modules below.

pub mod schema; // every table, as text
pub mod row; //    values <-> fields
pub mod sqlite; // the book in one file
pub mod blobs; //  files named by their hash

pub use row::{Columns, Row, Value};

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
    /// The book itself failed.
    #[error("the book failed: {problem}; nothing was written")]
    Failed {
        /// What it said.
        problem: String,
    },
}

impl BookError {
    /// Whether somebody else was first: whoever asked reads again.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Guard { .. } | Self::Twice { .. })
    }
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
}

impl Book for Arc<dyn Book> {
    fn read(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, BookError> {
        self.as_ref().read(sql, values)
    }

    fn write(&self, transaction: Vec<Statement>) -> Result<Vec<Vec<Row>>, BookError> {
        self.as_ref().write(transaction)
    }
}
