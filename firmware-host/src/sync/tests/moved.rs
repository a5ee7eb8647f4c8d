//! A device that comes from another fleet, or whose state was written before states named any.
//!
//! Fleets count their releases from 1 each: what another one numbered is no news of this one.

use super::files::{FLEET, Keys, cohort, global};
use super::rig::Rig;
use super::round::invite;
use super::server::Server;
use sapwood::state::{Global, Install, InstallOutcome, Series};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{Installed, Outcome};
use sapwood_protocol::fleet::statement::Role;

/// A cohort of the same name in another fleet.
fn elsewhere() -> Option<Series> {
    Some(Series { fleet: [6; 16], cohort: cohort().0 })
}

/// Has the learner stand on release 1 of a series, which it confirmed.
fn stands_on(rig: &Rig, series: Option<Series>, artifact: [u8; 32]) {
    let mut view = rig.pupil.view.lock().unwrap();
    view.global = Some(Global { ranks: 2, artifact, sequence: 1, series });
    view.installs.push(Install {
        sequence: 1,
        series,
        artifact,
        outcome: InstallOutcome::Confirmed,
        reason: "it was tried".into(),
        before: Some(1.5),
        after: Some(1.25),
    });
}

fn checked_in(rig: &Rig) -> bool {
    rig.turn.status().is_some_and(|status| status.check_ins[0] > 0)
}

#[tokio::test]
async fn what_another_fleet_released_is_neither_told_nor_lent_and_release_1_is_new() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    stands_on(&rig, elsewhere(), [9; 32]);
    server.inner().invite = Some(invite(1, Hash([0; 32])));
    rig.join(&server);
    rig.until("a check-in", checked_in).await;
    rig.steps(10).await;
    let told = server.inner().told.clone().unwrap();
    assert_eq!((told.installed, told.ready, told.reports), (None, None, Vec::new()));
    assert!(server.inner().uploads.is_empty(), "what it learned goes on from another's");
    assert_eq!(rig.turn.status().unwrap().installed, None);

    let (keys, artifact) = (Keys::new(0), global(1));
    server.offer(keys.release(1, &artifact, Role::Release), &artifact);
    server.inner().invite = None;
    rig.turn.pace.ask();
    rig.until("a report", |_| !server.inner().reports.is_empty()).await;
    assert_eq!(server.inner().reports[&1], Outcome::Confirmed);
    let series = rig.pupil.given.lock().unwrap()[0].series;
    assert_eq!(series, Series { fleet: FLEET.0, cohort: cohort().0 });

    // From here on it is a device of this fleet as any other.
    let artifact = Hash::of(&artifact);
    server.inner().invite = Some(invite(2, artifact));
    rig.turn.pace.ask();
    rig.until("an upload", |rig| rig.book().sent.is_some()).await;
    let told = server.inner().told.clone().unwrap();
    assert_eq!(told.installed, Some(Installed { sequence: 1, artifact }));
}

/// An operator who moves to another server may release there what the old one did.
#[tokio::test]
async fn the_same_adapter_under_an_own_release_is_told_as_installed() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    stands_on(&rig, elsewhere(), [9; 32]);
    let own = Some(Series { fleet: FLEET.0, cohort: cohort().0 });
    let again = rig.pupil.view.lock().unwrap().installs[0].clone();
    let again = Install { series: own, sequence: 4, ..again };
    rig.pupil.view.lock().unwrap().installs.push(again);
    rig.join(&server);
    rig.until("a check-in", checked_in).await;
    rig.turn.pace.ask();
    rig.steps(5).await;
    let told = server.inner().told.clone().unwrap();
    assert_eq!(told.installed, Some(Installed { sequence: 4, artifact: Hash([9; 32]) }));
    assert_eq!(server.inner().reports.keys().collect::<Vec<_>>(), [&4]);
}

/// Where the device was in this fleet all the time, what names none is this one's; not where it joined
/// since.
#[tokio::test]
async fn installs_of_before_are_the_fleet_s_whose_book_is_as_old() {
    for is_old in [true, false] {
        let (server, mut rig) = (Server::start().await, Rig::new());
        stands_on(&rig, None, [9; 32]);
        rig.join(&server);
        if is_old {
            rig.turn.member.as_mut().unwrap().note(|book| book.takes_unnamed = true).unwrap();
        }
        rig.until("a check-in", checked_in).await;
        rig.turn.pace.ask();
        rig.steps(5).await;
        let told = server.inner().told.clone().unwrap();
        assert_eq!((told.installed.is_some(), told.ready.is_some()), (is_old, is_old));
        assert_eq!(server.inner().reports.len(), usize::from(is_old));
    }
}

#[tokio::test]
async fn who_leaves_has_nothing_installed_any_more() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    *rig.pupil.ends.lock().unwrap() = None;
    let (keys, artifact) = (Keys::new(0), global(1));
    server.offer(keys.release(1, &artifact, Role::Release), &artifact);
    rig.join(&server);
    rig.until("a file", |rig| !rig.pupil.given.lock().unwrap().is_empty()).await;
    rig.leave().await;
    assert!(rig.pupil.given.lock().unwrap().is_empty());
    assert!(rig.turn.member.is_none());
}
