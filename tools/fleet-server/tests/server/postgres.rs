//! The book in Postgres when the database dies, is silent, is away, or is somebody else's.
//!
//! - Every text of a statement in the sources is one that Postgres understands without being told a type.

use crate::common::book::{AUDIT, Place, count, token, uses};
use crate::common::postgres::Postgres as Service;
use fleet_server::store::postgres::Postgres;
use fleet_server::store::{Book, BookError, Row, Statement, Value};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

#[test]
fn a_database_that_is_killed_and_started_is_a_pause() {
    let name = "a_database_that_is_killed_and_started_is_a_pause";
    let Some(mut service) = Service::start(name) else { return };
    let book = Place::Postgres(service.database("fleet")).made().open();
    let (over, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let (written, unknown) = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut written, mut unknown) = (Vec::new(), 0);
                    while !over.load(Ordering::SeqCst) {
                        let n = next.fetch_add(1, Ordering::SeqCst);
                        match book.write(vec![token(n, 1), Statement::one(AUDIT, [n.into()])]) {
                            Ok(_) => written.push(n),
                            Err(BookError::Unknown { .. }) => unknown += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    (written, unknown)
                })
            })
            .collect();
        for _ in 0..3 {
            thread::park_timeout(Duration::from_millis(300));
            service.kill();
            service.begin();
        }
        thread::park_timeout(Duration::from_millis(300));
        over.store(true, Ordering::SeqCst);
        let all = writers.into_iter().map(|one| one.join().unwrap());
        all.fold((Vec::new(), 0), |(mut all, sum), (written, unknown)| {
            all.extend(written);
            (all, sum + unknown)
        })
    });
    assert!(written.len() > 50, "{}", written.len());
    let there: Vec<Row> = uses(&book);
    for n in &written {
        let row = vec![Value::Bytes(n.to_be_bytes().to_vec()), Value::Integer(1)];
        assert!(there.contains(&row), "{n} was acknowledged and is gone");
    }
    let spare = there.len() - written.len();
    assert!(spare <= unknown, "{spare} more than were acknowledged, {unknown} unknown");
    assert_eq!(count(&book, "select count(*) from audit") as usize, there.len());
}

/// A proxy that can stop to carry bytes without closing anything: packets are dropped.
struct Proxy {
    port: u16,
    /// Connections that were made before this number carry nothing any more.
    dead_below: Arc<AtomicU64>,
    made: Arc<AtomicU64>,
    /// Whether the next `commit` is carried, and no answer to it.
    cuts_commit: Arc<AtomicBool>,
}

#[expect(clippy::disallowed_methods, reason = "a proxy listens and connects")]
fn proxy(to: u16) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (dead_below, made) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (dead, number) = (dead_below.clone(), made.clone());
    let cuts_commit = Arc::new(AtomicBool::new(false));
    let cuts = cuts_commit.clone();
    thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
            let own = number.fetch_add(1, Ordering::SeqCst);
            for (mut from, mut into) in
                [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
            {
                let (dead, cuts) = (dead.clone(), cuts.clone());
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(got) = from.read(&mut bytes) {
                        if own < dead.load(Ordering::SeqCst) {
                            // Silent for ever; the sockets stay open.
                            loop {
                                thread::park();
                            }
                        }
                        let is_commit = bytes[..got].windows(6).any(|word| word == b"commit");
                        if is_commit && cuts.swap(false, Ordering::SeqCst) {
                            dead.store(own + 1, Ordering::SeqCst);
                        }
                        if got == 0 || into.write_all(&bytes[..got]).is_err() {
                            break;
                        }
                    }
                    let _ = into.shutdown(Shutdown::Both);
                });
            }
        }
    });
    Proxy { port, dead_below, made, cuts_commit }
}

