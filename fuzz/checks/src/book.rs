//! A fleet's folder with a fuzzed book and key: what the sync knows of its fleet, and who it is.
//!
//! - In: three parts: a whole file of the book, a book's body to be sealed, a file of the key.
//! - Promises: a book that is read is whole by its line, and is written as one that reads the same; one that
//!   is not is refused in a line that names it, and nothing is changed; the program starts on either.

use crate::Seed;
use crate::cursor::{joined, parts};
use crate::fleet::{FLEET, NOW_S, one_line, secret, signed, statement_of, trust};
use firmware_host::clock::SystemClock;
use firmware_host::config::Fleet as Config;
use firmware_host::sync::{
    Book, Day, Learner, Life, Network, Offered, Part, Pending, Refused, Sent, Store, View, World,
};
use sapwood::ports::{Memory, Storage};
use sapwood_protocol::fleet::id::{Bytes, CohortId, Hash};
use sapwood_protocol::fleet::message::{DeviceState, Outcome, Report, Signed};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

const ROOT: &str = "/srv/fleet";

/// A learner that does not know yet what it adapts: the sync reads its folder and waits.
struct Silent;

impl Learner for Silent {
    fn view(&self) -> Option<View> {
        None
    }

    fn own_part(&self, _: CohortId) -> Result<Option<Part>, String> {
        Ok(None)
    }

    fn install(&self, _: Offered) {}

    fn withdraw(&self) {}

    fn recall(&self, _: Hash) {}
}

/// A file of the fleet's folder, as `sync/sealed.rs` says.
fn seal(kind: &str, version: u32, body: &[u8]) -> Vec<u8> {
    let line = format!("sapwood-fleet {kind} {version} {} {}\n", body.len(), Hash::of(body));
    [line.as_bytes(), body].concat()
}

/// Three parts.
pub fn check(bytes: &[u8]) {
    let [file, body, key] = parts(bytes);
    for book in [file.to_vec(), seal("book", 1, body)] {
        let memory = Arc::new(Memory::default());
        memory.write("book", &book).unwrap();
        memory.write("key", key).unwrap();
        let store = Store::on(memory.clone(), Path::new(ROOT));
        let read = store.book();
        starts(&store, read.is_ok());
        assert_eq!(memory.read("book").unwrap(), book, "a start changed the book");
        assert_eq!(memory.read("key").unwrap(), key, "a start changed the key");
        match read {
            Ok(read) => {
                is_whole(&book);
                reads_back(&store, &memory, &read.unwrap());
            }
            Err(refused) => {
                one_line(&refused);
                assert!(refused.to_string().contains("the fleet's book"), "{refused}");
            }
        }
    }
}

/// The program starts, and says in a line what is amiss.
fn starts(store: &Store, is_sound: bool) {
    let world = World {
        learner: Arc::new(Silent),
        clock: Arc::new(SystemClock::start()),
        chance: || 0,
        free: |_| None,
        network: Network::System,
    };
    let config = Config { enabled: true, ..Config::default() };
    let mut life = Life::new(store.clone(), config, world);
    let stepped = pin!(life.step()).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(stepped, Poll::Ready(_)), "a start waits");
    let status = life.status().unwrap();
    one_line(&status.waiting_for);
    assert!(is_sound || !status.waiting_for.is_empty(), "nobody is told");
}

/// Length and hash of the line in front are those of what follows it.
fn is_whole(book: &[u8]) {
    let end = book.iter().position(|byte| *byte == b'\n').unwrap();
    let (line, body) = (std::str::from_utf8(&book[..end]).unwrap(), &book[end + 1..]);
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!((words[3].parse(), words[4]), (Ok(body.len()), &*Hash::of(body).to_string()));
}

fn reads_back(store: &Store, memory: &Memory, book: &Book) {
    // JSON may be written closer or wider: one that was wider than may be is refused by then.
    let Ok(()) = store.keep(book).inspect_err(one_line) else { return };
    let written = memory.read("book").unwrap();
    assert_eq!(store.book().unwrap().as_ref(), Some(book));
    store.keep(book).unwrap();
    assert_eq!(memory.read("book").unwrap(), written);
}

/// A device in the middle of everything.
fn book() -> Book {
    let signed_by = |statement: &[u8], keys: &[u8]| Signed {
        statement: Bytes(statement.to_vec()),
        signatures: Bytes(signed(statement, keys)),
    };
    let (trust, statement) = (trust().encode().unwrap(), statement_of(7).encode());
    let (cohort, artifact) = (statement_of(7).cohort, Hash([9; 32]));
    let reason = "no adapter of this cohort".to_owned();
    Book {
        fleet: FLEET,
        host: "fleet.example:8443".to_owned(),
        pin: Some(Hash([8; 32])),
        first_trust: Hash::of(&trust),
        token: Some("token".to_owned()),
        name: "kiosk".to_owned(),
        device: secret(1).public().device(),
        state: Some(DeviceState::Accepted),
        label: Some("kiosks".to_owned()),
        trust: Some(signed_by(&trust, &[1, 2])),
        counter: 48,
        cohort: Some(cohort),
        taken: vec![(CohortId([4; 32]), 3), (cohort, 7)],
        pending: Some(Pending {
            signed: signed_by(&statement, &[11, 13]),
            url: format!("/v1/artifacts/{artifact}"),
            spoiled: 1,
            fetched: false,
        }),
        acked: vec![5, 6],
        failures: vec![Report {
            sequence: 4,
            outcome: Outcome::Failed,
            reason,
            before: None,
            after: Some(1.25),
        }],
        sent: Some(Sent {
            artifact,
            hash: Hash([6; 32]),
            bytes: 34_567,
            rank: 8,
            generation: 12,
            round: Some(3),
        }),
        given: vec![Hash([0; 32])],
        refused: Some(Refused { artifact, generation: 11 }),
        day: Day { number: NOW_S / 86_400, up: 34_567, down: 6_800_000 },
        takes_unnamed: true,
    }
}

/// Sound inputs to begin with.
pub fn seeds() -> Vec<Seed> {
    let memory = Arc::new(Memory::default());
    Store::on(memory.clone(), Path::new(ROOT)).keep(&book()).unwrap();
    let file = memory.read("book").unwrap();
    let body = &file[file.iter().position(|byte| *byte == b'\n').unwrap() + 1..];
    let key = seal("key", 1, &[1; 32]);
    vec![
        ("file", joined(&[&file, b"", &key])),
        ("body", joined(&[b"", body, &key])),
        ("later", joined(&[&seal("book", 2, body), b"{}", &seal("key", 2, &[1; 32])])),
    ]
}
