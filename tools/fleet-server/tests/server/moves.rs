//! Books that move and books that grow older: into a database and back, cut at any moment; upgraded.

use crate::common::book::{AUDIT, count};
use crate::common::postgres::Postgres as Service;
use crate::common::{
    DAY_ONE_MS, Fleet, Served, candidate, fleet, json, made_with, refused, run, said,
};
use fleet_server::home::{Home, Stores};
use fleet_server::rounds::NONE;
use fleet_server::store::copy::{self, Sum};
use fleet_server::store::postgres::Postgres;
use fleet_server::store::sqlite::Sqlite;
use fleet_server::store::{Book, Statement};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// A book that a program of version 1 wrote: tests/golden.
const GOLDEN: &str = include_str!("../golden/book-1.sql");

#[test]
fn a_book_of_version_1_is_refused_until_it_is_upgraded_and_keeps_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(GOLDEN).unwrap();
    drop(old);
    let error = Sqlite::open(&path).unwrap_err().to_string();
    let expected = "has book version 1, expected 2: stop its servers, copy it, and run";
    assert!(error.contains(expected), "{error}");
    let rows = |book: &dyn Book| {
        let audit = "select id, at, who, what, detail from audit order by id";
        let trust = "select epoch, statement, signatures from trust order by epoch";
        [audit, trust].map(|sql| book.read(sql, &[]).unwrap())
    };
    let book = Sqlite::open_any(&path).unwrap();
    let before = rows(&book);
    assert_eq!(before.each_ref().map(Vec::len), [4, 3]);
    assert_eq!(fleet_server::store::upgrade::upgrade(&book).unwrap(), 1);
    assert_eq!(fleet_server::store::upgrade::upgrade(&book).unwrap(), 2, "and once is enough");
    drop(book);
    let book = Sqlite::open(&path).unwrap();
    assert_eq!(rows(&book), before);
    book.write(vec![Statement::one(AUDIT, [5_u64.into()])]).unwrap();
    assert_eq!(count(&book, "select max(id) from audit"), 5);
    // Half of a copy is no book of an older version, and two in one place are none.
    book.write(vec![Statement::one("update meta set version = 0", [])]).unwrap();
    let half = fleet_server::store::upgrade::upgrade(&book).unwrap_err().to_string();
    assert!(half.contains("begun by a move that was cut, which can be said again"), "{half}");
    let twice =
        "insert into meta(version, fleet, name, created) select 2, fleet, name, 1 from meta";
    book.write(vec![Statement::one(twice, [])]).unwrap();
    drop(book);
    let error = Sqlite::open(&path).unwrap_err().to_string();
    assert!(error.contains("its table meta has 2 rows, expected one"), "{error}");
}

#[test]
fn a_database_of_version_1_becomes_one_of_this() {
    let name = "a_database_of_version_1_becomes_one_of_this";
    let Some(service) = Service::start(name) else { return };
    let address = service.database("fleet");
    let tables = GOLDEN.split(";\n").filter_map(|text| {
        let at = text.find("CREATE ")?;
        Some(format!("{};", &text[at..]))
    });
    let tables: String = tables.collect();
    service.psql("fleet", &tables).unwrap();
    let rows = "insert into meta values (1, 'x', 'valves', 1); insert into audit values (7, 1, 'a', 'b', 'c')";
    service.psql("fleet", rows).unwrap();
    let error = Postgres::open(&address).unwrap_err().to_string();
    assert!(error.contains("book version 1, expected 2"), "{error}");
    let book = Postgres::open_alone(&address).unwrap();
    assert_eq!(fleet_server::store::upgrade::upgrade(&book).unwrap(), 1);
    drop(book);
    let book = Postgres::open(&address).unwrap();
    book.write(vec![Statement::one(AUDIT, [5_u64.into()])]).unwrap();
    assert_eq!(count(&book, "select max(id) from audit"), 8);
}

/// A fleet with rows in every table that a round and a release fill.
fn lived() -> Fleet {
    let (mut fleet, mut devices) = fleet(3);
    candidate(&fleet, &mut devices, NONE, 5);
    devices[0].check_in().unwrap();
    fleet.server = None;
    fleet
}

fn sums(folder: &Path) -> Vec<Sum> {
    copy::sums(&Home::open(folder).unwrap().book).unwrap()
}

