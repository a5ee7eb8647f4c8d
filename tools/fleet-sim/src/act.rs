//! What a device does when it wakes up: enrol, check in, take what is offered, give what is asked for.
//!
//! - In: a device that is due. Out: the same with what it knows now, and when it is due again.
//! - It follows the protocol as the real device does: a clock is told and the call made again, a download goes
//!   on where it was cut, an update is the same bytes each time, whoever is refused waits.
//! - An upload is sent to its end before the next check-in; the real device checks in beside it.

use crate::device::{Device, Fetch};
use crate::line::{Ask, Lost, Sent, next, small};
use crate::tally::{Kind, Took, one};
use crate::world::World;
use fleet_server::ports::Clock;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Response, StatusCode};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{
    self, CheckedIn, DeviceState, Enrolled, Invite, Message, Offer, Outcome, Receipt, Refusal,
};
use sapwood_protocol::fleet::request::Call;
use sapwood_protocol::fleet::schedule::backoff;
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::statement::Standing;
use sapwood_protocol::fleet::trust::Trust;
use std::sync::atomic::Ordering;

/// Simulated time from power that is back to the first call, at most.
const START_MS: u64 = 30_000;
/// After news a device checks in, a minute after the last time at the soonest.
const SOON_MS: u64 = 60_000;
/// Pieces in which a download goes to the disk.
const PIECE_BYTES: u64 = 256 << 10;

/// Why a call came to nothing.
#[derive(Debug)]
enum Fail {
    Refused(Refusal),
    Lost(Lost),
    /// The power went.
    Cut,
}

impl Fail {
    fn name(&self) -> String {
        match self {
            // As it stands in the message.
            Self::Refused(refusal) => match serde_json::to_value(refusal.error) {
                Ok(serde_json::Value::String(name)) => name,
                _ => "refused".to_owned(),
            },
            Self::Lost(lost) => lost.name().to_owned(),
            Self::Cut => "power cut".to_owned(),
        }
    }
}

impl From<Lost> for Fail {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// A call that is to be made.
struct Plan<'a> {
    kind: Kind,
    method: Method,
    path: &'a str,
    body: Bytes,
    from: Option<u64>,
}

impl World {
    /// Wakes a device; when it is due again, simulated ms since 1970.
    pub async fn wake(&self, device: &mut Device) -> u64 {
        let sleeps_ms = self.weather.sleeps_ms(device.traits.zone, self.time.now_ms());
        if sleeps_ms > 0 {
            // Not all of a zone at the same moment.
            return self.time.now_ms() + sleeps_ms + device.luck.draw() % 600_000;
        }
        let due_ms = match self.turn(device).await {
            Ok(due_ms) => {
                device.failures = 0;
                due_ms
            }
            Err(fail) => self.after(device, &fail),
        };
        // News are told soon, and a trial ends when it ends.
        let ends_ms = device.trial_ends_ms().map(|ends| ends.max(self.time.now_ms() + SOON_MS));
        due_ms.min(ends_ms.unwrap_or(u64::MAX))
    }

    /// When a device tries again.
    fn after(&self, device: &mut Device, fail: &Fail) -> u64 {
        device.failures = device.failures.saturating_add(1);
        let (failures, random) = (device.failures, device.luck.draw());
        let wait_ms = match fail {
            Fail::Cut => {
                one(&self.tally.cuts);
                device.restarts();
                device.failures = 0;
                random % START_MS
            }
            Fail::Refused(refusal) => {
                let asked_ms = refusal.retry_after_s.unwrap_or(0) * 1000;
                if refusal.error == Code::Suspended {
                    self.note(device, DeviceState::Suspended);
                }
                asked_ms.max(backoff(failures, random).as_millis() as u64)
            }
            Fail::Lost(_) => backoff(failures, random).as_millis() as u64,
        };
        self.time.now_ms() + wait_ms
    }