#[test]
fn a_connection_that_drops_its_packets_is_left_for_another() {
    let name = "a_connection_that_drops_its_packets_is_left_for_another";
    let Some(service) = Service::start(name) else { return };
    drop(Place::Postgres(service.database("fleet")).made());
    let proxy = proxy(service.port());
    let address = format!("postgres://fleet@127.0.0.1:{}/fleet?sslmode=disable", proxy.port);
    let book = Postgres::open(&address).unwrap();
    book.write(vec![token(1, 1)]).unwrap();
    book.write(vec![token(2, 1)]).unwrap();
    proxy.dead_below.store(proxy.made.load(Ordering::SeqCst), Ordering::SeqCst);
    match book.write(vec![token(3, 1)]) {
        Ok(_) | Err(BookError::Unknown { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    book.write(vec![token(4, 1)]).unwrap();
    assert!(uses(&book).len() >= 3);
}

/// A server may well have written what nobody was told: so it is said, and it is there.
#[test]
fn a_commit_whose_answer_is_lost_is_told_as_unknown() {
    let name = "a_commit_whose_answer_is_lost_is_told_as_unknown";
    let Some(service) = Service::start(name) else { return };
    drop(Place::Postgres(service.database("fleet")).made());
    let proxy = proxy(service.port());
    let address = format!("postgres://fleet@127.0.0.1:{}/fleet?sslmode=disable", proxy.port);
    let book = Postgres::open(&address).unwrap();
    proxy.cuts_commit.store(true, Ordering::SeqCst);
    let error = book.write(vec![token(1, 1)]).unwrap_err();
    assert!(matches!(error, BookError::Unknown { .. }) && !error.is_lost(), "{error}");
    assert!(error.to_string().contains("whether it was written is unknown"), "{error}");
    assert_eq!(uses(&book).len(), 1);
    assert_eq!(book.write(vec![token(1, 1)]), Err(BookError::Twice { at: 0 }), "said again, once");
}

/// A number of a round that is the highest and one more, as the server draws it.
const ROUND: &str =
    "insert into round(id, cohort, artifact, previous, state, quota, invited, stored, opened,
    deadline, seed) select coalesce(max(id), 0) + 1, $1, $1, $1, 1, 1, 0, 0, 0, 0, $1 from round
    returning id";

/// Goal: a row that is there twice only because two were at it at once is none, and one that stays is.
/// Whoever is first has read nothing, so that the database sees no conflict between the two but the key.
#[test]
fn a_number_that_another_took_at_the_same_time_is_drawn_again() {
    let name = "a_number_that_another_took_at_the_same_time_is_drawn_again";
    let Some(service) = Service::start(name) else { return };
    let book = Place::Postgres(service.database("fleet")).made().open();
    let drawn = |cohort: u8| book.write(vec![Statement::one(ROUND, [vec![cohort; 32].into()])]);
    let rows = |id: i64| vec![vec![vec![Value::Integer(id)]]];
    // The second time the statement is prepared, and goes out with `begin`.
    for id in [1, 3] {
        thread::scope(|scope| {
            let other = format!(
                "begin isolation level serializable; insert into round values ({id}, '\\x{id:02x}', '', '',
                1, 1, 0, 0, 0, 0, ''); select pg_sleep(1.5); commit"
            );
            let other = scope.spawn({
                let service = &service;
                move || service.psql("fleet", &other)
            });
            let sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
            while service.psql("fleet", sleeps) != Ok("1".to_owned()) {
                thread::park_timeout(Duration::from_millis(10));
            }
            assert_eq!(drawn(100 + id as u8), Ok(rows(id + 1)));
            other.join().unwrap().unwrap();
        });
    }
    assert_eq!(drawn(101), Err(BookError::Twice { at: 0 }), "one open round a cohort");
}

#[test]
fn a_statement_that_waits_too_long_is_ended_and_has_written_nothing() {
    let name = "a_statement_that_waits_too_long_is_ended_and_has_written_nothing";
    let Some(service) = Service::start(name) else { return };
    let book = Place::Postgres(service.database("fleet")).made().open();
    thread::scope(|scope| {
        let holds = "begin; lock table token; select pg_sleep(7); commit";
        let holds = scope.spawn(|| service.psql("fleet", holds));
        while service.psql(
            "fleet",
            "select count(*) from pg_locks l join pg_class c on c.oid = l.relation
            where c.relname = 'token' and l.mode = 'AccessExclusiveLock'",
        ) != Ok("1".to_owned())
        {
            thread::park_timeout(Duration::from_millis(10));
        }
        let error =
            book.write(vec![Statement::one(AUDIT, [1_u64.into()]), token(1, 1)]).unwrap_err();
        assert!(error.to_string().contains("took longer than 5 s; nothing"), "{error}");
        holds.join().unwrap().unwrap();
    });
    assert_eq!(count(&book, "select count(*) from audit"), 0);
    book.write(vec![token(1, 1)]).unwrap();
}

/// Only over TLS, and only with a password.
const ACCESS: &str = "host all fleet 127.0.0.1/32 trust
hostssl all strict 127.0.0.1/32 scram-sha-256
";

#[test]
fn a_database_is_known_by_its_certificate_where_that_is_asked_for() {
    let name = "a_database_is_known_by_its_certificate_where_that_is_asked_for";
    let certificate = |names: &[&str]| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (made.pem(), key.serialize_pem())
    };
    let (own, foreign) = (certificate(&["localhost"]), certificate(&["localhost"]));
    let started = Service::with(name, |data| {
        let write = |file: &str, text: &str| {
            std::fs::write(data.join(file), text).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(data.join(file), mode).unwrap();
        };
        write("server.crt", &own.0);
        write("server.key", &own.1);
        std::fs::write(data.join("pg_hba.conf"), ACCESS).unwrap();
        let settings = data.join("postgresql.auto.conf");
        std::fs::write(settings, "ssl = on\n").unwrap();
    });
    let Some(service) = started else { return };
    drop(Place::Postgres(service.database("fleet")).made());
    let user = "create user strict superuser password 'a secret'";
    service.psql("fleet", user).unwrap();
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(place.path().join(name), text).unwrap();
        place.path().join(name).display().to_string()
    };
    let (known, other) = (file("own.pem", &own.0), file("foreign.pem", &foreign.0));
    let open = |host: &str, secret: &str, mode: &str| {
        let port = service.port();
        Postgres::open(&format!("postgres://strict:{secret}@{host}:{port}/fleet?sslmode={mode}"))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let good = "a%20secret";
    for mode in ["prefer", "require", &format!("verify-full&sslrootcert={known}")] {
        open("localhost", good, mode).unwrap();
    }
    for (host, secret, mode, expected) in [
        ("localhost", good, "disable", "no encryption"),
        ("localhost", "wrong", "require", "password authentication failed"),
        ("localhost", good, &format!("verify-full&sslrootcert={other}"), "certificate"),
        ("127.0.0.1", good, &format!("verify-full&sslrootcert={known}"), "certificate"),
    ] {
        let error = open(host, secret, mode).unwrap_err();
        assert!(error.contains(expected) && !error.contains("secret"), "{mode}: {error}");
    }
}

