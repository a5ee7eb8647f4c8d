//! The book in a database of Postgres: the door to `tokio_postgres`.
//!
//! - A few threads, a connection each, take transactions from one queue. Each is `serializable`, so that
//!   guards mean what they mean in SQLite; what two did at once one of them does again, in here.
//! - A connection that is lost is made again, for ten seconds: a database that restarts is a pause. Where
//!   `commit` was said and nothing heard, nobody knows, and so it is told.
//! - Several servers may have the book open, as long as none has it alone: an upgrade, a move.
//! - In: an address. Never here: a pooler that gives a statement to one connection and the next to another.

mod address; // the address -> host, name, how TLS is meant
mod tls; //     who the database is
mod values; //  values <-> columns
mod link; //    one connection, one transaction
mod pool; //    threads that have one each

pub use address::AddressError;

use super::{Book, BookError, Columns, OpenError, Row, Statement, Value, schema, storable};
use address::Address;
use link::Hold;
use pool::{Asked, Pool};

/// Connections of a server.
const LINKS_MAX: usize = 8;
/// What the database's clock says, in milliseconds since 1970.
const NOW: &str = "select cast(floor(extract(epoch from clock_timestamp()) * 1000) as bigint)";

/// The book in a database.
#[derive(Debug)]
pub struct Postgres {
    pool: Pool,
    shown: String,
}

impl Postgres {
    /// Makes the tables in a database that has none of them, and their first rows: all or nothing.
    ///
    /// # Errors
    /// [`OpenError`]; the database is as it was.
    pub fn create(address: &str, first: &[Statement]) -> Result<(), OpenError> {
        let book = Self::connect(address, Hold::Alone, 1)?;
        book.fill(first).map_err(|source| book.wrong(source))
    }

    /// The same in a database that is open.
    ///
    /// # Errors
    /// [`BookError`]; the database is as it was.
    pub fn fill(&self, first: &[Statement]) -> Result<(), BookError> {
        let tables = schema::TABLES.iter().chain(schema::POSTGRES);
        let mut all: Vec<Statement> = tables.map(|table| Statement::any(table, [])).collect();
        all.extend_from_slice(first);
        self.write(all).map(drop)
    }

    /// Opens a book that is there and of this version.
    ///
    /// # Errors
    /// [`OpenError`]; the database is as it was.
    pub fn open(address: &str) -> Result<Self, OpenError> {
        let book = Self::connect(address, Hold::Shared, LINKS_MAX)?;
        schema::check(&book, &book.shown)?;
        Ok(book)
    }

    /// Opens a book of any version, or none, while nobody else has it.
    ///
    /// # Errors
    /// [`OpenError`]: somebody has it.
    pub fn open_alone(address: &str) -> Result<Self, OpenError> {
        let book = Self::connect(address, Hold::Alone, 1)?;
        book.now_ms(0).map_err(|source| book.wrong(source))?;
        Ok(book)
    }

    fn connect(address: &str, hold: Hold, links: usize) -> Result<Self, OpenError> {
        let address = Address::read(address)?;
        let shown = address.shown.clone();
        Ok(Self { pool: Pool::new(address, hold, links), shown })
    }

    fn wrong(&self, source: BookError) -> OpenError {
        OpenError::Book { place: self.shown.clone(), source }
    }
}

impl Book for Postgres {
    fn read(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, BookError> {
        storable(0, values)?;
        let rows = self.pool.ask(Asked::Read(Statement::any(sql, values)))?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    fn write(&self, transaction: Vec<Statement>) -> Result<Vec<Vec<Row>>, BookError> {
        for (at, statement) in transaction.iter().enumerate() {
            storable(at, &statement.values)?;
        }
        self.pool.ask(Asked::Write(transaction))
    }

    fn now_ms(&self, _own_ms: u64) -> Result<u64, BookError> {
        let row = self.read(NOW, &[])?.into_iter().next().unwrap_or_default();
        Columns::of(row).number()
    }

    fn is_shared(&self) -> bool {
        true
    }
}