    async fn turn(&self, device: &mut Device) -> Result<u64, Fail> {
        if device.state.is_none() {
            return self.enrol(device).await;
        }
        self.settle(device);
        let facts = self.shape.facts();
        let says = device.checks_in(facts);
        let checked: CheckedIn = self.post(device, Kind::CheckIn, "/v1/checkin", &says).await?;
        device.forgets(&checked.acked);
        self.note(device, checked.state);
        let told_ms = self.every_ms.unwrap_or(checked.check_in_s * 1000);
        let mut due_ms = self.time.now_ms() + told_ms;
        if let Some(offer) = &checked.release {
            self.take(device, offer);
        }
        device.invite = checked.invite;
        if device.fetch.is_some() {
            self.fetch(device).await?;
            due_ms = due_ms.min(self.time.now_ms() + SOON_MS.max(self.trial_ms));
        }
        if let Some(invite) = device.invite {
            self.upload(device, invite).await?;
        }
        Ok(due_ms)
    }

    /// Enrols. Its first check-in is anywhere within the pace of all, as if devices had come one by one.
    async fn enrol(&self, device: &mut Device) -> Result<u64, Fail> {
        let invitation = &self.invitations[usize::from(device.lab)];
        let asks = device.enrols(invitation.token.as_deref(), self.shape.facts());
        let enrolled: Enrolled = self.post(device, Kind::Enrol, "/v1/enroll", &asks).await?;
        let foreign = |problem: String| Fail::Lost(Lost::Foreign(problem));
        if self.trust.get().is_none() {
            let (signed, fleet) = (&enrolled.trust, self.lines.fleet);
            let signatures = Signatures::decode(&signed.signatures.0);
            let signatures = signatures.map_err(|error| foreign(error.to_string()))?;
            let trust = Trust::first(&signed.statement.0, &signatures, fleet, invitation.trust);
            // Another device may have been first with the same.
            let _ = self.trust.set(trust.map_err(|error| foreign(error.to_string()))?);
        }
        if let Some(label) = &enrolled.label {
            let cohort = self.shape.facts().cohort(label);
            let _ = self.cohort.set(cohort.map_err(|error| foreign(error.to_string()))?);
        }
        one(&self.tally.enrolled);
        device.state = Some(enrolled.state);
        Ok(self.time.now_ms() + device.luck.draw() % self.first_ms.max(1))
    }

    fn note(&self, device: &mut Device, state: DeviceState) {
        if state == DeviceState::Suspended && device.state != Some(state) {
            one(&self.tally.suspended);
        }
        device.state = Some(state);
    }

