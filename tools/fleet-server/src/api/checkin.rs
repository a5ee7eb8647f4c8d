//! `POST /v1/checkin`: how a device is now, and what it should do: decided from its own row and its
//! cohort's, in one transaction. Whoever loses to another call reads again.
//!
//! - Two reads as a rule, the device's row and its [`Situation`], and one update of one row. More only where
//!   there is news: an install that ended, an offer that could be made, a trial, an invitation.

use super::answer::{self, Answer};
use super::body::Coming;
use super::routes::Asked;
use super::shared::Shared;
use crate::cohorts::{self, Cohort, Policy};
use crate::devices::{self, Count, Device, Offered};
use crate::door::Refused;
use crate::ports::draw;
use crate::rollout;
use crate::rounds::{self, NONE, UploadState};
use crate::situation::Situation;
use crate::store::{Book, BookError, Statement, Value};
use hyper::StatusCode;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{Bytes, CohortId, Hash};
use sapwood_protocol::fleet::message::{
    self, CheckIn, CheckedIn, DeviceState, Installed, Invite, Offer,
};
use sapwood_protocol::limits::{
    FLEET_ADAPTER_BYTES_MAX, FLEET_BODY_BYTES_MAX, FLEET_CHECK_IN_S_MAX, FLEET_CHECK_IN_S_MIN,
};
use std::sync::Arc;

/// How often a check-in that lost to another call is decided again.
const TRIES: u32 = 4;

/// A check-in, and when it was signed.
struct Told {
    message: CheckIn,
    time_ms: u64,
}

pub(super) async fn check_in(
    shared: &Arc<Shared>,
    asked: &Asked,
    device: Device,
    body: &mut Coming,
) -> Result<Answer, Refused> {
    let bytes = body.small(FLEET_BODY_BYTES_MAX).await?;
    let claim = asked.covers(shared, &bytes)?;
    let told = Told { message: message::read(&bytes)?, time_ms: claim.time_ms };
    let checked = shared.blocking(move |shared| decided(shared, device, &told));
    answer::message(StatusCode::OK, &checked.await?)
}

/// Decides until nobody was faster.
fn decided(shared: &Shared, mut device: Device, told: &Told) -> Result<CheckedIn, Refused> {
    for _ in 0..TRIES {
        let now_ms = shared.now_ms();
        let (checked, transaction) = decide(shared, &device, told, now_ms)?;
        if transaction.is_empty() {
            return Ok(checked);
        }
        match shared.home.book.write(transaction) {
            Ok(_) => return Ok(checked),
            Err(error) if error.is_lost() => {}
            Err(error) => return Err(error.into()),
        }
        let gone = || Refused::new(Code::UnknownDevice, "the device is none of this fleet's");
        device = devices::find(&shared.home.book, device.id)?.ok_or_else(gone)?;
    }
    Err(Refused::new(Code::Unavailable, "too much changed at once; nothing was done"))
}

