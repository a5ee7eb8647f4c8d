//! Books of every store, and a few statements.

use fleet_server::store::postgres::Postgres;
use fleet_server::store::sqlite::Sqlite;
use fleet_server::store::{Book, Row, Statement, Value, schema};
use std::sync::Arc;

pub(crate) const META: &str =
    "insert into meta(version, fleet, name, created) values ($1, $2, $3, $4)";
pub(crate) const TOKEN: &str = "insert into token(hash, label, uses, auto, lab, expires)
    values ($1, $2, $3, 0, 0, $3)";
pub(crate) const USE: &str =
    "update token set uses = uses - 1 where hash = $1 and uses > 0 returning uses";
pub(crate) const USES: &str = "select hash, uses from token order by hash";
pub(crate) const AUDIT: &str =
    "insert into audit(at, who, what, detail) values ($1, 'a', 'b', 'c')";

/// Where one book is.
pub(crate) enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(String),
}

impl Place {
    /// Makes a book of this version.
    pub(crate) fn made(self) -> Self {
        let first = [Statement::one(
            META,
            [schema::VERSION.into(), vec![7; 16].into(), "fleet".into(), 1_u64.into()],
        )];
        match &self {
            Self::Sqlite(folder) => {
                Sqlite::create(&folder.path().join("fleet.db"), &first).unwrap()
            }
            Self::Postgres(address) => Postgres::create(address, &first).unwrap(),
        }
        self
    }

    pub(crate) fn open(&self) -> Arc<dyn Book> {
        match self {
            Self::Sqlite(folder) => {
                Arc::new(Sqlite::open(&folder.path().join("fleet.db")).unwrap())
            }
            Self::Postgres(address) => Arc::new(Postgres::open(address).unwrap()),
        }
    }
}

pub(crate) fn token(hash: u64, uses: u64) -> Statement {
    let hash = hash.to_be_bytes().to_vec();
    Statement::one(TOKEN, [hash.into(), "a label".into(), uses.into()])
}

pub(crate) fn used(hash: u64) -> Statement {
    Statement::one(USE, [hash.to_be_bytes().to_vec().into()])
}

pub(crate) fn uses(book: &dyn Book) -> Vec<Row> {
    book.read(USES, &[]).unwrap()
}

pub(crate) fn count(book: &dyn Book, sql: &'static str) -> i64 {
    match book.read(sql, &[]).unwrap()[0][0] {
        Value::Integer(count) => count,
        ref other => panic!("{other:?}"),
    }
}
