//! What to do now, and when again: the sync's every branch, without clock, network or disk.
//!
//! - In: the book, the learner's view, times and chance as numbers. Out: an act, or how long to rest.
//! - The server says how often; a device that failed waits as `schedule::backoff` says, each act by its own
//!   count, so that a download that fails delays no report.
//! - What was committed is told within seconds, at most once a minute; an operator's word goes at once.

use super::book::{Book, Sent};
use super::error::ExchangeError;
use super::learner::{View, ended};
use sapwood::state::Install;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{DeviceState, Installed, Invite, Report, one_line};
use sapwood_protocol::fleet::schedule::backoff;
use sapwood_protocol::fleet::statement::Statement;
use sapwood_protocol::limits::{
    FLEET_BACKOFF_S_MAX, FLEET_CHECK_IN_S_MIN, FLEET_REASON_BYTES_MAX, FLEET_REPORTS_MAX,
};
use std::time::Duration;

/// From a commit to the check-in that tells of it, at least and at most.
const SOON_MS: [u64; 2] = [2_000, 10_000];
/// Check-ins at the start of many devices, after a power cut of a whole house, spread over this.
const START_MS: u64 = 30_000;

/// A part of a span: `random` as a fraction of it.
fn part(span_ms: u64, random: u64) -> Duration {
    // The high half of a product: 64 random bits as a fraction of the span.
    Duration::from_millis(((u128::from(random) * u128::from(span_ms + 1)) >> 64) as u64)
}

/// How often an act failed in a row, and when it may be tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Retry {
    failures: u32,
    due: Duration,
}

impl Retry {
    pub(super) fn is_due(&self, now: Duration) -> bool {
        now >= self.due
    }

    /// It came to nothing: again after what the error asks for.
    pub(super) fn failed(&mut self, now: Duration, follow: Follow, random: u64) {
        self.failures = self.failures.saturating_add(1);
        let longest = FLEET_BACKOFF_S_MAX * 1000;
        let wait = match follow {
            Follow::Again => backoff(self.failures, random),
            Follow::After(seconds) => {
                let asked = Duration::from_secs(seconds) + part(seconds * 100, random);
                asked.max(backoff(self.failures, random))
            }
            Follow::Slowly => Duration::from_millis(longest / 2) + part(longest / 2, random),
        };
        self.due = now.saturating_add(wait);
    }

    /// It stands in nobody's way until then.
    pub(super) fn rest(&mut self, until: Duration) {
        self.due = until;
    }

    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }
}

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    /// Try again, later with each failure.
    Again,
    /// Not before so many seconds.
    After(u64),
    /// Somebody must do something first: every few hours.
    Slowly,
}

impl Follow {
    /// - `check_in_s`: the pace that the server gave last.
    pub(super) fn of(error: &ExchangeError, check_in_s: u64) -> Self {
        match error.code() {
            Some(Code::TooMany | Code::Unavailable) => {
                Self::After(error.retry_after_s().unwrap_or(0))
            }
            Some(Code::Pending | Code::Suspended) => Self::After(check_in_s),
            Some(Code::Rejected | Code::Retired | Code::Protocol | Code::UnknownDevice) => {
                Self::Slowly
            }
            _ => Self::Again,
        }
    }
}

/// What a refusal says of the device's own state.
pub(super) fn state_of(code: Option<Code>) -> Option<DeviceState> {
    match code? {
        Code::Pending => Some(DeviceState::Pending),
        Code::Suspended => Some(DeviceState::Suspended),
        Code::Rejected => Some(DeviceState::Rejected),
        Code::Retired => Some(DeviceState::Retired),
        _ => None,
    }
}

/// When the next check-in is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    retry: Retry,
    /// By the server's word.
    due: Duration,
    /// For what was committed since.
    soon: Option<Duration>,
    last: Option<Duration>,
    asked: bool,
    pub(super) check_in_s: u64,
}

impl Pace {
    /// From the start on.
    pub(super) fn new(now: Duration, random: u64) -> Self {
        Self {
            retry: Retry::default(),
            due: now.saturating_add(part(START_MS, random)),
            soon: None,
            last: None,
            asked: false,
            check_in_s: FLEET_CHECK_IN_S_MIN,
        }
    }

    /// There is something to tell.
    pub(super) fn news(&mut self, now: Duration, random: u64) {
        if self.soon.is_none() && self.retry == Retry::default() {
            let [least, most] = SOON_MS;
            let soon = now + Duration::from_millis(least) + part(most - least, random);
            let minute = Duration::from_secs(FLEET_CHECK_IN_S_MIN);
            let early = self.last.map_or(Duration::ZERO, |last| last.saturating_add(minute));
            self.soon = Some(soon.max(early));
        }
    }

