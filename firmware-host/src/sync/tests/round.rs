//! A device joins, lends, fetches, reports: what a fleet is for.

use super::files::{FLEET, Keys, adapter, cohort, global};
use super::rig::Rig;
use super::server::{Bad, NOW_MS, Server};
use crate::config::Fleet as Config;
use sapwood::state::{Global, InstallOutcome, Series};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{DeviceState, Invite, Outcome};
use sapwood_protocol::fleet::statement::Role;
use std::time::Duration;

pub(super) fn invite(round: u64, artifact: Hash) -> Invite {
    Invite { round, artifact, deadline_s: 86_400, bytes_max: 1 << 20, rank_max: 16 }
}

#[tokio::test]
async fn a_device_joins_lends_what_it_learned_and_installs_what_others_did() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    rig.join(&server);
    rig.until("a check-in", |rig| rig.turn.status().is_some_and(|s| s.check_ins[0] > 0)).await;
    let book = rig.book();
    assert_eq!((book.state, book.label.as_deref()), (Some(DeviceState::Accepted), Some("kiosks")));
    assert_eq!((book.token, book.trust.is_some()), (None, true));

    server.inner().invite = Some(invite(1, Hash([0; 32])));
    rig.turn.pace.ask();
    rig.until("an upload", |rig| rig.book().sent.is_some_and(|sent| sent.round == Some(1))).await;
    let expected = Hash::of(&adapter("sapwood-update/1", Hash([0; 32]), 1));
    assert_eq!(server.inner().uploads.values().collect::<Vec<_>>(), [&expected]);

    let (keys, artifact) = (Keys::new(0), global(1));
    server.offer(keys.release(1, &artifact, Role::Release), &artifact);
    server.inner().invite = None;
    rig.turn.pace.ask();
    rig.until("an install", |rig| !rig.pupil.given.lock().unwrap().is_empty()).await;
    rig.until("a report", |_| !server.inner().reports.is_empty()).await;
    assert_eq!(server.inner().reports[&1], Outcome::Confirmed);
    rig.until("its end", |rig| rig.book().pending.is_none() && rig.book().acked == [1]).await;
    assert!(rig.disk.paths().iter().all(|path| !path.starts_with("incoming/")), "no file is left");
    assert_eq!(rig.amiss(), "");
    assert_eq!(rig.pupil.given.lock().unwrap().len(), 1, "given once");
    assert!(server.inner().back.is_empty());
}

/// mendersoftware/mender 827: a report that could not be sent undid the update. On trial and after it: nothing
/// is taken back, and nothing is given again.
#[tokio::test]
async fn a_server_that_is_dead_at_the_end_of_an_install_undoes_nothing() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    *rig.pupil.ends.lock().unwrap() = Some(InstallOutcome::Trialled);
    rig.join(&server);
    let (keys, artifact) = (Keys::new(0), global(1));
    server.offer(keys.release(1, &artifact, Role::Release), &artifact);
    rig.until("a trial", |rig| rig.pupil.view.lock().unwrap().trial).await;
    let dead = std::iter::repeat_with(|| ("/v1/checkin", Bad::Deaf));
    server.inner().bad.extend(dead.take(1000));
    let given = |rig: &Rig| rig.pupil.given.lock().unwrap().len();
    let mut given_on_trial = 0;
    for luck in 0..4 {
        rig.turn.pace.ask();
        rig.steps(20).await;
        assert!(rig.amiss().contains("broke off"), "{}", rig.amiss());
        rig.restart(luck);
        if luck == 1 {
            let mut view = rig.pupil.view.lock().unwrap();
            (view.trial, view.generation) = (false, view.generation + 1);
            view.installs[0].outcome = InstallOutcome::Confirmed;
            given_on_trial = given(&rig);
        }
    }
    assert!(server.inner().reports.is_empty() && server.inner().bad.len() < 1000);
    let installed = rig.pupil.view.lock().unwrap().installed().map(|one| one.artifact);
    assert_eq!(installed, Some(Hash::of(&artifact)));
    server.inner().bad.clear();
    rig.turn.pace.ask();
    rig.until("a report", |_| !server.inner().reports.is_empty()).await;
    assert_eq!(server.inner().reports[&1], Outcome::Confirmed);
    assert!(rig.pupil.recalled.lock().unwrap().is_empty(), "it was taken back");
    assert_eq!(given(&rig), given_on_trial, "given again after its end");
}

