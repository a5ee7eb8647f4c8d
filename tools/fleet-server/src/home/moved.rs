//! A fleet's book moves: from its folder into a database, or back; and one of an older version is upgraded.
//!
//! ```text
//! copy -> counts and hashes agree -> stores.toml, in one rename -> the old book is set aside
//! ```
//! - Nobody may have the book: neither a server of this folder, nor any program with the same database.
//! - Cut at any moment, it can be said again: what a cut one copied is copied again, for until it is whole
//!   it has version 0. Nothing of the old book is deleted: `fleet.db.moved`, or `meta_moved` in a database.

use super::keys::{disk, secret};
use super::lock::locked;
use super::stores::{STORES, Stores};
use super::{BOOK, HomeError, stores};
use crate::store::postgres::Postgres;
use crate::store::sqlite::{Frozen, Sqlite};
use crate::store::{
    Book, BookError, Row, Statement, copy, give_path, schema, shown, upgrade as steps,
};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where a book in a folder is made.
const PARTIAL: &str = "fleet.db.partial";
const META: &str = "select fleet, name, created from meta";

/// What became of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// What is in each table.
    pub sums: Vec<copy::Sum>,
    /// Where the old book is.
    pub old: String,
}

/// A book that nobody else has.
pub(super) struct Alone {
    book: Box<dyn Book>,
    _frozen: Option<Frozen>,
}

impl Alone {
    pub(super) fn open(folder: &Path, database: Option<&str>) -> Result<Self, HomeError> {
        let path = folder.join(BOOK);
        Ok(match database {
            Some(address) => Self { book: Box::new(Postgres::open_alone(address)?), _frozen: None },
            None if path.is_file() => {
                let frozen = Some(Frozen::new(&path)?);
                Self { book: Box::new(Sqlite::open_any(&path)?), _frozen: frozen }
            }
            None => return Err(HomeError::Foreign { path: folder.to_owned() }),
        })
    }
}

/// Brings the book of a folder to this version; the one that it had.
///
/// # Errors
/// [`HomeError`]: it is served, or as it was.
pub fn upgrade(folder: &Path) -> Result<u64, HomeError> {
    let stores = stores(folder)?;
    let _lock = locked(folder)?;
    let book: Box<dyn Book> = match &stores.database {
        Some(address) => Box::new(Postgres::open_alone(address)?),
        None if folder.join(BOOK).is_file() => Box::new(Sqlite::open_any(&folder.join(BOOK))?),
        None => return Err(HomeError::Foreign { path: folder.to_owned() }),
    };
    Ok(steps::upgrade(&*book)?)
}

/// Moves the book of a folder into a database, or with none back into the folder.
///
/// # Errors
/// [`HomeError`]: it is served, the other place is not empty, or what arrived is not what was sent. The fleet
/// is where it was then.
pub fn relocate(folder: &Path, database: Option<&str>) -> Result<Moved, HomeError> {
    let before = stores(folder)?;
    let after = Stores { database: database.map(str::to_owned), ..before.clone() };
    let after =
        after.checked().map_err(|source| HomeError::Stores { path: folder.into(), source })?;
    let _lock = locked(folder)?;
    if before.database == after.database {
        return already(folder, &before);
    }
    let from = Alone::open(folder, before.database.as_deref())?;
    schema::check(&*from.book, &place(folder, before.database.as_deref()))?;
    let sums = match &after.database {
        Some(address) => into_database(&*from.book, address)?,
        None => into_folder(&*from.book, folder)?,
    };
    name(folder, &after)?;
    if before.database.is_some() {
        let rename = "alter table meta rename to meta_moved";
        from.book.write(vec![Statement::any(rename, [])])?;
    }
    drop(from);
    let old = match &before.database {
        Some(address) => format!("{}, its table meta is meta_moved now", shown(address)),
        None => aside(folder)?.display().to_string(),
    };
    Ok(Moved { sums, old })
}

fn place(folder: &Path, database: Option<&str>) -> String {
    database.map_or_else(|| folder.join(BOOK).display().to_string(), shown)
}

/// It is there; a move that was cut before its last step is ended.
fn already(folder: &Path, stores: &Stores) -> Result<Moved, HomeError> {
    let book = Alone::open(folder, stores.database.as_deref())?;
    let sums = copy::sums(&*book.book)?;
    let is_left = stores.database.is_some() && folder.join(BOOK).exists();
    let old = if is_left { aside(folder)?.display().to_string() } else { String::new() };
    Ok(Moved { sums, old })
}

/// Copies, and looks whether all arrived.
fn checked(from: &dyn Book, to: &dyn Book) -> Result<Vec<copy::Sum>, HomeError> {
    let sent = copy::copy(from, to)?;
    let arrived = copy::sums(to)?;
    match sent.iter().zip(&arrived).find(|(sent, arrived)| sent != arrived) {
        None => Ok(sent),
        Some((sent, arrived)) => {
            Err(HomeError::Copied { table: sent.table, sent: sent.rows, arrived: arrived.rows })
        }
    }
}