    /// An operator asks for it now.
    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    pub(super) fn due(&self) -> Duration {
        if self.asked {
            return Duration::ZERO;
        }
        let due = if self.retry == Retry::default() { self.due } else { self.retry.due };
        self.soon.map_or(due, |soon| soon.min(due))
    }

    /// It was answered: again after so many seconds, and a little later, so that devices that were
    /// answered together do not come together.
    pub(super) fn worked(&mut self, now: Duration, check_in_s: u64, random: u64) {
        let wait = Duration::from_secs(check_in_s) + part(check_in_s * 100, random);
        let due = now.saturating_add(wait);
        *self = Self { due, last: Some(now), check_in_s, ..Self::new(now, random) };
    }

    /// It was not.
    pub(super) fn failed(&mut self, now: Duration, follow: Follow, random: u64) {
        self.retry.failed(now, follow, random);
        (self.soon, self.asked, self.last) = (None, false, Some(now));
    }
}

/// What an invite asks for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    /// Nothing that this device has, or has not given already; with the reason.
    Nothing(&'static str),
    /// The bytes that were sent once, or were about to be.
    Again(Sent),
    /// What was learned.
    New,
}

/// What an invite asks for: one contribution a device and artifact.
pub(super) fn upload(book: &Book, view: &View, invite: &Invite) -> Upload {
    let installed = view.installed().map_or(Hash([0; 32]), |installed| installed.artifact);
    if book.state != Some(DeviceState::Accepted) {
        return Upload::Nothing("the fleet has not accepted this device");
    }
    if invite.artifact != installed {
        return Upload::Nothing("the round wants updates against another artifact");
    }
    if view.trial {
        return Upload::Nothing("what is installed is on trial");
    }
    match &book.sent {
        Some(sent) if sent.artifact == invite.artifact => {
            let fits = sent.bytes <= invite.bytes_max && sent.rank <= invite.rank_max;
            match sent.round == Some(invite.round) || !fits {
                true => Upload::Nothing("this artifact has this device's contribution"),
                // The round that had it came to nothing: the same bytes are no second contribution.
                false => Upload::Again(sent.clone()),
            }
        }
        _ if book.given.contains(&invite.artifact) => {
            Upload::Nothing("this artifact had this device's contribution")
        }
        _ if view.ready.is_none() => Upload::Nothing("nothing was learned since the last install"),
        _ => {
            let refused = |refused: super::book::Refused| {
                (refused.artifact, refused.generation) == (invite.artifact, view.generation)
            };
            match book.refused.is_some_and(refused) {
                true => Upload::Nothing("the server refused what this commit has"),
                false => Upload::New,
            }
        }
    }
}

/// Whether the round takes nothing of this device any more, whatever it sends.
pub(super) fn is_over(code: Code) -> bool {
    matches!(code, Code::RoundClosed | Code::Stale | Code::NotInvited | Code::NotFound)
}

/// Whether the server would refuse the same bytes again.
pub(super) fn is_refused(code: Code) -> bool {
    matches!(code, Code::TooLarge | Code::Adapter | Code::Malformed)
}

/// Ends of installs that the server does not know, oldest first.
pub(super) fn reports(book: &Book, view: &View) -> Vec<Report> {
    let known = |sequence: u64| book.acked.contains(&sequence);
    let score = |score: Option<f64>| score.filter(|score| score.is_finite() && *score >= 0.0);
    let report = |install: &Install| {
        let Install { sequence, before, after, .. } = *install;
        let reason = one_line(&install.reason, FLEET_REASON_BYTES_MAX);
        let (before, after) = (score(before), score(after));
        Some(Report { sequence, outcome: ended(install)?, reason, before, after })
    };
    let mut all: Vec<Report> = view.installs.iter().filter_map(report).collect();
    all.extend(book.failures.iter().cloned());
    all.retain(|report| report.sequence > 0 && !known(report.sequence));
    all.sort_by_key(|report| report.sequence);
    all.dedup_by_key(|report| report.sequence);
    all.truncate(FLEET_REPORTS_MAX);
    all
}

/// Whether the learner has told how a sequence ended, or stands on a later one.
pub(super) fn is_ended(view: &View, sequence: u64) -> bool {
    let told = |install: &Install| install.sequence == sequence && ended(install).is_some();
    let beyond = view.global.is_some_and(|global| global.sequence > sequence);
    beyond || view.installs.iter().any(told)
}

/// The artifact whose trial ends because of a statement that was taken since: a server offers one during a
/// trial only where what is on trial was taken back.
pub(super) fn recalls(view: &View, next: &Statement) -> Option<Hash> {
    let Installed { sequence, artifact } = view.installed().filter(|_| view.trial)?;
    (next.sequence > sequence && next.artifact != artifact).then_some(artifact)
}

#[cfg(test)]
mod tests;
