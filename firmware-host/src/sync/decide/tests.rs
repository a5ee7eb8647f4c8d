//! What is decided, for times and chance of every kind.

use super::*;
use sapwood_protocol::limits::FLEET_CHECK_IN_S_MAX;

const NEVER: u64 = u64::MAX;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn refused(code: Code, retry_after_s: Option<u64>) -> ExchangeError {
    ExchangeError::Refused { code, message: "no".into(), retry_after_s, time_ms: None }
}

#[test]
fn the_first_check_in_is_spread_over_half_a_minute() {
    let now = seconds(5);
    assert_eq!(Pace::new(now, 0).due(), now);
    assert_eq!(Pace::new(now, NEVER).due(), now + seconds(30));
}

#[test]
fn the_server_s_pace_is_kept_and_a_tenth_is_chance() {
    let mut pace = Pace::new(Duration::ZERO, 0);
    pace.worked(seconds(100), 600, 0);
    assert_eq!(pace.due(), seconds(700));
    pace.worked(seconds(100), 600, NEVER);
    assert_eq!(pace.due(), seconds(760));
    pace.worked(seconds(100), FLEET_CHECK_IN_S_MAX, NEVER);
    assert!(pace.due() > seconds(FLEET_CHECK_IN_S_MAX));
}

#[test]
fn news_are_told_within_seconds_but_not_while_the_server_is_away() {
    let mut pace = Pace::new(Duration::ZERO, 0);
    pace.worked(seconds(0), 3600, 0);
    pace.news(seconds(10), 0);
    assert_eq!(pace.due(), seconds(60), "a minute after the last one");
    pace.worked(seconds(1_000), 3600, 0);
    pace.news(seconds(2_000), 0);
    assert_eq!(pace.due(), seconds(2_002));
    pace.news(seconds(2_001), NEVER);
    assert_eq!(pace.due(), seconds(2_002), "one more commit does not put it off");
    pace.failed(seconds(2_002), Follow::Again, 0);
    pace.news(seconds(2_003), 0);
    assert_eq!(pace.due(), seconds(2_032), "who failed waits as the schedule says");
    pace.ask();
    assert_eq!(pace.due(), Duration::ZERO, "an operator does not");
}

#[test]
fn failures_double_up_to_six_hours_and_end_with_an_answer() {
    let mut pace = Pace::new(Duration::ZERO, 0);
    let mut waits = Vec::new();
    for _ in 0..12 {
        pace.failed(Duration::ZERO, Follow::Again, NEVER);
        waits.push(pace.due().as_secs());
    }
    assert_eq!(waits[..4], [60, 120, 240, 480]);
    assert_eq!(waits[11], 6 * 3600);
    pace.worked(Duration::ZERO, 600, 0);
    pace.failed(Duration::ZERO, Follow::Again, NEVER);
    assert_eq!(pace.due(), seconds(60));
}

#[test]
fn what_the_server_asks_for_is_waited_out() {
    let mut retry = Retry::default();
    retry.failed(Duration::ZERO, Follow::After(1_000), 0);
    assert!(!retry.is_due(seconds(999)) && retry.is_due(seconds(1_000)));
    retry.failed(Duration::ZERO, Follow::Slowly, 0);
    assert!(!retry.is_due(seconds(3 * 3600 - 1)) && retry.is_due(seconds(3 * 3600)));
    // An early answer asks for no shorter wait than the schedule's.
    let mut retry = Retry::default();
    retry.failed(Duration::ZERO, Follow::After(1), 0);
    assert!(!retry.is_due(seconds(29)));
}

#[test]
fn every_code_has_its_kind() {
    for code in Code::ALL {
        let expected = match code {
            Code::TooMany | Code::Unavailable => Follow::After(77),
            Code::Pending | Code::Suspended => Follow::After(600),
            Code::Rejected | Code::Retired | Code::Protocol | Code::UnknownDevice => Follow::Slowly,
            _ => Follow::Again,
        };
        assert_eq!(Follow::of(&refused(code, Some(77)), 600), expected, "{code:?}");
    }
    let silent = ExchangeError::Slow { what: "a call", seconds: 9 };
    assert_eq!(Follow::of(&silent, 600), Follow::Again);
    let ends = Code::ALL.into_iter().filter_map(|code| state_of(Some(code))).count();
    assert_eq!((ends, state_of(None)), (4, None));
}