/// Without it, the bytes of a later commit would be a second contribution.
#[tokio::test]
async fn one_artifact_gets_one_contribution_and_a_round_that_failed_the_same_bytes() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    rig.join(&server);
    server.inner().invite = Some(invite(1, Hash([0; 32])));
    rig.until("an upload", |rig| rig.turn.status().is_some_and(|s| s.uploads == 1)).await;
    rig.pupil.commit();
    let puts = |server: &Server| {
        server.inner().heard.iter().filter(|(line, _)| line.starts_with("PUT")).count()
    };
    rig.turn.pace.ask();
    rig.steps(10).await;
    assert_eq!(puts(&server), 1, "the same round asks for nothing more");
    server.inner().invite = Some(invite(2, Hash([0; 32])));
    rig.turn.pace.ask();
    rig.until("the next round", |rig| rig.book().sent.unwrap().round == Some(2)).await;
    assert_eq!((puts(&server), server.inner().uploads.len()), (2, 1));
    server.inner().invite = Some(invite(3, Hash([9; 32])));
    rig.turn.pace.ask();
    rig.steps(10).await;
    assert_eq!(puts(&server), 2, "another artifact is not installed");
    // Another artifact is, and is gone again: what was given to the first stays given.
    let install = |rig: &Rig, artifact: Option<Hash>| {
        let series = Some(Series { fleet: FLEET.0, cohort: cohort().0 });
        let over = |Hash(artifact)| Global { ranks: 2, artifact, sequence: 1, series };
        rig.pupil.view.lock().unwrap().global = artifact.map(over);
        rig.pupil.commit();
    };
    install(&rig, Some(Hash([9; 32])));
    rig.turn.pace.ask();
    rig.until("an upload", |rig| rig.book().sent.unwrap().round == Some(3)).await;
    install(&rig, None);
    server.inner().invite = Some(invite(4, Hash([0; 32])));
    rig.turn.pace.ask();
    rig.steps(10).await;
    assert_eq!((puts(&server), rig.book().given), (3, vec![Hash([0; 32])]));
}

#[tokio::test]
async fn what_was_committed_is_told_within_seconds_and_at_most_once_a_minute() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    server.inner().check_in_s = 6 * 3600;
    rig.join(&server);
    // One that is signed again has the same number.
    let check_ins = |server: &Server| {
        let inner = server.inner();
        let numbers = inner.heard.iter().filter_map(|(_, number)| *number);
        numbers.collect::<std::collections::BTreeSet<_>>().len()
    };
    rig.until("a check-in", |_| check_ins(&server) == 1).await;
    rig.clock.wind(Duration::from_secs(600));
    rig.pupil.commit();
    rig.steps(7).await;
    assert_eq!(check_ins(&server), 2, "within some seconds");
    rig.pupil.commit();
    rig.steps(20).await;
    assert_eq!(check_ins(&server), 2, "not twice a minute");
    rig.steps(20).await;
    assert_eq!(check_ins(&server), 3);
    rig.turn.pace.ask();
    rig.steps(2).await;
    assert_eq!(check_ins(&server), 4, "an operator's word needs no pace");
    rig.steps(1_000).await;
    assert_eq!(check_ins(&server), 4, "nothing new, nothing told");
}

/// Goal: a line on which an upload takes hours keeps the server's pace.
#[tokio::test]
async fn check_ins_and_orders_go_on_beside_a_slow_upload() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    server.inner().invite = Some(invite(1, Hash([0; 32])));
    server.inner().bad.push_back(("/v1/rounds/", Bad::Slow(Duration::from_millis(1_500))));
    rig.join(&server);
    let answered = |rig: &Rig| rig.turn.status().unwrap().check_ins[0];
    rig.until("an upload on its way", |rig| rig.book().sent.is_some()).await;
    let before = answered(&rig);
    for more in 1..=3 {
        rig.clock.wind(Duration::from_secs(700));
        rig.step().await;
        assert_eq!((answered(&rig), rig.turn.status().unwrap().uploads), (before + more, 0));
    }
    assert!(server.inner().uploads.is_empty(), "it is still on its way");
    // The same invite came three times meanwhile: it is one upload.
    rig.until("its end", |rig| rig.book().sent.unwrap().round == Some(1)).await;
    rig.steps(5).await;
    assert_eq!((rig.turn.status().unwrap().uploads, server.inner().uploads.len()), (1, 1));
    assert_eq!(rig.amiss(), "");
}

