//! Decisions of a rollout by themselves: rows, times and counts in, what follows out.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::devices;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::Installed;
use std::convert::Infallible;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

fn release(sequence: u64, role: Role, stage: u64) -> Release {
    Release {
        cohort: CohortId([1; 32]),
        sequence,
        role,
        artifact: Hash([sequence as u8; 32]),
        bytes: 10,
        statement: vec![],
        signatures: vec![],
        state: State::Active,
        stage,
        since_ms: DAY,
        expires_s: 100 * DAY / 1000,
        round: None,
        reason: None,
    }
}

fn device(n: u32) -> Device {
    let installed = Installed { sequence: 3, artifact: Hash([3; 32]) };
    Device { cohort: Some(CohortId([1; 32])), installed, ..devices::tests::device(n) }
}

fn offered(
    device: &Device,
    releases: &[Release],
    ended: Option<Outcome>,
    now_ms: u64,
) -> Option<(u64, Offered)> {
    let ended = |_| Ok::<_, Infallible>(ended);
    let Ok(offered) = offer(device, (releases, false), ended, &Policy::default(), now_ms);
    offered.map(|(release, offered)| (release.sequence, offered))
}

fn sequence(device: &Device, releases: &[Release]) -> Option<u64> {
    offered(device, releases, None, DAY).map(|(sequence, _)| sequence)
}

#[test]
fn a_candidate_goes_to_the_lab_and_a_release_to_its_stage() {
    let fleet = 20_000;
    let candidate = [release(9, Role::Candidate, 0)];
    assert!((0..fleet).all(|n| sequence(&device(n), &candidate).is_none()));
    // Whatever stage its row says.
    let candidate = [release(9, Role::Candidate, 5)];
    assert!((0..fleet).all(|n| sequence(&device(n), &candidate).is_none()));
    assert_eq!(sequence(&Device { lab: true, ..device(1) }, &candidate), Some(9));
    for (stage, percent) in STAGES.into_iter().enumerate() {
        let releases = [release(9, Role::Release, stage as u64)];
        let got = (0..fleet).filter(|n| sequence(&device(*n), &releases).is_some()).count() as f64;
        let expected = f64::from(fleet) * percent as f64 / 100.0;
        // Five standard deviations of a binomial count.
        let spread = 5.0 * (expected * (1.0 - percent as f64 / 100.0)).sqrt();
        assert!((got - expected).abs() <= spread, "{percent} %: {got}");
        assert_eq!(sequence(&Device { lab: true, ..device(1) }, &releases), Some(9));
    }
}

#[test]
fn only_news_are_offered_and_only_to_who_can_take_them() {
    let all = [release(9, Role::Release, 5), release(3, Role::Release, 5)];
    let able = device(1);
    assert_eq!(sequence(&able, &all), Some(9));
    let has = |sequence, artifact| Installed { sequence, artifact: Hash([artifact; 32]) };
    for installed in [has(9, 9), has(12, 5), has(4, 9)] {
        assert_eq!(sequence(&Device { installed, ..able.clone() }, &all), None);
    }
    assert_eq!(sequence(&Device { trial: true, ..able.clone() }, &all), None);
    let suspended = Device { state: DeviceState::Suspended, ..able.clone() };
    assert_eq!(sequence(&suspended, &all), None);
    let expired = Release { expires_s: DAY / 1000, ..release(9, Role::Release, 5) };
    assert_eq!(sequence(&able, &[expired]), None);
    for outcome in [Outcome::Reverted, Outcome::Declined, Outcome::Failed] {
        assert_eq!(offered(&able, &all, Some(outcome), DAY), None);
    }
    assert!(offered(&able, &all, Some(Outcome::Confirmed), DAY).is_some(), "its disk is gone");
    let fresh = Device { installed: has(0, 0), ..able };
    let staged = [release(9, Role::Candidate, 0), release(3, Role::Release, 5)];
    assert_eq!(
        sequence(&fresh, &staged),
        Some(3),
        "the one that stands, where the next is not for it"
    );
}

/// It was offered the candidate for ever, and the release below it never.
#[test]
fn a_device_of_the_lab_that_takes_no_candidates_is_offered_what_it_takes() {
    let all = [release(9, Role::Candidate, 0), release(5, Role::Release, 5)];
    let lab = Device { lab: true, ..device(1) };
    assert_eq!(sequence(&lab, &all), Some(9));
    let unwilling = Device { candidates: false, ..lab.clone() };
    assert_eq!(sequence(&unwilling, &all), Some(5));
    let early = [release(9, Role::Candidate, 0), release(5, Role::Release, 0)];
    assert_eq!(sequence(&unwilling, &early), Some(5), "it is of the lab all the same");
    let expired = [Release { expires_s: DAY / 1000, ..all[0].clone() }, all[1].clone()];
    assert_eq!(sequence(&lab, &expired), Some(5), "what has expired stands in nobody's way");
    let offer = Offered { sequence: 9, times: 1, first_ms: 1, last_ms: 1 };
    assert_eq!(sequence(&Device { offer, ..lab }, &expired), None, "it took that one");
    assert_eq!(sequence(&Device { offer, ..unwilling }, &all), Some(5), "it did not");
}

