//! Every row of a book, for another book: read in the order of its key, a page at a time.
//!
//! - In: a book that nobody writes. Out: the same rows in another, and a sum of each table: how many rows,
//!   and a hash of them that their order does not change.
//! - `meta` is no part of it: its version says whether the copy is whole.

use super::{Book, BookError, Row, Statement, Value};

/// Numbers that Postgres counts up go on behind the last.
const COUNT_ON: &str =
    "select setval(pg_get_serial_sequence('audit', 'id'), coalesce(max(id), 0) + 1, false)
    from audit";

/// The texts of one table.
struct Table {
    name: &'static str,
    first: &'static str,
    next: &'static str,
    insert: &'static str,
    clear: &'static str,
    /// The columns of its key, which come first.
    keys: usize,
}

macro_rules! table {
    ($name:literal, $keys:literal, $key:literal, $after:literal, $columns:literal, $values:literal) => {
        Table {
            name: $name,
            first: concat!(
                "select ",
                $key,
                ", ",
                $columns,
                " from ",
                $name,
                " order by ",
                $key,
                " limit 500"
            ),
            next: concat!(
                "select ",
                $key,
                ", ",
                $columns,
                " from ",
                $name,
                " where (",
                $key,
                ") > (",
                $after,
                ") order by ",
                $key,
                " limit 500"
            ),
            insert: concat!(
                "insert into ",
                $name,
                "(",
                $key,
                ", ",
                $columns,
                ") values (",
                $values,
                ")"
            ),
            clear: concat!("delete from ", $name),
            keys: $keys,
        }
    };
}

