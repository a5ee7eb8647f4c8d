//! What an owner asks for, when power or the disk fails in the middle of it.

use super::rig::Rig;
use super::server::Server;
use crate::sync::{Life, Order};
use sapwood::ports::cut_disk::{Failure, Fault};

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