/// Who leaves sends nothing any more.
#[tokio::test]
async fn an_upload_ends_where_the_fleet_is_left() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    server.inner().invite = Some(invite(1, Hash([0; 32])));
    server.inner().bad.push_back(("/v1/rounds/", Bad::Slow(Duration::from_millis(300))));
    rig.join(&server);
    rig.until("an upload on its way", |rig| rig.book().sent.is_some()).await;
    rig.leave().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(rig.turn.member.is_none() && server.inner().uploads.is_empty());
}

#[tokio::test]
async fn a_pending_device_waits_for_an_operator_and_learns_its_label_then() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    server.inner().welcome = DeviceState::Pending;
    rig.join(&server);
    rig.until("an answer", |rig| rig.book().state == Some(DeviceState::Pending)).await;
    assert_eq!(rig.book().label, None);
    for device in server.inner().devices.values_mut() {
        device.state = DeviceState::Accepted;
    }
    rig.until("a label", |rig| rig.book().label.is_some()).await;
}

/// A key that leaked is taken out of trust: what it signed goes no further, however far it came.
#[tokio::test]
async fn what_is_under_way_stops_when_its_signers_are_believed_no_more_and_goes_on_signed_again() {
    for fetched in [false, true] {
        let (server, mut rig) = (Server::start().await, Rig::new());
        let keys = [Keys::new(0), Keys::new(1)];
        let artifact = global(1);
        server.offer(keys[0].release(1, &artifact, Role::Release), &artifact);
        let files =
            if fetched { None } else { Some(std::mem::take(&mut server.inner().artifacts)) };
        // A learner that has begun, and has not told how it ended.
        *rig.pupil.ends.lock().unwrap() = None;
        rig.join(&server);
        let given = |rig: &Rig| rig.pupil.given.lock().unwrap().len();
        let before = usize::from(fetched);
        rig.until("a statement", |rig| {
            let taken = rig.book().pending.is_some_and(|one| one.fetched == fetched);
            taken && given(rig) == before
        })
        .await;
        server.inner().trust.push(keys[1].trust(2, Some(&keys[0])));
        server.inner().artifacts.extend(files.into_iter().flatten());
        rig.turn.pace.ask();
        rig.until("the trust", |rig| {
            rig.turn.member.as_ref().is_some_and(|member| member.trust().unwrap().epoch == 2)
        })
        .await;
        rig.clock.wind(Duration::from_secs(7 * 3600));
        rig.steps(20).await;
        assert_eq!((given(&rig), rig.book().taken()), (before, 1), "fetched: {fetched}");
        server.offer(keys[1].release(1, &artifact, Role::Release), &artifact);
        rig.turn.pace.ask();
        rig.until("an install", |rig| given(rig) > before).await;
    }
}

#[tokio::test]
async fn trust_is_followed_from_the_first_statement_to_the_newest() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    let keys: Vec<Keys> = (0..4).map(Keys::new).collect();
    for epoch in 1..4_usize {
        let signed = keys[epoch].trust(epoch as u64 + 1, Some(&keys[epoch - 1]));
        server.inner().trust.push(signed);
    }
    let artifact = global(1);
    server.offer(keys[3].release(1, &artifact, Role::Release), &artifact);
    rig.join(&server);
    rig.until("an install", |rig| !rig.pupil.given.lock().unwrap().is_empty()).await;
    // The keys of before are not believed any more.
    let artifact = global(2);
    server.offer(keys[2].release(2, &artifact, Role::Release), &artifact);
    rig.turn.pace.ask();
    rig.steps(5).await;
    assert!(rig.amiss().contains("0 signatures"), "{}", rig.amiss());
    // A statement that does not follow from what is trusted.
    server.inner().trust.push(keys[1].trust(5, Some(&keys[0])));
    rig.turn.pace.ask();
    rig.steps(5).await;
    assert!(rig.amiss().contains("old root keys"), "{}", rig.amiss());
    assert_eq!(rig.turn.member.as_ref().unwrap().trust().unwrap().epoch, 4);
}

#[tokio::test]
async fn a_clock_at_1970_enrols_and_installs() {
    let config = Config { enabled: true, ..Config::default() };
    let (server, mut rig) = (Server::start().await, Rig::with(config, 0, |_| None));
    let (keys, artifact) = (Keys::new(0), global(1));
    server.offer(keys.release(1, &artifact, Role::Release), &artifact);
    rig.join(&server);
    rig.until("an install", |rig| !rig.pupil.given.lock().unwrap().is_empty()).await;
    let signed_again =
        server.inner().heard.iter().filter(|(line, _)| line.contains("enroll")).count();
    assert_eq!(signed_again, 2, "once with its own time, once with the server's");
    assert_eq!(rig.book().day.number, NOW_MS / 86_400_000);
}

