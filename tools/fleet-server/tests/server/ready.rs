//! What a server says of its own trouble: on its health address, and in its log.

use crate::common::{self, Device, Fleet, Served, candidate, client_tls, fleet, made, read};
use fleet_server::home::Home;
use fleet_server::ready::faults;
use fleet_server::store::{Book, BookError, Row, Statement, Value};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::key::SecretKey;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn ask(health: SocketAddr, method: &str, path: &str) -> common::Reply {
    #[expect(clippy::disallowed_methods, reason = "the other end of the server's interface")]
    let mut stream = TcpStream::connect(health).unwrap();
    let text = format!("{method} {path} HTTP/1.1\r\nhost: {health}\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    read(stream).unwrap()
}

fn ready(fleet: &Fleet) -> (u16, String) {
    let reply = ask(fleet.server.as_ref().unwrap().health.unwrap(), "GET", "/readyz");
    (reply.status, String::from_utf8(reply.body).unwrap())
}

#[test]
fn what_keeps_a_server_from_its_work_is_told_by_readyz() {
    let (fleet, mut devices) = fleet(2);
    let (_, artifact) =
        candidate(&fleet, &mut devices, sapwood_protocol::fleet::id::Hash([0; 32]), 0);
    let mut lab = fleet.device(77);
    lab.enrol(fleet.link(1, true).token.as_deref()).unwrap();
    let url = lab.check_in().unwrap().release.unwrap().url;
    assert_eq!(ready(&fleet), (200, "ready\n".to_owned()));

    let key = fleet.folder().join("keys/online.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (status, text) = ready(&fleet);
    let told = "ready\nan order would fail: nothing can be made a candidate";
    assert!(status == 200 && text.starts_with(told), "{text}");
    assert!(text.contains("expected mode 600"), "{text}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let seed = fs::read(&key).unwrap();
    for wrong in [None, Some(&seed[..20]), Some("ab".repeat(32).as_bytes())] {
        fs::remove_file(&key).unwrap();
        if let Some(wrong) = wrong {
            fs::write(&key, wrong).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        } else {
            fs::write(key.with_extension("away"), &seed).unwrap();
        }
        let (status, text) = ready(&fleet);
        assert!(status == 200 && text.lines().count() == 2, "{text}");
        fs::write(&key, &seed).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(ready(&fleet), (200, "ready\n".to_owned()));

    let drafts = fleet.folder().join("blobs/tmp");
    fs::rename(&drafts, drafts.with_extension("away")).unwrap();
    // Both at once: the one makes it 503, and the other is told too.
    fs::rename(&key, key.with_extension("away")).unwrap();
    let (status, text) = ready(&fleet);
    assert!(status == 503 && text.starts_with("not ready\nno file is kept: "), "{text}");
    assert!(text.contains("\nan order would fail: nothing can be made a candidate"), "{text}");
    fs::rename(key.with_extension("away"), &key).unwrap();
    fs::rename(drafts.with_extension("away"), &drafts).unwrap();

    let name = artifact.to_string();
    let file = fleet.folder().join("blobs").join(&name[..2]).join(&name);
    fs::rename(&file, file.with_extension("away")).unwrap();
    let (status, text) = ready(&fleet);
    let line = format!("{artifact} is not there: put it back from a copy");
    assert!(status == 503 && text.contains("devices cannot fetch sequence 1"), "{text}");
    assert!(text.contains(&line), "{text}");
    let reply = lab.call("GET", &url, b"").unwrap();
    assert_eq!(reply.refusal().error, Code::Unavailable, "it is offered, and should be there");
    fs::rename(file.with_extension("away"), &file).unwrap();
    let (status, text) = ready(&fleet);
    assert!(status == 503 && text.contains("within a minute (blobs)"), "{text}");
    fleet.wind(std::time::Duration::from_secs(61));
    assert_eq!((ready(&fleet).0, lab.call("GET", &url, b"").unwrap().status), (200, 200));
}

/// A book that is away, and says so only after a while.
#[derive(Debug, Default)]
struct Away(AtomicUsize);

impl Away {
    fn asked<T>(&self) -> Result<T, BookError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(BookError::Failed { problem: "Connection refused".to_owned() })
    }
}

impl Book for Away {
    fn read(&self, _sql: &'static str, _values: &[Value]) -> Result<Vec<Row>, BookError> {
        self.asked()
    }

    fn write(&self, _transaction: Vec<Statement>) -> Result<Vec<Vec<Row>>, BookError> {
        self.asked()
    }
}

/// Each question waits for the database: whoever asks has gone before the third is answered.
#[test]
fn a_book_that_is_away_is_asked_once_and_told_in_one_line() {
    let mut fleet = Fleet::new();
    fleet.server = None;
    let mut home = Home::open(&fleet.folder()).unwrap();
    let away = Arc::new(Away::default());
    home.book = away.clone();
    let told = faults(&home, true);
    assert_eq!(told.grave.len() + told.other.len(), 1, "{told:?}");
    assert!(told.grave[0].contains("Connection refused"), "{told:?}");
    assert_eq!(away.0.load(Ordering::SeqCst), 1);
}

/// Where candidates are made, the key that signs them is part of the work.
#[test]
fn a_server_that_judges_is_not_ready_without_the_online_key() {
    let fleet = Fleet::with(|settings| settings.judge = true);
    assert_eq!(ready(&fleet), (200, "ready\n".to_owned()));
    fs::remove_file(fleet.folder().join("keys/online.key")).unwrap();
    let (status, text) = ready(&fleet);
    assert!(status == 503 && text.starts_with("not ready\nnothing can be made a"), "{text}");
}

#[test]
fn who_asks_for_heads_is_answered_without_a_body() {
    let fleet = Fleet::new();
    let health = fleet.server.as_ref().unwrap().health.unwrap();
    for path in ["/", "/healthz", "/readyz", "/metrics", "/v1/admin/overview"] {
        let reply = ask(health, "HEAD", path);
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{path}: {}", reply.text());
    }
    assert_eq!(ask(health, "POST", "/").status, 404);
}

/// The log's lines that have a text, once there are any.
fn lines(log: &std::path::Path, text: &str) -> usize {
    for _ in 0..500 {
        let said = fs::read_to_string(log).unwrap();
        let count = said.lines().filter(|line| line.contains(text)).count();
        if count > 0 {
            return count;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    0
}

/// A shell's limit on the size of files stands for a full disk: the server lives, refuses, and says why,
/// once a minute for each part of it.
#[test]
fn a_server_that_cannot_write_says_so_once_and_lives() {
    let place = tempfile::tempdir().unwrap();
    let (folder, log) = (place.path().join("fleet"), place.path().join("log"));
    let now_ms = fleet_server::ports::Clock::now_ms(&fleet_server::ports::SystemClock::start());
    let id = made(&folder, now_ms);
    let token = common::link(&Home::open(&folder).unwrap(), 1, 1000, false, now_ms).token;
    fs::rename(folder.join("keys/online.key"), folder.join("keys/away")).unwrap();
    // Of 512 bytes each: as large as the book, and half as much again for its log.
    let mut served = Served::with_file_blocks(&folder, &log, 400);
    let address = served.address.unwrap();
    assert_eq!(
        lines(&log, "an order would fail: nothing can be made a candidate"),
        1,
        "at its start"
    );
    let tls = client_tls(&folder);
    let enrol = |n: u8| {
        let key = SecretKey::from_seed(&[n; 32]);
        Device::new(key, id, address, tls.clone(), now_ms).enrol(token.as_deref())
    };
    let refused: Vec<_> = (1..=120).filter_map(|n| enrol(n).err()).collect();
    assert!(refused.len() > 1, "the limit was not reached");
    assert!(refused.iter().all(|refusal| refusal.error == Code::Unavailable), "{refused:?}");
    assert!(served.child.try_wait().unwrap().is_none(), "it was ended");
    assert_eq!(lines(&log, "is answered with 503"), 1);
    assert_eq!(lines(&log, "part=\"book\""), 1);
    let reply = ask(served.health.unwrap(), "GET", "/readyz");
    let text = String::from_utf8(reply.body).unwrap();
    assert!(reply.status == 503 && text.contains("within a minute (book): "), "{text}");
}