#[rustfmt::skip]
const TABLES: &[Table] = &[
    table!("trust", 1, "epoch", "$1", "statement, signatures", "$1, $2, $3"),
    table!("token", 1, "hash", "$1", "label, uses, auto, lab, expires", "$1, $2, $3, $4, $5, $6"),
    table!("cohort", 1, "id", "$1", "base, first_layer, targets, label, sequence, shape, policy",
        "$1, $2, $3, $4, $5, $6, $7, $8"),
    table!("device", 1, "id", "$1", "key, cohort, state, name, agent, label, lab, base, first_layer, targets,
        rank, enrolled, seen, counter, told, sequence, artifact, trial, generation, offered, offers,
        offered_first, offered_last", "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
        $17, $18, $19, $20, $21, $22, $23, $24"),
    table!("round", 1, "id", "$1", "cohort, artifact, previous, state, quota, invited, stored, opened, deadline,
        seed, result, bytes, report", "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14"),
    table!("upload", 2, "round, device", "$1, $2", "artifact, state, hash, bytes, tokens, rank, norm, shape, why,
        at", "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12"),
    table!("task", 2, "kind, subject", "$1, $2", "state, fence, lease, tries, why", "$1, $2, $3, $4, $5, $6, $7"),
    table!("release", 2, "cohort, sequence", "$1, $2", "role, artifact, bytes, statement, signatures, state,
        stage, since, expires, round, reason", "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13"),
    table!("install", 3, "cohort, sequence, device", "$1, $2, $3", "outcome, reason, before, after, at",
        "$1, $2, $3, $4, $5, $6, $7, $8"),
    table!("tally", 5, "cohort, sequence, stage, outcome, shard", "$1, $2, $3, $4, $5", "n",
        "$1, $2, $3, $4, $5, $6"),
    table!("audit", 1, "id", "$1", "at, who, what, detail", "$1, $2, $3, $4, $5"),
];

/// What is in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The table.
    pub table: &'static str,
    /// Its rows.
    pub rows: u64,
    /// The sum of their BLAKE3.
    pub hash: [u64; 4],
}

impl Sum {
    fn add(&mut self, row: &[Value]) {
        let mut hasher = blake3::Hasher::new();
        let mut part = |tag: u8, bytes: &[u8]| {
            hasher.update(&[tag]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        for value in row {
            match value {
                Value::Null => part(0, &[]),
                Value::Integer(number) => part(1, &number.to_le_bytes()),
                // SQLite has one zero.
                Value::Real(number) => part(2, &(number + 0.0).to_le_bytes()),
                Value::Text(text) => part(3, text.as_bytes()),
                Value::Bytes(bytes) => part(4, bytes),
            }
        }
        let hash = hasher.finalize();
        for (sum, bytes) in self.hash.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            let lane = bytes.try_into().map_or(0, u64::from_le_bytes);
            *sum = sum.wrapping_add(lane);
        }
        self.rows += 1;
    }
}

/// Gives every page of a table to `take`; what is in it.
fn pages(
    book: &dyn Book,
    table: &Table,
    mut take: impl FnMut(Vec<Row>) -> Result<(), BookError>,
) -> Result<Sum, BookError> {
    let mut sum = Sum { table: table.name, rows: 0, hash: [0; 4] };
    let mut page = book.read(table.first, &[])?;
    while let Some(last) = page.last() {
        let key: Vec<Value> = last.iter().take(table.keys).cloned().collect();
        page.iter().for_each(|row| sum.add(row));
        take(page)?;
        page = book.read(table.next, &key)?;
    }
    Ok(sum)
}

/// What is in each table.
///
/// # Errors
/// [`BookError`].
pub fn sums(book: &dyn Book) -> Result<Vec<Sum>, BookError> {
    TABLES.iter().map(|table| pages(book, table, |_| Ok(()))).collect()
}

/// Writes every row of a book into another, whose tables are emptied before; what was read.
///
/// # Errors
/// [`BookError`]; the other may have a part of them.
pub fn copy(from: &dyn Book, to: &dyn Book) -> Result<Vec<Sum>, BookError> {
    to.write(TABLES.iter().map(|table| Statement::any(table.clear, [])).collect())?;
    let mut sums = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        sums.push(pages(from, table, |page| {
            to.write(page.into_iter().map(|row| Statement::one(table.insert, row)).collect())
                .map(drop)
        })?);
    }
    if to.is_shared() {
        to.write(vec![Statement::any(COUNT_ON, [])])?;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::store::sqlite::Sqlite;

    #[test]
    fn every_column_of_every_table_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.db");
        Sqlite::create(&path, &[]).unwrap();
        let book = Sqlite::open_any(&path).unwrap();
        let sql = "select m.name, p.name from sqlite_master m join pragma_table_info(m.name) p
            where m.type = 'table' and m.name <> 'meta' order by m.name, p.name";
        let there = book.read(sql, &[]).unwrap();
        let mut copied: Vec<Row> = Vec::new();
        for table in TABLES {
            let columns = table.first["select ".len()..].split(" from ").next().unwrap();
            copied.extend(
                columns.split(',').map(|column| vec![table.name.into(), column.trim().into()]),
            );
            let values = table.insert.matches('$').count();
            assert_eq!(columns.split(',').count(), values, "{}", table.insert);
        }
        copied.sort_by_key(|row| format!("{row:?}"));
        let mut there = there;
        there.sort_by_key(|row| format!("{row:?}"));
        assert_eq!(copied, there);
    }

    #[test]
    fn a_sum_tells_rows_apart_and_not_their_order() {
        let sum = |rows: &[Vec<Value>]| {
            let mut sum = Sum { table: "x", rows: 0, hash: [0; 4] };
            rows.iter().for_each(|row| sum.add(row));
            sum
        };
        let [one, other] = [vec![Value::from("a"), "b".into()], vec![Value::from("ab"), "".into()]];
        assert_eq!(sum(&[one.clone(), other.clone()]), sum(&[other.clone(), one.clone()]));
        assert_ne!(sum(&[one.clone(), one.clone()]), sum(&[one.clone(), other.clone()]));
        assert_ne!(sum(&[one]), sum(&[other]));
        assert_ne!(sum(&[vec![Value::Null]]), sum(&[vec![0_u64.into()]]));
    }
}