#[tokio::test]
async fn candidates_are_for_devices_of_the_lab() {
    for lab in [false, true] {
        let config = Config { enabled: true, lab, ..Config::default() };
        let (server, mut rig) = (Server::start().await, Rig::with(config, NOW_MS, |_| None));
        let (keys, artifact) = (Keys::new(0), global(1));
        server.offer(keys.release(1, &artifact, Role::Candidate), &artifact);
        rig.join(&server);
        rig.steps(20).await;
        assert_eq!(rig.pupil.given.lock().unwrap().len(), usize::from(lab));
    }
}

#[tokio::test]
async fn the_day_s_bytes_are_a_budget() {
    let config = Config { enabled: true, up_mb_a_day: 0, down_mb_a_day: 0, ..Config::default() };
    let (server, mut rig) = (Server::start().await, Rig::with(config, NOW_MS, |_| None));
    let (keys, artifact) = (Keys::new(0), global(1));
    server.offer(keys.release(1, &artifact, Role::Release), &artifact);
    server.inner().invite = Some(invite(1, Hash([0; 32])));
    rig.join(&server);
    rig.steps(20).await;
    assert!(rig.amiss().contains("up-mb-a-day"), "{}", rig.amiss());
    assert!(server.inner().uploads.is_empty() && rig.pupil.given.lock().unwrap().is_empty());
    assert_eq!((rig.book().day.up, rig.book().day.down), (0, 0));
}

#[tokio::test]
async fn a_disk_without_room_gets_no_artifact() {
    let config = Config { enabled: true, ..Config::default() };
    let (server, mut rig) = (Server::start().await, Rig::with(config, NOW_MS, |_| Some(1 << 20)));
    let (keys, artifact) = (Keys::new(0), global(1));
    server.offer(keys.release(1, &artifact, Role::Release), &artifact);
    rig.join(&server);
    rig.steps(20).await;
    assert!(rig.amiss().contains("1048576 bytes free"), "{}", rig.amiss());
    assert!(rig.book().pending.is_some() && rig.pupil.given.lock().unwrap().is_empty());
}

#[tokio::test]
async fn another_key_is_known_to_the_server_whichever_answer_is_lost() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    rig.join(&server);
    rig.until("a check-in", |rig| rig.turn.status().is_some_and(|s| s.check_ins[0] > 0)).await;
    let key = |server: &Server| server.inner().devices.values().next().unwrap().key;
    let first = key(&server);
    rig.turn.member.as_mut().unwrap().rotate().await.unwrap();
    let second = key(&server);
    assert_ne!(first, second);
    // The server has the new key, and the device does not hear of it.
    server.inner().bad.push_back(("/v1/key", super::server::Bad::Cut(0)));
    assert!(rig.turn.member.as_mut().unwrap().rotate().await.is_err());
    assert_ne!(key(&server), second);
    rig.restart(0);
    rig.turn.open().unwrap();
    rig.turn.pace.ask();
    rig.until("a check-in", |rig| rig.turn.status().is_some_and(|s| s.check_ins[0] > 0)).await;
    assert_eq!(rig.turn.member.as_ref().unwrap().key.public(), key(&server));
    assert_eq!(server.inner().devices.len(), 1, "the device's name stays");
}

#[tokio::test]
async fn joining_again_is_the_same_device_and_another_fleet_is_refused() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    rig.join(&server);
    rig.until("a check-in", |rig| rig.turn.status().is_some_and(|s| s.check_ins[0] > 0)).await;
    rig.join(&server);
    rig.restart(0);
    rig.until("a check-in", |rig| rig.turn.status().is_some_and(|s| s.check_ins[0] > 0)).await;
    assert_eq!(server.inner().devices.len(), 1);
    let other = server.link().replace("fleet=05", "fleet=06").parse().unwrap();
    let clock: std::sync::Arc<dyn crate::clock::Clock> = rig.clock.clone();
    let error = crate::sync::enlist(&rig.turn.store, &other, None, None, &clock).unwrap_err();
    assert!(error.to_string().contains("fleet leave"), "{error}");
    crate::sync::leave(&rig.turn.store).unwrap();
    assert!(rig.disk.paths().is_empty(), "{:?}", rig.disk.paths());
}
