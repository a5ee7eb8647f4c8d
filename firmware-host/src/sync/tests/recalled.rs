//! What is on trial is taken back by a statement that comes meanwhile; and who takes candidates says so.

use super::files::{Keys, cohort, global};
use super::rig::Rig;
use super::server::{Bad, Server};
use crate::sync::View;
use sapwood::state::{Global, Install, InstallOutcome, Series};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::statement::Role;

/// A device on trial of release 1.
async fn on_trial(server: &Server) -> Rig {
    let mut rig = Rig::new();
    *rig.pupil.ends.lock().unwrap() = Some(InstallOutcome::Trialled);
    server.offer(Keys::new(0).release(1, &global(1), Role::Release), &global(1));
    rig.join(server);
    rig.until("a trial", |rig| rig.pupil.view.lock().unwrap().trial).await;
    rig
}

fn recalled(rig: &Rig) -> Vec<Hash> {
    rig.pupil.recalled.lock().unwrap().clone()
}

/// It served on to the end of its trial. Whether its successor can be had decides nothing.
#[tokio::test]
async fn a_statement_that_comes_during_a_trial_ends_it_before_anything_is_fetched() {
    let server = Server::start().await;
    let mut rig = on_trial(&server).await;
    rig.steps(20).await;
    assert!(recalled(&rig).is_empty(), "nothing came");
    server.inner().bad.extend((0..50).map(|_| ("/v1/artifacts/", Bad::Deaf)));
    server.offer(Keys::new(0).release(2, &global(2), Role::Release), &global(2));
    rig.turn.pace.ask();
    rig.until("a recall", |rig| !recalled(rig).is_empty()).await;
    assert_eq!(recalled(&rig), [Hash::of(&global(1))]);
    // As long as it goes on it is told now and then, after a power cut too.
    rig.steps(20).await;
    let many = recalled(&rig).len();
    assert!((2..8).contains(&many), "{many} in 40 s");
    rig.restart(1);
    rig.until("another", |rig| recalled(rig).len() > many).await;
    {
        let mut view = rig.pupil.view.lock().unwrap();
        (view.trial, view.global) = (false, None);
        view.installs[0].outcome = InstallOutcome::Reverted;
    }
    let many = recalled(&rig).len();
    server.inner().bad.clear();
    *rig.pupil.ends.lock().unwrap() = Some(InstallOutcome::Confirmed);
    rig.until("its end", |rig| rig.book().acked.contains(&2)).await;
    assert_eq!(recalled(&rig).len(), many, "no trial, no recall");
}

#[tokio::test]
async fn what_waits_to_be_installed_goes_with_what_comes_after_it() {
    let (server, mut rig) = (Server::start().await, Rig::new());
    *rig.pupil.ends.lock().unwrap() = None;
    server.offer(Keys::new(0).release(1, &global(1), Role::Release), &global(1));
    rig.join(&server);
    rig.until("a gift", |rig| rig.pupil.given.lock().unwrap().len() == 1).await;
    server.inner().bad.extend((0..50).map(|_| ("/v1/artifacts/", Bad::Deaf)));
    server.offer(Keys::new(0).release(2, &global(2), Role::Release), &global(2));
    rig.turn.pace.ask();
    rig.until("its end", |rig| rig.pupil.given.lock().unwrap().is_empty()).await;
    assert_eq!((rig.book().taken(), recalled(&rig)), (2, Vec::new()));
}

/// The same artifact under a later number is no reason to end its trial.
#[tokio::test]
async fn what_is_on_trial_and_offered_again_stays_on_trial() {
    let server = Server::start().await;
    let mut rig = on_trial(&server).await;
    server.offer(Keys::new(0).release(2, &global(1), Role::Release), &global(1));
    rig.turn.pace.ask();
    rig.until("it to be taken", |rig| rig.book().taken() == 2).await;
    rig.steps(20).await;
    assert!(recalled(&rig).is_empty());
}

/// What returns under a later number is told by that, not by the one under which it was confirmed once.
#[test]
fn what_was_confirmed_before_and_is_on_trial_again_has_its_later_number() {
    let own = Series { fleet: super::files::FLEET.0, cohort: cohort().0 };
    let install = |sequence, artifact, outcome| Install {
        sequence,
        series: Some(own),
        artifact: [artifact; 32],
        outcome,
        reason: String::new(),
        before: None,
        after: None,
    };
    let (confirmed, trialled) = (InstallOutcome::Confirmed, InstallOutcome::Trialled);
    let view = View {
        facts: super::files::FACTS,
        generation: 3,
        global: Some(Global { ranks: 2, artifact: [1; 32], sequence: 3, series: Some(own) }),
        trial: true,
        ready: None,
        installs: vec![install(1, 1, confirmed), install(2, 2, confirmed), install(3, 1, trialled)],
    };
    let seen = view.for_fleet(|series| series == Some(own));
    assert_eq!(seen.installed().map(|installed| installed.sequence), Some(3));
}

#[tokio::test]
async fn a_device_says_whether_it_takes_candidates() {
    for lab in [false, true] {
        let server = Server::start().await;
        let config = crate::config::Fleet { enabled: true, lab, ..Default::default() };
        let mut rig = Rig::with(config, super::server::NOW_MS, |_| Some(u64::MAX));
        rig.join(&server);
        rig.until("a check-in", |_| server.inner().told.is_some()).await;
        assert_eq!(server.inner().told.as_ref().unwrap().candidates, Some(lab));
    }
}
