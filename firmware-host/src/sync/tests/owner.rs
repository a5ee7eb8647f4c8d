//! What an owner asks for, when power or the disk fails in the middle of it.

use super::rig::Rig;
use super::server::{Bad, Server, refusal};
use crate::clock::Clock;
use crate::sync::{FleetError, Life, Order, enlist};
use sapwood::ports::cut_disk::{Failure, Fault};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::message::DeviceState;
use std::sync::{Arc, Mutex};

/// Operations of an order, about; more than there are.
const OPERATIONS: usize = 24;

fn join(server: &Server) -> Order {
    Order::Join { link: server.link().parse().unwrap(), name: Some("kiosk".into()) }
}

/// A device that has checked in.
async fn member(server: &Server) -> (Rig, Life) {
    let rig = Rig::new();
    let mut life = rig.life();
    life.follow(join(server)).await.unwrap();
    assert_eq!(life.status().unwrap().check_ins, [1, 0]);
    (rig, life)
}

/// Its key stayed, its numbers began anew: a server takes that for a copied key.
#[tokio::test]
async fn who_joins_after_a_leave_that_was_cut_is_another_device() {
    let mut left = 0;
    for (at, luck) in (0..OPERATIONS).flat_map(|at| [0, 1, 7].map(|luck| (at, luck))) {
        let what = format!("cut at {at}, luck {luck}");
        let server = Server::start().await;
        let (mut rig, life) = member(&server).await;
        drop(life);
        rig.disk.set(Some(Fault::Cut(at)));
        drop(crate::sync::leave(&rig.turn.store));
        rig.restart(luck);
        let is_gone = rig.turn.store.book().unwrap().is_none();
        let mut life = rig.life();
        life.step().await;
        assert!(!is_gone || rig.disk.paths().is_empty(), "{what}: {:?}", rig.disk.paths());
        life.follow(join(&server)).await.unwrap();
        left += usize::from(is_gone);
        assert!(server.inner().back.is_empty(), "{what}: numbers ran back");
        assert_eq!(server.inner().devices.len(), 1 + usize::from(is_gone), "{what}");
    }
    assert!(left > 10 && left < 3 * OPERATIONS, "{left}");
}

/// What was in memory was written back, beside a key that was gone.
#[tokio::test]
async fn a_leave_that_failed_is_not_undone_and_can_be_tried_again() {
    let mut failed = 0;
    for at in 0..OPERATIONS {
        let what = format!("EIO at {at}");
        let server = Server::start().await;
        let (rig, mut life) = member(&server).await;
        rig.disk.set(Some(Fault::Once(at, Failure::Eio)));
        failed += usize::from(life.follow(Order::Leave).await.is_err());
        rig.disk.set(None);
        let is_gone = rig.turn.store.book().unwrap().is_none();
        // More check-ins than are numbered at once.
        for _ in 0..20 {
            drop(life.follow(Order::Now).await);
        }
        assert_eq!(rig.turn.store.book().unwrap().is_none(), is_gone, "{what}: the book is back");
        life.follow(Order::Leave).await.unwrap();
        assert!(rig.disk.paths().is_empty(), "{what}: {:?}", rig.disk.paths());
        life.follow(join(&server)).await.unwrap();
        assert!(server.inner().back.is_empty(), "{what}: numbers ran back");
        assert_eq!(server.inner().devices.len(), 2, "{what}");
    }
    assert!(failed > 3 && failed < OPERATIONS, "{failed}");
}

/// The key of the disk had changed, the one in memory had not, and no next one was left to try.
#[tokio::test]
async fn a_key_that_the_server_took_is_used_though_the_disk_failed() {
    let mut failed = 0;
    for at in 0..OPERATIONS {
        let server = Server::start().await;
        let (rig, mut life) = member(&server).await;
        rig.disk.set(Some(Fault::Once(at, Failure::Eio)));
        failed += usize::from(life.follow(Order::RotateKey).await.is_err());
        rig.disk.set(None);
        let status = life.follow(Order::Now).await.unwrap().unwrap();
        assert_eq!(status.waiting_for, "", "EIO at {at}");
        assert_eq!(status.check_ins, [2, 0], "EIO at {at}");
        let status = life.follow(Order::RotateKey).await.unwrap();
        assert_eq!(status.unwrap().waiting_for, "", "EIO at {at}");
    }
    assert!(failed > 3 && failed < OPERATIONS, "{failed}");
}

/// A link of another pin, in the words of its operator.
fn spoiled(server: &Server) -> Order {
    let link = server.link().replace(&server.pin.to_string(), &"7a".repeat(32));
    Order::Join { link: link.parse().unwrap(), name: Some("other".into()) }
}