/// What a check-in answers, and what is written so that it holds.
fn decide(
    shared: &Shared,
    device: &Device,
    told: &Told,
    now_ms: u64,
) -> Result<(CheckedIn, Vec<Statement>), Refused> {
    let (book, message) = (&shared.home.book, &told.message);
    let cohort = device.label.as_ref().map(|label| message.facts.cohort(label)).transpose();
    let cohort = cohort.map_err(|error| Refused::new(Code::Malformed, error.to_string()))?;
    let mut situation = Situation::read(book, device.id, cohort)?;
    let trust = situation.trust_epoch;
    let count = devices::count(device, message.counter, told.time_ms);
    if count == Count::Back && device.state == DeviceState::Accepted {
        let answer = answered(shared, DeviceState::Suspended, &Policy::default(), trust, now_ms)?;
        return Ok((answer, suspended(device, told, now_ms)));
    }
    let counts = count == Count::New;
    let (cohort, made) = in_cohort(situation.cohort.take(), cohort, device, message);
    let policy = cohort.as_ref().map_or_else(Policy::default, |cohort| cohort.policy.clone());
    let mut answer = answered(shared, device.state, &policy, trust, now_ms)?;
    // A replay hears what holds, and changes nothing.
    let now = if counts { told_of(device, message, cohort.as_ref()) } else { device.clone() };
    let mut transaction = if counts { made } else { Vec::new() };
    let mut offer = now.offer;
    if let Some(cohort) = &cohort {
        let reported = reports(book, cohort.id, &now, message, now_ms)?;
        if device.state == DeviceState::Accepted {
            let own = |sequence| {
                let own = message.reports.iter().find(|report| report.sequence == sequence);
                own.map_or_else(
                    || rollout::ended(book, cohort.id, sequence, device.id),
                    |report| Ok(Some(report.outcome)),
                )
            };
            let releases = (&situation.releases[..], withdrawn(book, cohort.id, &now)?);
            if let Some((release, noted)) = rollout::offer(&now, releases, own, &policy, now_ms)? {
                offer = noted;
                answer.release = Some(Offer {
                    statement: Bytes(release.statement.clone()),
                    signatures: Bytes(release.signatures.clone()),
                    url: format!("/v1/artifacts/{}", release.artifact),
                });
            }
            let (invite, asked) = invite(shared, cohort, &situation, &now, message, now_ms)?;
            // An invitation holds once its row is there, which a replay does not write.
            answer.invite = invite.filter(|_| counts || asked.is_empty());
            transaction.extend(asked);
        }
        transaction.extend(reported);
    }
    // Also where the answer was lost and the same comes again.
    if counts || message.counter == device.counter {
        answer.acked = message.reports.iter().map(|report| report.sequence).collect();
    }
    if counts {
        // First the cohort, then who is in it.
        let at = usize::from(
            matches!(transaction.first(), Some(first) if first.sql.starts_with("insert into cohort")),
        );
        transaction.insert(at, noted(device, &now, offer, told, now_ms));
        Ok((answer, transaction))
    } else {
        Ok((answer, Vec::new()))
    }
}

/// What every check-in answers: the time, and when to come again, a tenth sooner or later by chance so
/// that devices that were switched on together do not stay together.
fn answered(
    shared: &Shared,
    state: DeviceState,
    policy: &Policy,
    trust_epoch: Option<u64>,
    now_ms: u64,
) -> Result<CheckedIn, Refused> {
    let chance = draw(&*shared.chance)
        .map_err(|error| Refused::new(Code::Unavailable, error.to_string()))?;
    let fifth = policy.check_in_s / 5;
    let more = (u128::from(u64::from_le_bytes(chance)) * u128::from(fifth + 1)) >> 64;
    let check_in_s = policy.check_in_s - fifth / 2 + more as u64;
    Ok(CheckedIn {
        time: now_ms,
        check_in_s: check_in_s.clamp(FLEET_CHECK_IN_S_MIN, FLEET_CHECK_IN_S_MAX),
        state,
        acked: Vec::new(),
        trust_epoch,
        release: None,
        invite: None,
    })
}

/// The device as it says it is now.
fn told_of(device: &Device, message: &CheckIn, cohort: Option<&Cohort>) -> Device {
    let none = Installed { sequence: 0, artifact: NONE };
    let moved = device.cohort != cohort.map(|cohort| cohort.id);
    Device {
        cohort: cohort.map(|cohort| cohort.id),
        facts: message.facts,
        agent: message.agent.clone(),
        counter: message.counter,
        installed: message.installed.unwrap_or(none),
        trial: message.trial,
        // One of before says nothing, and takes what it is offered or not.
        candidates: message.candidates.unwrap_or(true),
        generation: message.generation,
        // Sequences are a cohort's own.
        offer: if moved { Offered::default() } else { device.offer },
        ..device.clone()
    }
}

/// The cohort of a device as it is now, and what makes it: another one when it adapts something else since.
fn in_cohort(
    found: Option<Cohort>,
    id: Option<CohortId>,
    device: &Device,
    message: &CheckIn,
) -> (Option<Cohort>, Vec<Statement>) {
    let (None, Some(id), Some(label)) = (&found, id, &device.label) else {
        return (found, Vec::new());
    };
    let cohort = Cohort {
        id,
        base: message.facts.base,
        first_layer: message.facts.first_layer,
        targets: message.facts.targets,
        label: label.clone(),
        sequence: 0,
        shape: None,
        policy: Policy::default(),
    };
    (Some(cohort), vec![cohorts::make(id, &message.facts, label)])
}

/// Whether what a device has on trial was taken back.
fn withdrawn(book: &dyn Book, cohort: CohortId, device: &Device) -> Result<bool, BookError> {
    if !device.trial {
        return Ok(false);
    }
    let release = rollout::find(book, cohort, device.installed.sequence)?;
    Ok(release.is_some_and(|release| release.state == rollout::State::Aborted))
}

