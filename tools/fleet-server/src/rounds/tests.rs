//! Decisions of a round by themselves: rows, times and counts in, what follows out.
use super::*;
use crate::devices;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::message::Installed;

const HOUR: u64 = 3_600_000;

fn round() -> Round {
    Round {
        id: 7,
        cohort: CohortId([1; 32]),
        artifact: Hash([5; 32]),
        previous: Hash([4; 32]),
        state: State::Open,
        quota: 100,
        invited: 0,
        stored: 0,
        opened_ms: HOUR,
        deadline_ms: 25 * HOUR,
        seed: [0; 32],
        result: None,
        report: None,
    }
}

fn device(n: u32) -> Device {
    let installed = Installed { sequence: 3, artifact: Hash([5; 32]) };
    Device { cohort: Some(CohortId([1; 32])), installed, ..devices::tests::device(n) }
}

const READY: Option<Ready> = Some(Ready { steps: 1, tokens: 1 });

/// Goal: about 1.3 quotas of a fleet, never more devices than there are buckets for them.
#[test]
fn a_round_invites_a_share_of_the_fleet_and_more_every_hour() {
    let round = round();
    let asked = |now_ms, fleet: u32| {
        let share = share(&round, fleet.into(), now_ms);
        let asks = |n: &u32| invites(&round, &device(*n), READY, share, now_ms).is_some();
        (0..fleet).filter(asks).count()
    };
    let first = asked(HOUR, 20_000);
    // Binomial: 130 expected, five standard deviations are 57.
    assert!((73..187).contains(&first), "{first}");
    assert!(asked(2 * HOUR, 20_000) > first + 50);
    assert_eq!(asked(HOUR, 100), 100, "a small fleet is asked whole");
    assert_eq!(asked(20 * HOUR, 1000), 1000);
    assert_eq!((invited_max(&round, HOUR), invited_max(&round, 3 * HOUR)), (130, 520));
    assert_eq!(share(&round, 0, u64::MAX), u64::from(BUCKETS));
}

#[test]
fn only_who_can_give_something_new_is_asked() {
    let (round, full, now_ms) = (round(), u64::from(BUCKETS), HOUR);
    let asks = |device: &Device, round: &Round, ready| invites(round, device, ready, full, now_ms);
    let able = device(1);
    assert_eq!(asks(&able, &round, READY), Some(round.artifact));
    let mut behind = able.clone();
    behind.installed.artifact = round.previous;
    assert_eq!(asks(&behind, &round, READY), Some(round.previous), "one release behind");
    behind.installed.artifact = Hash([9; 32]);
    assert_eq!(asks(&behind, &round, READY), None);
    assert_eq!(asks(&able, &round, None), None);
    assert_eq!(asks(&Device { trial: true, ..able.clone() }, &round, READY), None);
    let suspended = Device { state: DeviceState::Suspended, ..able.clone() };
    assert_eq!(asks(&suspended, &round, READY), None);
    let full = Round { stored: 100, ..round.clone() };
    let closed = Round { state: State::Closed, ..round.clone() };
    let late = Round { deadline_ms: now_ms, ..round.clone() };
    assert!([full, closed, late].iter().all(|round| asks(&able, round, READY).is_none()));
    assert_eq!(invites(&round, &able, READY, 0, now_ms), None);
}

#[test]
fn one_update_an_artifact_is_taken_once_and_the_same_again_is_thanked_for() {
    let hash = Hash([8; 32]);
    let asked = Upload {
        round: 7,
        device: DeviceId([1; 16]),
        artifact: Hash([5; 32]),
        state: UploadState::Invited,
        file: None,
        why: None,
    };
    let file = Sent { hash, bytes: 1, tokens: 1, rank: 1, norm: 1.0, shape: vec![] };
    let kept = Upload { state: UploadState::Stored, file: Some(file), ..asked.clone() };
    let code = |asked: Option<&Upload>, given: Option<&Upload>, hash, round: &Round| {
        receive(round, asked, given, hash, HOUR).map_err(|refused| refused.code())
    };
    let (open, other) = (round(), Hash([9; 32]));
    assert_eq!(code(None, None, hash, &open), Err(Code::NotInvited));
    assert_eq!(code(Some(&asked), None, hash, &open), Ok(Receive::Take(asked.artifact)));
    assert_eq!(code(Some(&kept), Some(&kept), hash, &open), Ok(Receive::There));
    let closed = Round { state: State::Merged, ..open.clone() };
    assert_eq!(code(Some(&kept), None, hash, &closed), Ok(Receive::There), "also later");
    assert_eq!(code(Some(&kept), None, other, &open), Err(Code::AlreadyUploaded));
    assert_eq!(code(Some(&asked), Some(&kept), other, &open), Err(Code::AlreadyUploaded));
    assert_eq!(code(Some(&asked), Some(&kept), hash, &open), Ok(Receive::There));
    assert_eq!(code(Some(&asked), None, hash, &closed), Err(Code::RoundClosed));
    let dropped = Upload { state: UploadState::Dropped, ..kept };
    assert_eq!(code(Some(&dropped), None, hash, &open), Err(Code::RoundClosed));
}

#[test]
fn a_round_closes_at_its_quota_or_with_who_came_and_fails_with_too_few() {
    let (open, policy) = (round(), Policy::default());
    assert_eq!(step(&open, &policy, 25 * HOUR - 1), Step::Wait);
    assert_eq!(step(&open, &policy, 25 * HOUR), Step::Close);
    assert_eq!(step(&Round { stored: 100, ..open }, &policy, HOUR), Step::Close);
    let closed = |stored| Round { state: State::Closed, stored, ..round() };
    assert_eq!(step(&closed(10), &policy, HOUR), Step::Merge);
    assert!(matches!(step(&closed(9), &policy, HOUR), Step::Fail(_)));
    for state in [State::Merged, State::Judged, State::Candidate, State::Failed] {
        assert_eq!(step(&Round { state, ..round() }, &policy, u64::MAX), Step::Wait);
    }
}