/// It took the place of the one that worked, and whoever gave it read that all was well.
#[tokio::test]
async fn another_link_takes_the_place_of_one_that_works_when_it_works_itself() {
    let server = Server::start().await;
    let (rig, mut life) = member(&server).await;
    let before = rig.turn.store.book().unwrap();
    let said = life.follow(spoiled(&server)).await.unwrap_err().to_string();
    assert!(
        said.contains("is not who it should be") && said.ends_with("of before is kept"),
        "{said}"
    );
    server.inner().bad.push_back(("/v1/enroll", Bad::Refuse(refusal(Code::Unavailable))));
    let again = Order::Join { link: server.link().parse().unwrap(), name: Some("other".into()) };
    let said = life.follow(again.clone()).await.unwrap_err().to_string();
    assert!(said.contains("the server refused") && said.ends_with("of before is kept"), "{said}");
    let now = rig.turn.store.book().unwrap().map(|book| (book.host, book.pin, book.name));
    assert_eq!(now, before.map(|book| (book.host, book.pin, book.name)));
    assert_eq!(life.follow(Order::Now).await.unwrap().unwrap().check_ins, [2, 0]);
    let status = life.follow(again.clone()).await.unwrap().unwrap();
    assert_eq!(
        (status.state, status.name.as_str(), status.check_ins),
        ("accepted", "other", [1, 0])
    );
    // Under another key it is still the same device.
    life.follow(Order::RotateKey).await.unwrap();
    assert!(life.follow(spoiled(&server)).await.is_err());
    life.follow(again).await.unwrap();
    assert_eq!(server.inner().devices.len(), 1);
    assert!(server.inner().back.is_empty(), "numbers ran back");
    // Where no program runs nobody could try it.
    let (link, clock) = (server.link().parse().unwrap(), rig.clock.clone() as Arc<dyn Clock>);
    let said = enlist(&rig.turn.store, &link, None, None, &clock).unwrap_err().to_string();
    assert!(said.contains("expected a program that runs"), "{said}");
}

/// Power fails while another link takes the place of one: one of both stands there, and either works.
#[tokio::test]
async fn a_power_cut_at_any_operation_of_another_link_leaves_one_that_works() {
    let mut names = std::collections::BTreeMap::new();
    for (at, luck) in (0..OPERATIONS).flat_map(|at| [0, 1, 7].map(|luck| (at, luck))) {
        let server = Server::start().await;
        let (mut rig, mut life) = member(&server).await;
        let again =
            Order::Join { link: server.link().parse().unwrap(), name: Some("other".into()) };
        rig.disk.set(Some(Fault::Cut(at)));
        drop(life.follow(again).await);
        drop(life);
        rig.restart(luck);
        let mut life = rig.life();
        let status = life.follow(Order::Now).await.unwrap().unwrap();
        assert_eq!((status.state, status.check_ins), ("accepted", [1, 0]), "cut at {at}");
        assert!(server.inner().back.is_empty(), "cut at {at}: numbers ran back");
        *names.entry(status.name).or_insert(0) += 1;
    }
    assert!(names["kiosk"] > 3 && names["other"] > 3, "{names:?}");
}

/// Whoever asked read `accepted`, and nothing had been said to anybody.
#[tokio::test]
async fn a_check_in_that_fails_is_an_order_that_fails() {
    let server = Server::start().await;
    let (rig, mut life) = member(&server).await;
    server.inner().bad.push_back(("/v1/checkin", Bad::Deaf));
    let said = life.follow(Order::Now).await.unwrap_err().to_string();
    assert!(said.contains("broke off"), "{said}");
    life.follow(Order::Now).await.unwrap();
    // The first link to a fleet stays, and is tried again.
    life.follow(Order::Leave).await.unwrap();
    let said = life.follow(spoiled(&server)).await.unwrap_err().to_string();
    assert!(said.contains("is not who") && said.contains("is kept, and tried again"), "{said}");
    assert!(rig.turn.store.book().unwrap().is_some());
    let status = life.follow(join(&server)).await.unwrap().unwrap();
    assert_eq!(
        (status.state, status.name.as_str()),
        ("accepted", "kiosk"),
        "no proof is asked for"
    );
    // A disk that is full is no fault of a server.
    rig.disk.set(Some(Fault::Full(0)));
    for order in [Order::RotateKey, join(&server)] {
        let failed = life.follow(order).await.unwrap_err();
        assert!(matches!(failed, FleetError::Store(_)), "{failed}");
    }
}

/// Nothing of it was in the log.
#[tokio::test]
async fn the_log_says_what_the_device_is_to_its_fleet() {
    let server = Server::start().await;
    server.inner().welcome = DeviceState::Pending;
    let (rig, page) = (Rig::new(), Page::default());
    let into = page.clone();
    let log = tracing_subscriber::fmt().with_writer(move || into.clone()).with_ansi(false).finish();
    // Where one alone is there, whoever comes first on another thread decides what is logged here.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().finish());
    let _guard = tracing::subscriber::set_default(log);
    let mut life = rig.life();
    let said = |word: &str| page.text().matches(word).count();
    life.follow(join(&server)).await.unwrap();
    assert_eq!(said("waits until an operator"), 1, "{}", page.text());
    drop(life.follow(Order::Now).await);
    assert_eq!(said("waits until an operator"), 1, "once: {}", page.text());
    for (state, word) in [
        (DeviceState::Accepted, "the fleet takes this device"),
        (DeviceState::Suspended, "has suspended this device"),
        (DeviceState::Retired, "has retired this device"),
    ] {
        server.inner().devices.values_mut().for_each(|device| device.state = state);
        drop(life.follow(Order::Now).await);
        drop(life.follow(Order::Now).await);
        assert_eq!(said(word), 1, "{}", page.text());
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