/// The ends of installs that are news.
fn reports(
    book: &dyn Book,
    cohort: CohortId,
    device: &Device,
    message: &CheckIn,
    now_ms: u64,
) -> Result<Vec<Statement>, BookError> {
    let mut statements = Vec::new();
    for (at, report) in message.reports.iter().enumerate() {
        // Only who was offered it says how it ended: nobody else stops a release.
        if device.offer.sequence != report.sequence {
            continue;
        }
        let again = message.reports[..at].iter().any(|other| other.sequence == report.sequence);
        if again || rollout::ended(book, cohort, report.sequence, device.id)?.is_some() {
            continue;
        }
        if let Some(release) = rollout::find(book, cohort, report.sequence)? {
            statements.extend(rollout::report(&release, device.id, report, now_ms));
        }
    }
    Ok(statements)
}

/// Whether a device is asked for its update now, and the rows that say so.
fn invite(
    shared: &Shared,
    cohort: &Cohort,
    situation: &Situation,
    device: &Device,
    message: &CheckIn,
    now_ms: u64,
) -> Result<(Option<Invite>, Vec<Statement>), BookError> {
    let book = &shared.home.book;
    let Some(round) = &situation.round else { return Ok((None, Vec::new())) };
    let share = rounds::share(round, shared.devices(cohort.id.0, now_ms)?, now_ms);
    let asked = &situation.asked;
    let artifact = match asked {
        // Whoever was asked once is asked until its update is there.
        Some(upload) if upload.state == UploadState::Invited => {
            rounds::invites(round, device, message.ready, u64::MAX, now_ms)
        }
        Some(_) => None,
        None => rounds::invites(round, device, message.ready, share, now_ms),
    };
    let Some(artifact) = artifact else { return Ok((None, Vec::new())) };
    let known = asked.as_ref().is_some_and(|upload| upload.artifact == artifact);
    if asked.is_some() && !known {
        // It has installed another since; the next round asks for that.
        return Ok((None, Vec::new()));
    }
    let full = round.invited >= rounds::invited_max(round, now_ms);
    if asked.is_none() && (full || rounds::given(book, device.id, artifact)?.is_some()) {
        return Ok((None, Vec::new()));
    }
    let rows = match known {
        true => Vec::new(),
        false => rounds::invitation(round, device.id, artifact, now_ms).to_vec(),
    };
    let invite = Invite {
        round: round.id,
        artifact,
        deadline_s: round.deadline_ms.saturating_sub(now_ms) / 1000,
        bytes_max: FLEET_ADAPTER_BYTES_MAX,
        rank_max: cohort.policy.rank_max,
    };
    Ok((Some(invite), rows))
}

/// Writes what a device said, if nothing newer of it is there.
fn noted(before: &Device, now: &Device, offer: Offered, told: &Told, now_ms: u64) -> Statement {
    let sql = "update device set cohort = $4, agent = $5, base = $6, first_layer = $7, targets = $8, rank = $9,
        seen = $10, counter = $11, told = $12, sequence = $13, artifact = $14, trial = $15, generation = $16,
        offered = $17, offers = $18, offered_first = $19, offered_last = $20, lab = $22
        where id = $1 and state = $2 and counter = $3 and told = $21
        and (exists(select 1 from cohort where id = $4) or $4 is null)";
    let values: [Value; 22] = [
        now.id.into(),
        devices::number(before.state).into(),
        before.counter.into(),
        now.cohort.into(),
        now.agent.as_str().into(),
        now.facts.base.into(),
        u64::from(now.facts.first_layer).into(),
        u64::from(now.facts.targets).into(),
        u64::from(now.facts.rank).into(),
        now_ms.into(),
        now.counter.into(),
        told.time_ms.max(before.told_ms).into(),
        now.installed.sequence.into(),
        Hash(now.installed.artifact.0).into(),
        now.trial.into(),
        now.generation.into(),
        offer.sequence.into(),
        offer.times.into(),
        offer.first_ms.into(),
        offer.last_ms.into(),
        before.told_ms.into(),
        devices::place(now).into(),
    ];
    Statement::one(sql, values)
}