    /// Ends a trial whose time has come.
    fn settle(&self, device: &mut Device) {
        let ran = device.runs();
        let Some(outcome) = device.settles(self.time.now_ms()) else { return };
        let at = usize::from(outcome == Outcome::Reverted);
        one(&self.tally.installs[at]);
        if outcome == Outcome::Reverted && self.is_bad(ran) {
            self.tally.run_bad.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes a statement that holds and is new.
    fn take(&self, device: &mut Device, offer: &Offer) {
        let (Some(trust), Some(cohort)) = (self.trust.get(), self.cohort.get()) else { return };
        let (taken, now_ms) = (device.taken(), self.time.now_ms());
        let standing = Standing { trust, cohort: *cohort, candidates: device.lab, taken, now_ms };
        let Ok(signatures) = Signatures::decode(&offer.signatures.0) else { return };
        // One that was taken before is offered until its end is told.
        if let Ok(statement) = standing.take(&offer.statement.0, &signatures) {
            device.takes(statement, offer.url.clone());
            self.settle(device);
        }
    }

    /// Fetches what is missing of an artifact, and installs it.
    async fn fetch(&self, device: &mut Device) -> Result<(), Fail> {
        let Some(mut fetch) = device.fetch.take() else { return Ok(()) };
        let poured = self.pour(device, &mut fetch).await;
        let statement = fetch.statement;
        let got = Hash(*fetch.hasher.finalize().as_bytes());
        device.fetch = Some(fetch);
        poured?;
        if got != statement.artifact {
            device.spoiled(&statement);
            return Ok(());
        }
        if device.luck.hits(self.weather.declined) {
            one(&self.tally.installs[2]);
            device.declines(&statement);
            return Ok(());
        }
        let is_bad = self.is_bad(statement.artifact);
        let outcome =
            if is_bad && device.traits.worse { Outcome::Reverted } else { Outcome::Confirmed };
        if is_bad {
            one(&self.tally.ran_bad);
            one(&self.tally.run_bad);
        } else if self.is_bad(device.runs()) {
            self.tally.run_bad.fetch_sub(1, Ordering::Relaxed);
        }
        device.installs(&statement, outcome, self.time.now_ms() + self.trial_ms);
        Ok(())
    }

    /// Downloads from where the last try ended.
    async fn pour(&self, device: &mut Device, fetch: &mut Fetch) -> Result<(), Fail> {
        let total = fetch.statement.artifact_bytes;
        if fetch.have >= total {
            return Ok(());
        }
        let url = fetch.url.clone();
        let kind = Kind::Artifact;
        let plan = Plan {
            kind,
            method: Method::GET,
            path: &url,
            body: Bytes::new(),
            from: Some(fetch.have),
        };
        // The power goes after so many of the bytes.
        let cut = device.luck.hits(self.weather.cuts).then(|| device.luck.draw() % total);
        let mut took = Took::default();
        let done = self.received(device, &plan, fetch, cut, &mut took).await;
        self.tell(kind, &done, took);
        done
    }

    async fn received(
        &self,
        device: &mut Device,
        plan: &Plan<'_>,
        fetch: &mut Fetch,
        cut: Option<u64>,
        took: &mut Took,
    ) -> Result<(), Fail> {
        let answer = self.asked(device, plan, None, took).await?;
        if answer.status() == StatusCode::PARTIAL_CONTENT && fetch.have > 0 {
            one(&self.tally.resumed);
        } else if answer.status() == StatusCode::OK {
            (fetch.have, fetch.hasher) = (0, blake3::Hasher::new());
        }
        let total = fetch.statement.artifact_bytes;
        let (mut body, mut piece) = (answer.into_body(), Vec::new());
        loop {
            let bytes = next(&mut body).await;
            let is_end = !matches!(bytes, Ok(Some(_)));
            if let Ok(Some(bytes)) = &bytes {
                piece.extend_from_slice(bytes);
            }
            let came = fetch.have + piece.len() as u64;
            if cut.is_some_and(|cut| came > cut) {
                return Err(Fail::Cut);
            }
            if came > total {
                return Err(Lost::Foreign("more bytes than were signed".to_owned()).into());
            }
            if piece.len() as u64 >= PIECE_BYTES || is_end {
                fetch.hasher.update(&piece);
                fetch.have = came;
                piece.clear();
            }
            match bytes? {
                Some(_) => {}
                None if fetch.have == total => return Ok(()),
                None => return Err(Lost::Foreign("fewer bytes than were signed".to_owned()).into()),
            }
        }
    }

    /// Gives the update that it was asked for.
    async fn upload(&self, device: &mut Device, invite: Invite) -> Result<(), Fail> {
        let Some(cohort) = self.cohort.get() else { return Ok(()) };
        let foreign = |problem: String| Fail::Lost(Lost::Foreign(problem));
        // A hundredth of a second for the largest: other devices of this thread wait as long.
        let made = self.update(device, invite.round, *cohort, invite.artifact);
        let body = Bytes::from(made.map_err(|error| foreign(error.to_string()))?);
        let path = format!("/v1/rounds/{}/upload", invite.round);
        let plan = Plan { kind: Kind::Upload, method: Method::PUT, path: &path, body, from: None };
        match self.ask::<Receipt>(device, &plan).await {
            // What nobody wants any more is not sent again.
            Err(Fail::Refused(refusal)) if !refusal.error.waits() => {
                device.invite = None;
                Ok(())
            }
            Ok(_) => {
                device.invite = None;
                Ok(())
            }
            Err(fail) => Err(fail),
        }
    }

    async fn post<M: Message>(
        &self,
        device: &mut Device,
        kind: Kind,
        path: &str,
        says: &impl Message,
    ) -> Result<M, Fail> {
        let body = message::write(says).map_err(|error| Lost::Foreign(error.to_string()))?;
        let plan = Plan { kind, method: Method::POST, path, body: body.into(), from: None };
        self.ask(device, &plan).await
    }

    /// A call whose answer is a message; told the time, it is made again.
    async fn ask<M: Message>(&self, device: &mut Device, plan: &Plan<'_>) -> Result<M, Fail> {
        let mut took = Took::default();
        let mut done = self.once(device, plan, &mut took).await;
        if matches!(&done, Err(Fail::Refused(refusal)) if refusal.error == Code::Clock) {
            self.tell(plan.kind, &done, took);
            if device.hears_time() {
                one(&self.tally.corrected);
            }
            took = Took::default();
            done = self.once(device, plan, &mut took).await;
        }
        self.tell(plan.kind, &done, took);
        done
    }

    fn tell<T>(&self, kind: Kind, done: &Result<T, Fail>, took: Took) {
        match done {
            Ok(_) => self.tally.ended(kind, "ok", took),
            Err(fail) => self.tally.ended(kind, &fail.name(), took),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "how long a call takes is what is measured")]
    async fn once<M: Message>(
        &self,
        device: &mut Device,
        plan: &Plan<'_>,
        took: &mut Took,
    ) -> Result<M, Fail> {
        let begun = std::time::Instant::now();
        let is_cut = device.luck.hits(self.weather.cuts);
        // In the middle of a long body, or when the answer is on its way.
        let long = plan.kind == Kind::Upload && device.luck.hits(0.5);
        let ends_at =
            (is_cut && long).then(|| device.luck.draw() as usize % plan.body.len().max(1));
        let answer = self.asked(device, plan, ends_at, took).await;
        let answer = if is_cut { Err(Fail::Cut) } else { answer };
        let body = small(answer?).await?;
        took.whole = begun.elapsed().as_micros() as u64;
        message::read(&body).map_err(|error| Lost::Foreign(error.to_string()).into())
    }

    /// The beginning of an answer that says yes.
    async fn asked(
        &self,
        device: &Device,
        plan: &Plan<'_>,
        ends_at: Option<usize>,
        took: &mut Took,
    ) -> Result<Response<Incoming>, Fail> {
        let (method, body_bytes) = (plan.method.as_str(), plan.body.len() as u64);
        let call = Call { fleet: self.lines.fleet, method, path: plan.path, body_bytes };
        let time_ms = device.time_ms(self.time.now_ms());
        let claim = call.sign(&device.key, device.id, time_ms, Hash::of(&plan.body));
        let claim = &claim.map_err(|error| Lost::Foreign(error.to_string()))?;
        // A slow line is as slow in simulated time.
        let rate = (self.weather.uplink as f64 * self.time.speed()).max(1.0) as u64;
        let rate = (device.traits.slow && plan.kind == Kind::Upload).then_some(rate);
        let body = Sent::new(plan.body.clone()).slowly(rate).cut(ends_at);
        let ask =
            Ask { method: plan.method.clone(), path: plan.path, claim, from: plan.from, body };
        let answer = self.lines.call(device.address, ask, took).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = small(answer).await?;
        let foreign = |_| Fail::Lost(Lost::Foreign(format!("{status} without a reason")));
        Err(Fail::Refused(Refusal::read(&body).map_err(foreign)?))
    }
}
