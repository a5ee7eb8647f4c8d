//! Power cuts and errors of the disk at every operation, from joining to the end of an install.
//!
//! What may not happen: a number that runs back, two contributions to one artifact, a statement that is
//! taken twice, half a file for the learner (which the learner of these tests looks at itself).

use super::files::{Keys, global};
use super::rig::Rig;
use super::round::invite;
use super::server::Server;
use sapwood::ports::cut_disk::{Failure, Fault};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::statement::Role;
use std::io::ErrorKind;

/// Operations of a whole life, about; more than there are.
const OPERATIONS: usize = 160;

/// A server that wants an update, then offers an artifact.
async fn server() -> Server {
    let server = Server::start().await;
    let artifact = global(1);
    server.inner().invite = Some(invite(1, Hash([0; 32])));
    server.offer(Keys::new(0).release(1, &artifact, Role::Release), &artifact);
    server
}

fn is_done(rig: &Rig, server: &Server) -> bool {
    let Some(member) = rig.turn.member.as_ref() else { return false };
    let reported = server.inner().reports.contains_key(&1);
    reported && member.book().pending.is_none() && member.book().acked == [1]
}

/// Lives to the end; a power cut ends it early.
async fn live(rig: &mut Rig, server: &Server) {
    for _ in 0..400 {
        if rig.disk.is_off() || is_done(rig, server) {
            return;
        }
        if rig.turn.member.is_none() {
            rig.join(server);
        }
        rig.step().await;
        // Each step may be behind a commit.
        if rig.pupil.given.lock().unwrap().is_empty() {
            rig.pupil.commit();
        }
    }
}

fn check(rig: &Rig, server: &Server, what: &str) {
    let inner = server.inner();
    assert!(inner.back.is_empty(), "{what}: numbers ran back: {:?}", inner.back);
    assert_eq!(inner.devices.len(), 1, "{what}: one device");
    let puts = inner.heard.iter().filter(|(line, _)| line.starts_with("PUT"));
    assert!(puts.count() >= inner.uploads.len() && inner.uploads.len() <= 1, "{what}");
    assert_eq!(inner.refused_uploads, 0, "{what}: other bytes for one artifact");
    let given = rig.pupil.given.lock().unwrap();
    assert!(given.iter().all(|offered| offered.sequence == 1), "{what}");
}

#[tokio::test]
async fn a_power_cut_at_any_operation_repeats_nothing_and_loses_nothing() {
    let mut cuts = 0;
    for at in 0..OPERATIONS {
        for luck in [0, 1, 7] {
            let what = format!("cut at {at}, luck {luck}");
            let (server, mut rig) = (server().await, Rig::new());
            rig.disk.set(Some(Fault::Cut(at)));
            live(&mut rig, &server).await;
            if rig.disk.is_off() {
                cuts += 1;
                rig.restart(luck);
            }
            live(&mut rig, &server).await;
            assert!(is_done(&rig, &server), "{what}: {:?}", rig.turn.status());
            check(&rig, &server, &what);
        }
    }
    assert!(cuts > 150 && cuts < 3 * OPERATIONS, "{cuts} cuts: more operations than are tried");
}

#[tokio::test]
async fn an_error_of_the_disk_at_any_operation_is_told_and_got_over() {
    let kinds = [Failure::Eio, Failure::Kind(ErrorKind::StorageFull)];
    for (at, failure) in (0..OPERATIONS).flat_map(|at| kinds.map(|kind| (at, kind))) {
        let what = format!("{failure:?} at {at}");
        let (server, mut rig) = (server().await, Rig::new());
        rig.disk.set(Some(Fault::Once(at, failure)));
        live(&mut rig, &server).await;
        assert!(is_done(&rig, &server), "{what}: {:?}", rig.turn.status());
        check(&rig, &server, &what);
    }
    for at in (0..OPERATIONS).step_by(5) {
        let what = format!("full from {at} on");
        let (server, mut rig) = (server().await, Rig::new());
        rig.disk.set(Some(Fault::Full(at)));
        live(&mut rig, &server).await;
        rig.disk.set(None);
        live(&mut rig, &server).await;
        live(&mut rig, &server).await;
        assert!(is_done(&rig, &server), "{what}: {:?}", rig.turn.status());
        check(&rig, &server, &what);
    }
}