/// Two have the key: nobody goes on with it before an operator's word.
fn suspended(device: &Device, told: &Told, now_ms: u64) -> Vec<Statement> {
    let sql = "update device set state = 2, seen = $2 where id = $1 and state = 1 and counter > $3";
    let counter = told.message.counter;
    let detail = format!("counter {counter} came after {}: two have the key", device.counter);
    vec![
        Statement::one(sql, [device.id.into(), now_ms.into(), counter.into()]),
        devices::audit(now_ms, &device.id.to_string(), "suspend", detail),
    ]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::door::Rate;
    use crate::home::{self, Home, Wish};
    use crate::ports::{SystemChance, SystemClock};
    use crate::store::Row;
    use sapwood_protocol::fleet::key::SecretKey;
    use sapwood_protocol::fleet::message::{Enroll, Facts};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const FACTS: Facts = Facts { base: Hash([7; 32]), first_layer: 0, targets: 1, rank: 2 };

    fn made(folder: &std::path::Path) -> Home {
        let wish = Wish { folder, name: "valves", tls: None, now_ms: 1 };
        home::init(&wish, &SystemChance).unwrap();
        Home::open(folder).unwrap()
    }

    /// A device that waits for an operator.
    fn waiting(book: &dyn Book) -> Device {
        let public_key = SecretKey::from_seed(&[1; 32]).public();
        let asks = Enroll { public_key, token: None, name: "valve".into(), facts: FACTS };
        devices::enrol(book, &asks, 1).unwrap()
    }

    fn told(counter: u64, time_ms: u64) -> Told {
        let message = CheckIn {
            counter,
            agent: "test/1".into(),
            facts: FACTS,
            installed: None,
            trial: false,
            candidates: None,
            generation: 1,
            ready: None,
            reports: Vec::new(),
        };
        Told { message, time_ms }
    }

    /// A book that counts what it is asked: queries, and statements that write.
    #[derive(Debug)]
    struct Counted {
        book: Arc<dyn Book>,
        asked: Arc<[AtomicUsize; 2]>,
    }

    impl Book for Counted {
        fn read(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, BookError> {
            self.asked[0].fetch_add(1, Ordering::SeqCst);
            self.book.read(sql, values)
        }

        fn write(&self, transaction: Vec<Statement>) -> Result<Vec<Vec<Row>>, BookError> {
            self.asked[1].fetch_add(transaction.len(), Ordering::SeqCst);
            self.book.write(transaction)
        }
    }

    /// Each is a way to a database and back, some thousand times a second in a large fleet.
    #[test]
    fn a_check_in_without_news_is_two_queries_and_one_statement_that_writes() {
        let place = tempfile::tempdir().unwrap();
        let mut home = made(&place.path().join("fleet"));
        let waits = waiting(&home.book);
        home.book.write(devices::accepted(&waits, "pumps", false).unwrap().into()).unwrap();
        let cohort = cohorts::all(&home.book).unwrap().remove(0);
        home.book.write(vec![rounds::open(&cohort, NONE, NONE, [3; 32], 1)]).unwrap();
        let asked = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        home.book = Arc::new(Counted { book: home.book, asked: asked.clone() });
        let (clock, chance) = (Arc::new(SystemClock::start()), Arc::new(SystemChance));
        let shared = Shared::new(home, clock, chance, Rate::default(), None, false);
        for counter in 1..=2 {
            asked.iter().for_each(|count| count.store(0, Ordering::SeqCst));
            let device = devices::find(&shared.home.book, waits.id).unwrap().unwrap();
            decided(&shared, device, &told(counter, counter)).unwrap();
        }
        // The first one counts the devices of its cohort too, for a minute.
        assert_eq!(asked.each_ref().map(|count| count.load(Ordering::SeqCst)), [2, 1]);
    }

    /// Two check-ins of one device that were decided on the same row: the second reads again.
    #[test]
    fn what_was_decided_on_a_row_that_has_changed_since_is_not_written() {
        let place = tempfile::tempdir().unwrap();
        let book = made(&place.path().join("fleet")).book;
        let before = waiting(&book);
        let write = |told: Told| {
            let now = told_of(&before, &told.message, None);
            book.write(vec![noted(&before, &now, Offered::default(), &told, 5)])
        };
        write(told(2, 20)).unwrap();
        assert!(write(told(1, 10)).unwrap_err().is_lost());
        let row = devices::find(&book, before.id).unwrap().unwrap();
        assert_eq!((row.counter, row.told_ms), (2, 20));
    }
}