/// The first rows of a book that is not whole yet.
fn begun(from: &dyn Book) -> Result<Statement, BookError> {
    let mut row = vec![0_u64.into()];
    row.extend(meta(from)?);
    let sql = "insert into meta(version, fleet, name, created) values ($1, $2, $3, $4)";
    Ok(Statement::one(sql, row))
}

fn meta(book: &dyn Book) -> Result<Row, BookError> {
    Ok(book.read(META, &[])?.into_iter().next().unwrap_or_default())
}

fn whole(book: &dyn Book) -> Result<(), BookError> {
    let sql = "update meta set version = $1 where version = 0";
    book.write(vec![Statement::one(sql, [schema::VERSION.into()])]).map(drop)
}

/// What another place has already: nothing, a part, or the same.
enum Found {
    Nothing,
    Part,
    Same(Vec<copy::Sum>),
}

fn found(from: &dyn Book, to: &dyn Book, place: &str) -> Result<Found, HomeError> {
    let full = || HomeError::Full { place: place.to_owned() };
    let is_own = meta(to)? == meta(from)?;
    match schema::version(to)? {
        0 if is_own => Ok(Found::Part),
        schema::VERSION if is_own => {
            let sums = copy::sums(from)?;
            if copy::sums(to)? == sums { Ok(Found::Same(sums)) } else { Err(full()) }
        }
        _ => Err(full()),
    }
}

fn into_database(from: &dyn Book, address: &str) -> Result<Vec<copy::Sum>, HomeError> {
    let to = Postgres::open_alone(address)?;
    let there = "select count(*) from pg_tables where schemaname = current_schema()";
    let found = match to.read(there, &[])?.first().and_then(|row| row.first()) {
        Some(crate::store::Value::Integer(0)) => Found::Nothing,
        _ => match found(from, &to, &shown(address)) {
            // Tables of something else, in which there is not even what we ask for.
            Err(HomeError::Book(BookError::Failed { .. })) => {
                return Err(HomeError::Full { place: shown(address) });
            }
            other => other?,
        },
    };
    match found {
        Found::Same(sums) => return Ok(sums),
        Found::Part => {}
        Found::Nothing => to.fill(&[begun(from)?])?,
    }
    let sums = checked(from, &to)?;
    whole(&to)?;
    Ok(sums)
}

fn into_folder(from: &dyn Book, folder: &Path) -> Result<Vec<copy::Sum>, HomeError> {
    let path = folder.join(BOOK);
    if path.exists() {
        let to = Sqlite::open_any(&path)?;
        return match found(from, &to, &path.display().to_string())? {
            Found::Same(sums) => Ok(sums),
            Found::Nothing | Found::Part => {
                Err(HomeError::Full { place: path.display().to_string() })
            }
        };
    }
    let partial = folder.join(PARTIAL);
    for file in files(&partial) {
        // What a move left that was cut.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(disk(&file)(error));
            }
            _ => {}
        }
    }
    Sqlite::create(&partial, &[begun(from)?])?;
    give_path(&partial, folder).map_err(disk(&partial))?;
    let to = Sqlite::open_any(&partial)?;
    let sums = checked(from, &to)?;
    whole(&to)?;
    to.fold()?;
    drop(to);
    fs::rename(&partial, &path).map_err(disk(&path))?;
    synced(folder)?;
    Ok(sums)
}

/// Says where the stores are, in one rename.
pub(super) fn name(folder: &Path, stores: &Stores) -> Result<(), HomeError> {
    let (path, partial) = (folder.join(STORES), folder.join("stores.toml.partial"));
    if stores.is_folder() {
        fs::remove_file(&path).map_err(disk(&path))?;
    } else {
        // What a move left that was cut, or nothing.
        let _ = fs::remove_file(&partial);
        secret(&partial, &stores.write())?;
        fs::rename(&partial, &path).map_err(disk(&path))?;
    }
    synced(folder)
}

/// Sets the old book of a folder aside, under a name that is free.
fn aside(folder: &Path) -> Result<PathBuf, HomeError> {
    let names = (0_u32..).map(|n| match n {
        0 => format!("{BOOK}.moved"),
        _ => format!("{BOOK}.moved.{n}"),
    });
    let free = names.map(|name| folder.join(name)).find(|path| !path.exists());
    let free = free.unwrap_or_else(|| folder.join("fleet.db.moved"));
    for (from, to) in files(&folder.join(BOOK)).iter().zip(files(&free)).rev() {
        if from.exists() {
            fs::rename(from, to).map_err(disk(from))?;
        }
    }
    synced(folder)?;
    Ok(free)
}

/// A book's file, and what SQLite keeps beside it.
fn files(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{}{end}", path.display())))
}

fn synced(folder: &Path) -> Result<(), HomeError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk(folder))
}