#[test]
fn a_fleet_moves_into_a_database_and_back_with_every_row() {
    let name = "a_fleet_moves_into_a_database_and_back_with_every_row";
    let Some(service) = Service::start(name) else { return };
    let fleet = lived();
    let folder = fleet.folder();
    let (database, other) = (service.database("fleet"), service.database("other"));
    service.psql("other", "create table own(a int)").unwrap();
    let to = |address: &str| run(&folder, &["move", "--json", "--database", address]);
    // Not while it is served, not over anything, not with a secret that all see.
    let served = Served::start(&folder);
    assert!(refused(&to(&database)).contains("is served by another process"));
    drop(served);
    // A server lets go of what is old, in a fleet of long ago: what is there after it is to stay.
    let before = sums(&folder);
    assert!(before.iter().filter(|sum| sum.rows > 0).count() >= 8, "{before:?}");
    assert!(refused(&to(&other)).contains("is not empty, expected nothing there"));
    let seen = refused(&to("postgres://fleet:secret@127.0.0.1/fleet"));
    assert!(seen.contains("seen by all") && !seen.contains("secret"), "{seen}");
    assert_eq!(sums(&folder), before);
    let told = json(&to(&database));
    assert!(told["old"].as_str().unwrap().ends_with("fleet.db.moved"), "{told}");
    assert!(folder.join("fleet.db.moved").is_file() && !folder.join("fleet.db").exists());
    assert_eq!(sums(&folder), before);
    said(&to(&database));
    // It goes on there: the audit log counts on.
    let mut moved = Served::start(&folder);
    assert!(moved.address.is_some());
    said(&run(&folder, &["rounds", "open"]));
    let busy = refused(&to("folder"));
    assert!(busy.contains("is served by another process"), "{busy}");
    // A replica is another folder with the same database.
    let replica = fleet.place.path().join("replica");
    assert!(Command::new("cp").arg("-r").arg(&folder).arg(&replica).status().unwrap().success());
    let _ = std::fs::remove_file(replica.join("serve.lock"));
    moved.child.kill().unwrap();
    let held = Served::start(&replica);
    assert!(refused(&to("folder")).contains("another program has it open"));
    drop((moved, held));
    let before = sums(&folder);
    said(&to("folder"));
    assert_eq!(sums(&folder), before);
    assert!(!folder.join("stores.toml").exists() && folder.join("fleet.db").is_file());
    let gone = refused(&run(&replica, &["rounds", "list"]));
    assert!(gone.contains("\"meta\" does not exist"), "{gone}");
    let again = refused(&to(&database));
    assert!(again.contains("is not empty, expected nothing there"), "{again}");
    let third = service.database("third");
    said(&to(&third));
    assert!(folder.join("fleet.db.moved.1").is_file());
    assert_eq!(sums(&folder), before);
}

#[test]
fn a_move_that_is_cut_at_any_moment_can_be_said_again() {
    let name = "a_move_that_is_cut_at_any_moment_can_be_said_again";
    let Some(service) = Service::start(name) else { return };
    let fleet = lived();
    let folder = fleet.folder();
    let book = Home::open(&folder).unwrap().book;
    for at in 0..1500_u64 {
        book.write(vec![Statement::one(AUDIT, [at.into()])]).unwrap();
    }
    drop(book);
    let before = sums(&folder);
    let mut cuts = 0;
    for turn in 0..4 {
        let database = service.database(&format!("turn{turn}"));
        for to in [database.as_str(), "folder"] {
            // Ever longer, until one comes to its end.
            for wait in 1.. {
                let mut child = Command::new(env!("CARGO_BIN_EXE_fleet-server"))
                    .args(["move", "--database", to, "--folder"])
                    .arg(&folder)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                let ended = (0..wait * 7 + turn).any(|_| {
                    thread::park_timeout(Duration::from_millis(2));
                    child.try_wait().unwrap().is_some()
                });
                if ended && child.wait().unwrap().success() {
                    break;
                }
                assert!(
                    !ended,
                    "it refused: {}",
                    refused(&run(&folder, &["move", "--database", to]))
                );
                child.kill().unwrap();
                child.wait().unwrap();
                cuts += 1;
            }
            assert_eq!(sums(&folder), before);
        }
    }
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn a_fleet_is_made_in_a_database_and_its_secrets_are_kept() {
    let name = "a_fleet_is_made_in_a_database_and_its_secrets_are_kept";
    let Some(service) = Service::start(name) else { return };
    let (place, database) = (tempfile::tempdir().unwrap(), service.database("fleet"));
    let folder = place.path().join("fleet");
    let init = |folder: &Path| run(folder, &["init", "--tls", "--database", &database]);
    said(&init(&folder));
    assert!(!folder.join("fleet.db").exists());
    let stores = std::fs::read_to_string(folder.join("stores.toml")).unwrap();
    assert_eq!(stores, format!("database = \"{database}\"\n"));
    said(&run(&folder, &["audit"]));
    let served = Served::start(&folder);
    assert!(served.address.is_some());
    let error = refused(&init(&place.path().join("other")));
    assert!(error.contains("another program has it open"), "{error}");
    drop(served);
    let error = refused(&init(&place.path().join("other")));
    assert!(error.contains("already exists"), "{error}");
    assert!(!place.path().join("other").exists());
    // Whoever has a password in the file tells it nobody.
    let secret = database.replace("fleet@", "fleet:secret@").replace("/fleet?", "/none?");
    std::fs::write(folder.join("stores.toml"), format!("database = \"{secret}\"\n")).unwrap();
    let error = refused(&run(&folder, &["audit"]));
    assert!(error.contains("does not exist") && !error.contains("secret"), "{error}");
    let stores = Stores { database: Some(database), blobs: None };
    let again =
        std::panic::catch_unwind(|| made_with(&place.path().join("x"), &stores, DAY_ONE_MS));
    assert!(again.is_err());
}