/// It served to the end of its trial, and was counted as confirmed.
#[test]
fn what_was_taken_back_is_followed_by_the_next_during_its_trial() {
    let all = [release(9, Role::Release, 5)];
    let trial = Device { trial: true, ..device(1) };
    let offered = |withdrawn| {
        let ended = |_| Ok::<_, Infallible>(None);
        let Ok(offered) = offer(&trial, (&all, withdrawn), ended, &Policy::default(), DAY);
        offered.map(|(release, _)| release.sequence)
    };
    assert_eq!([false, true].map(offered), [None, Some(9)]);
}

#[test]
fn an_offer_without_an_answer_ends_after_five_that_counted() {
    let all = [release(9, Role::Release, 5)];
    let (mut device, mut now_ms, mut times) = (device(1), DAY, Vec::new());
    while let Some((_, next)) = offered(&device, &all, None, now_ms) {
        (device.offer, now_ms) = (next, now_ms + HOUR);
        times.push(next.times);
    }
    assert_eq!(times.len(), 5 * 24, "a check-in an hour, one a day counts");
    assert_eq!((times[0], times[23], times[24], times[119]), (1, 1, 2, 5));
    let next = [release(10, Role::Release, 5)];
    assert_eq!(offered(&device, &next, None, now_ms).unwrap().1.times, 1, "another begins anew");
}

fn counts(confirmed: u64, reverted: u64, other: u64, silent: u64, members: u64) -> Tally {
    Tally { confirmed, reverted, declined: other, failed: 0, silent, members }
}

#[test]
fn a_stage_goes_on_after_its_time_with_enough_good_outcomes() {
    let policy = Policy::default();
    let at = |stage, tally: Tally, now_ms| {
        step(&release(9, Role::Release, stage), &tally, &policy, now_ms)
    };
    assert_eq!(at(1, counts(20, 0, 0, 0, 500), 2 * DAY), Step::Advance);
    assert!(matches!(at(1, counts(20, 0, 0, 0, 500), 2 * DAY - 1), Step::Stay(_)));
    assert!(matches!(at(1, counts(19, 0, 0, 0, 500), 9 * DAY), Step::Stay(_)));
    assert_eq!(at(1, counts(3, 0, 0, 0, 3), 2 * DAY), Step::Advance, "all that there are");
    assert_eq!(
        at(1, counts(0, 0, 0, 0, 0), 2 * DAY),
        Step::Advance,
        "nobody is in so small a stage"
    );
    assert_eq!(at(5, counts(900, 10, 80, 300, 2000), 2 * DAY), Step::Complete);
}

#[test]
fn a_stage_pauses_as_soon_as_too_many_are_worse_off_or_silent() {
    let policy = Policy::default();
    let pauses = |tally: Tally| match step(&release(9, Role::Release, 1), &tally, &policy, DAY) {
        Step::Pause(why) => Some(why),
        _ => None,
    };
    assert_eq!(pauses(counts(98, 2, 0, 0, 500)), None);
    assert!(pauses(counts(97, 3, 0, 0, 500)).unwrap().contains("3 of 100 devices reverted"));
    assert!(
        pauses(counts(0, 1, 0, 0, 500)).is_some(),
        "one of the twenty that are needed is too many"
    );
    assert_eq!(pauses(counts(90, 0, 10, 0, 500)), None);
    assert!(pauses(counts(89, 0, 11, 0, 500)).unwrap().contains("89 of 100 devices confirmed"));
    assert!(pauses(counts(0, 0, 3, 0, 500)).is_some());
    assert_eq!(pauses(counts(0, 0, 2, 0, 500)), None);
    assert_eq!(pauses(counts(70, 0, 0, 30, 500)), None);
    assert!(pauses(counts(69, 0, 0, 31, 500)).unwrap().contains("31 of 100 devices are silent"));
}

#[test]
fn every_outcome_has_its_number() {
    let all = [Outcome::Confirmed, Outcome::Reverted, Outcome::Declined, Outcome::Failed];
    assert_eq!(all.map(number), [1, 2, 3, 4]);
}
