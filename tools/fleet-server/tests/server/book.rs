//! The laws of a book, over every store that keeps one: SQLite and Postgres.
//!
//! - A law is a function of a place where books are made and opened; each is told the store's name.

use crate::common::book::{AUDIT, Place, count, token, used, uses};
use crate::common::postgres::Postgres as Service;
use fleet_server::store::{BookError, Row, Statement, Value};
use std::io::Write;
use std::thread;
use std::time::Duration;

/// A law, under its name.
type Law = (&'static str, fn(&Place));

const LAWS: [Law; 10] = [
    ("whole or not at all", whole),
    ("values by number", by_number),
    ("values come back", values),
    ("what not all keep is refused", refused),
    ("the last use is had once", last_use),
    ("a count guards", counted),
    ("numbers that count up", count_up),
    ("two have it open", two),
    ("in order", ordered),
    ("10,000 who hang up", hang_ups),
];

#[test]
fn the_laws_hold_in_sqlite() {
    for (name, law) in LAWS {
        let _ = writeln!(std::io::stderr(), "sqlite: {name}");
        law(&Place::Sqlite(tempfile::tempdir().unwrap()).made());
    }
}

#[test]
fn the_laws_hold_in_postgres() {
    let Some(service) = Service::start("the_laws_hold_in_postgres") else { return };
    for (at, (name, law)) in LAWS.into_iter().enumerate() {
        let _ = writeln!(std::io::stderr(), "postgres: {name}");
        let name = format!("law{at}");
        law(&Place::Postgres(service.database(&name)).made());
        let open = "select count(*) from pg_stat_activity where state like 'idle in%'";
        assert_eq!(service.psql(&name, open), Ok("0".to_owned()), "a transaction was left open");
    }
}

fn whole(place: &Place) {
    let book = place.open();
    book.write(vec![token(1, 1)]).unwrap();
    // Twice: the second time every statement is prepared, and all go out together.
    for hash in [2, 3] {
        book.write(vec![token(hash, 5)]).unwrap();
        let lost = book.write(vec![token(9, 5), used(1), used(1)]).unwrap_err();
        assert_eq!(lost, BookError::Guard { at: 2, expected: 1, got: 0 });
        assert_eq!(book.write(vec![token(9, 1), token(2, 1)]), Err(BookError::Twice { at: 1 }));
        // The first that does not hold is told, though another would not either.
        let both = book.write(vec![used(77), token(2, 1)]).unwrap_err();
        assert_eq!(both, BookError::Guard { at: 0, expected: 1, got: 0 });
        let wrong = Statement::any("insert into none values (1)", []);
        assert!(matches!(book.write(vec![token(9, 1), wrong]), Err(BookError::Failed { .. })));
        let many = Statement::one("update token set label = 'x' where uses = $1", [5_u64.into()]);
        if hash == 3 {
            let lost = book.write(vec![many]).unwrap_err();
            assert_eq!(lost, BookError::Guard { at: 0, expected: 1, got: 2 });
        }
    }
    let rows = book.write(vec![token(4, 5), used(1)]).unwrap();
    assert_eq!(rows, [vec![], vec![vec![Value::Integer(0)]]]);
    let left = [(1_u64, 0), (2, 5), (3, 5), (4, 5)];
    let left = left
        .map(|(hash, uses)| vec![Value::Bytes(hash.to_be_bytes().to_vec()), Value::Integer(uses)]);
    assert_eq!(uses(&book), left);
    assert_eq!(count(&book, "select count(*) from token where label = 'x'"), 0);
}

fn by_number(place: &Place) {
    let book = place.open();
    let rows = book.read("select $2, $1, $2", &["one".into(), 2.5.into()]).unwrap();
    assert_eq!(rows, [vec![Value::Real(2.5), "one".into(), Value::Real(2.5)]]);
}

fn values(place: &Place) {
    let book = place.open();
    let write = "insert into install(cohort, sequence, device, outcome, reason, before, after, at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)";
    let read = "select cohort, sequence, device, outcome, reason, before, after, at from install
        where sequence = $1";
    let large = |n: usize| (0..n).map(|at| (at * 7 % 251) as u8).collect::<Vec<u8>>();
    let [low, high, none] = [Value::Integer(i64::MIN), Value::Integer(i64::MAX), Value::Null];
    let real = Value::Real;
    for (at, (bytes, number, text, first, second)) in [
        (vec![], low, "", real(f64::INFINITY), real(f64::NEG_INFINITY)),
        (vec![0], high, "\u{1f333} b\u{e4}ume \u{202e} '\"\\ $1 %", none, real(-0.0)),
        (
            large(8 << 20),
            0_u64.into(),
            &"long ".repeat(1 << 18),
            real(f64::MIN_POSITIVE),
            real(0.1),
        ),
        (vec![255; 32], Value::Integer(-1), "a\r\n\tb\u{1}", real(f64::MAX), real(5e-324)),
    ]
    .into_iter()
    .enumerate()
    {
        let sequence = Value::from(at as u64);
        let row: Row = vec![
            bytes.clone().into(),
            sequence.clone(),
            bytes.into(),
            number.clone(),
            text.into(),
            first,
            second,
            number,
        ];
        // A key has its limit in Postgres; what is large is no part of one.
        let mut kept = row;
        if matches!(&kept[0], Value::Bytes(bytes) if bytes.len() > 64) {
            kept[0] = vec![1].into();
            kept[2] = vec![1].into();
        }
        book.write(vec![Statement::one(write, kept.clone())]).unwrap();
        let back = book.read(read, &[sequence]).unwrap();
        // Equal as numbers: SQLite has one zero.
        assert_eq!(back, [kept]);
    }
    let shape = large(8 << 20);
    let write = "insert into cohort(id, base, first_layer, targets, label, sequence, shape, policy)
        values ($1, $1, 0, 0, '', 0, $2, '')";
    book.write(vec![Statement::one(write, [vec![1].into(), shape.clone().into()])]).unwrap();
    assert_eq!(book.read("select shape from cohort", &[]).unwrap(), [vec![shape.into()]]);
}

fn refused(place: &Place) {
    let book = place.open();
    let sql =
        "insert into token(hash, label, uses, auto, lab, expires) values ($1, $2, 1, 0, 0, 0)";
    let label = |label: &str| Statement::one(sql, [vec![1].into(), label.into()]);
    let expected =
        "a value of statement 1 is a text with NUL, expected a text without NUL or a number;
        nothing was written";
    let error = book.write(vec![label("good"), label("bad\0")]).unwrap_err().to_string();
    assert_eq!(error, expected.split_whitespace().collect::<Vec<_>>().join(" "));
    let read = book.read("select $1", &["bad\0".into()]).unwrap_err();
    assert_eq!(read, BookError::Unstorable { at: 0, got: "a text with NUL" });
    let read = book.read("select $1", &[f64::NAN.into()]).unwrap_err();
    assert_eq!(read, BookError::Unstorable { at: 0, got: "not a number" });
    assert_eq!(uses(&book), Vec::<Row>::new());
}

/// What so many threads made of a job, each told its number.
fn all_at_once<T: Send>(threads: u64, job: impl Fn(u64) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn({
                    let job = &job;
                    move || job(n)
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn last_use(place: &Place) {
    let book = place.open();
    book.write(vec![token(1, 7)]).unwrap();
    let won = all_at_once(40, |_| match book.write(vec![used(1)]) {
        Ok(_) => true,
        Err(error) if error.is_lost() => false,
        Err(error) => panic!("{error}"),
    });
    assert_eq!(won.into_iter().filter(|won| *won).count(), 7);
}

/// Under `read committed` each of two would see only what was there before both.
fn counted(place: &Place) {
    let book = place.open();
    let sql = "insert into cohort(id, base, first_layer, targets, label, sequence, policy)
        select $1, $1, 0, 0, '', 0, '' where (select count(*) from cohort) < 5";
    let made = all_at_once(24, |n| {
        let id = n.to_be_bytes().to_vec();
        match book.write(vec![Statement::one(sql, [id.into()])]) {
            Ok(_) => 1,
            Err(error) if error.is_lost() => 0,
            Err(error) => panic!("{error}"),
        }
    });
    assert_eq!(made.iter().sum::<u64>(), 5);
    assert_eq!(count(&book, "select count(*) from cohort"), 5);
}

fn count_up(place: &Place) {
    let book = place.open();
    let sql =
        "insert into round(id, cohort, artifact, previous, state, quota, invited, stored, opened,
        deadline, seed) select coalesce(max(id), 0) + 1, $1, $1, $1, 1, 1, 0, 0, 0, 0, $1 from round
        returning id";
    let mut all = all_at_once(16, |n| {
        let id = n.to_be_bytes().to_vec();
        let audit = Statement::one(AUDIT, [n.into()]);
        let rows = book.write(vec![Statement::one(sql, [id.into()]), audit]).unwrap();
        rows[0][0][0].clone()
    });
    all.sort_by_key(|id| format!("{id:>9?}"));
    all.dedup();
    assert_eq!(all.len(), 16, "{all:?}");
    assert_eq!(count(&book, "select max(id) from round"), 16);
    let twice = Statement::one(sql, [0_u64.to_be_bytes().to_vec().into()]);
    assert_eq!(book.write(vec![twice]), Err(BookError::Twice { at: 0 }), "one open round a cohort");
}

fn two(place: &Place) {
    let books = [place.open(), place.open()];
    all_at_once(8, |n| {
        let book = &books[n as usize % 2];
        (0..25).for_each(|at| drop(book.write(vec![token(100 * n + at, 1)]).unwrap()));
    });
    assert_eq!(uses(&books[0]).len(), 200);
    assert_eq!(uses(&books[0]), uses(&books[1]));
}

fn ordered(place: &Place) {
    let books = [place.open(), place.open()];
    for n in 0..50 {
        books[0].write(vec![token(n, 1), Statement::one(AUDIT, [n.into()])]).unwrap();
        // What was answered is there for everybody.
        assert_eq!(count(&books[1], "select count(*) from token"), n as i64 + 1);
    }
    let rows = books[1].read("select at from audit order by id", &[]).unwrap();
    let expected: Vec<Row> = (0..50_u64).map(|n| vec![n.into()]).collect();
    assert_eq!(rows, expected);
}

/// The callers of a server are tasks: who hangs up is not there any more when the answer comes.
fn hang_ups(place: &Place) {
    let book = place.open();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for n in 0..10_000_u64 {
            let book = book.clone();
            let write = move || book.write(vec![token(n, 1), Statement::one(AUDIT, [n.into()])]);
            let asks = tokio::task::spawn_blocking(write);
            match n % 3 {
                0 => asks.abort(),
                1 => drop(asks),
                _ => drop(tokio::time::timeout(Duration::from_micros(n % 500), asks).await),
            }
        }
    });
    drop(runtime);
    book.write(vec![token(20_000, 1)]).unwrap();
    let tokens = count(&book, "select count(*) from token");
    assert!((3_000..=10_001).contains(&tokens), "{tokens}");
    assert_eq!(count(&book, "select count(*) from audit"), tokens - 1, "one without the other");
}