#[test]
fn a_database_that_is_away_is_told_and_nothing_was_written() {
    let name = "a_database_that_is_away_is_told_and_nothing_was_written";
    let Some(mut service) = Service::start(name) else { return };
    let place = Place::Postgres(service.database("fleet")).made();
    let book = place.open();
    service.kill();
    let error = book.write(vec![token(1, 1)]).unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains("nothing was written"), "{error}");
    service.begin();
    book.write(vec![token(1, 1)]).unwrap();
    let Place::Postgres(address) = &place else { return };
    // Who has it alone is alone, and who has it with others keeps it.
    let error = Postgres::open_alone(address).unwrap_err().to_string();
    assert!(error.contains("another program has it open"), "{error}");
    drop(book);
    let alone = Postgres::open_alone(address).unwrap();
    let error = Postgres::open(address).unwrap_err().to_string();
    assert!(error.contains("another program upgrades or moves it"), "{error}");
    drop(alone);
    place.open();
    // A book is not made over another.
    let error = Postgres::create(address, &[]).unwrap_err().to_string();
    assert!(error.contains("already exists: expected a database without a book"), "{error}");
    assert_eq!(uses(&place.open()).len(), 1);
    for wrong in ["none", "postgres"] {
        let address = address.replace("/fleet?", &format!("/{wrong}?"));
        let error = Postgres::open(&address).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
        assert_eq!(error.contains("no book is here, or it was moved away"), wrong == "postgres");
    }
    // Nobody has it open: a lock by the name of no schema is not had.
    let poor = "create role poor login; revoke usage on schema public from public";
    service.psql("fleet", poor).unwrap();
    let error = Postgres::open_alone(&address.replace("fleet@", "poor@")).unwrap_err().to_string();
    assert!(error.contains("its user may use no schema of its search path"), "{error}");
}

/// The texts of statements in the sources.
fn texts(folder: &Path, all: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts(&path, all);
            continue;
        }
        // What one store alone is told is in its own words.
        if ["sqlite.rs", "upgrade.rs", "link.rs", "copy.rs", "moved.rs"]
            .iter()
            .any(|name| path.ends_with(name))
        {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let literals = source.split('"').skip(1).step_by(2);
        let is_one = |text: &&str| {
            let verbs = ["select ", "insert into ", "update ", "delete from "];
            let begins = verbs.iter().any(|verb| text.trim_start().starts_with(verb));
            begins
                && [" from ", " set ", "values", "select "].iter().any(|word| text.contains(word))
        };
        all.extend(literals.filter(is_one).map(|text| text.replace("\\\n", "")));
    }
}

#[test]
fn every_statement_is_one_that_postgres_understands() {
    let name = "every_statement_is_one_that_postgres_understands";
    let Some(service) = Service::start(name) else { return };
    drop(Place::Postgres(service.database("fleet")).made());
    let mut all = Vec::new();
    texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    assert!(all.len() > 70, "{}", all.len());
    let told = all.iter().filter_map(|text| {
        // A beginning to which the sources add another is whole without it.
        let error = service.psql("fleet", &format!("prepare one as {text}")).err()?;
        Some(format!("{text}\n    {error}\n"))
    });
    let told: Vec<String> = told.collect();
    assert!(told.is_empty(), "{}", told.concat());
}
