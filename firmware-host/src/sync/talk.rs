//! What is said at a check-in: enrolment where there was none, the check-in, newer trust, a statement.
//!
//! - In: a member and the learner's view. Out: the answer, with what it changes already in the book.
//! - Invariant: the number of a check-in is on the disk before it goes out; a statement is in the book
//!   as taken before anything follows from it.

use super::book::Pending;
use super::decide::{reports, state_of};
use super::error::ExchangeError;
use super::exchange::{AGENT, Ask, Signer};
use super::learner::View;
use super::member::Member;
use super::trouble::Trouble;
use hyper::Method;
use hyper::body::Bytes;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::CohortId;
use sapwood_protocol::fleet::key::replacement;
use sapwood_protocol::fleet::message::{
    self, CheckIn, CheckedIn, DeviceState, Enroll, Enrolled, Message, Offer, Rekey, Rekeyed,
    Signed, TrustAnswer,
};
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::statement::{Standing, Statement, StatementError};
use sapwood_protocol::fleet::trust::{Trust, TrustError};

/// Answers with trust statements that are read in a row.
const TRUST_ANSWERS_MAX: usize = 64;

/// The body of a message.
fn body(message: &impl Message) -> Result<Bytes, ExchangeError> {
    message::write(message).map(Bytes::from).map_err(ExchangeError::Send)
}

impl Member {
    /// Notes what a refusal says of the device.
    pub(super) fn note_refusal(&mut self, error: &Trouble) -> Result<(), Trouble> {
        match error {
            Trouble::Exchange(error) => match state_of(error.code()) {
                Some(state) => Ok(self.note(|book| book.state = Some(state))?),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Has the server say who this device is to it. Nothing is on the disk before it has.
    pub(super) async fn prove(mut self, view: &View, candidates: bool) -> Result<(), Trouble> {
        match self.is_new() {
            true => self.enrol(view).await.map(drop),
            // Under another key it would enrol as another device: it asks as one that is known.
            false => self.check_in(view, candidates).await.map(drop),
        }
    }

    async fn post<M: Message>(
        &self,
        signer: Signer<'_>,
        path: &str,
        message: &impl Message,
    ) -> Result<M, ExchangeError> {
        let ask = Ask { method: Method::POST, body: body(message)?, ..Ask::get(path) };
        self.exchange.ask(signer, &ask).await
    }

    /// Whether the server has yet to say who this device is to it, or of which cohort.
    pub(super) fn is_new(&self) -> bool {
        let book = self.book();
        let labelled = book.state != Some(DeviceState::Accepted) || book.label.is_some();
        // Under another key it would be another device.
        let own = self.key.public().device() == book.device;
        own && (book.state.is_none() || !labelled)
    }

    /// Enrols, or asks again what came of it; the pace that the server gave.
    pub(super) async fn enrol(&mut self, view: &View) -> Result<u64, Trouble> {
        let (public_key, book) = (self.key.public(), self.book());
        let (token, name, facts) = (book.token.clone(), book.name.clone(), view.facts);
        let enroll = Enroll { public_key, token, name, facts };
        let enrolled: Enrolled = self.post(self.signer(), "/v1/enroll", &enroll).await?;
        let (expected, got) = (self.book().fleet, enrolled.fleet);
        if expected != got {
            return Err(Trouble::Fleet { expected, got });
        }
        let (expected, got) = (self.book().device, enrolled.device);
        if expected != got {
            return Err(Trouble::Device { expected, got });
        }
        self.exchange.time.hear(enrolled.time);
        let Enrolled { state, label, trust, check_in_s, .. } = enrolled;
        self.note(|book| {
            book.state = Some(state);
            book.token = None;
            // One that was told stays where the server says none.
            book.label = label.or(book.label.take());
        })?;
        // A later one is reached from the first, at the check-in.
        if self.trust().is_none() && self.follow(trust).is_err() {
            tracing::debug!("the newest trust statement is not the first");
        }
        Ok(check_in_s)
    }

    /// Checks in; what the answer says of the device is in the book.
    ///
    /// - `candidates`: whether it takes them.
    pub(super) async fn check_in(
        &mut self,
        view: &View,
        candidates: bool,
    ) -> Result<CheckedIn, Trouble> {
        let counter = self.number()?;
        let ready = view.ready.filter(|ready| ready.steps > 0 && ready.tokens > 0);
        let check_in = CheckIn {
            counter,
            agent: AGENT.into(),
            facts: view.facts,
            installed: view.installed(),
            trial: view.trial,
            candidates: Some(candidates),
            generation: view.generation,
            ready,
            reports: reports(self.book(), view),
        };
        let answer = self.heard_check_in(&check_in).await?;
        self.exchange.time.hear(answer.time);
        self.note(|book| {
            book.state = Some(answer.state);
            let known: Vec<u64> = check_in.reports.iter().map(|report| report.sequence).collect();
            let acked: Vec<u64> =
                answer.acked.iter().copied().filter(|acked| known.contains(acked)).collect();
            book.acknowledge(&acked);
        })?;
        Ok(answer)
    }

    /// The answer to a check-in, under the next key where the server knows that one already.
    async fn heard_check_in(&mut self, check_in: &CheckIn) -> Result<CheckedIn, Trouble> {
        let path = "/v1/checkin";
        let answer = self.post(self.signer(), path, check_in).await;
        match answer {
            Err(error) if error.code() == Some(Code::Signature) => {
                let Some(next) = self.store.next_key()? else { return Err(error.into()) };
                let signer = Signer { key: &next, device: self.book().device };
                let answer = self.post(signer, path, check_in).await?;
                self.promote(next)?;
                Ok(answer)
            }
            answer => Ok(answer?),
        }
    }

    /// Signs with another key from now on; the device's name stays.
    pub(super) async fn rotate(&mut self) -> Result<(), Trouble> {
        let next = self.store.next_key_or_new()?;
        let (fleet, device, new_public_key) =
            (self.book().fleet, self.book().device, next.public());
        let proof = next.sign(&replacement(fleet, device, &new_public_key));
        let rekey = Rekey { new_public_key, proof };
        let rekeyed: Rekeyed = self.post(self.signer(), "/v1/key", &rekey).await?;
        self.promote(next)?;
        Ok(self.note(|book| book.state = Some(rekeyed.state))?)
    }

    /// Follows the trust statements to the epoch that the server speaks of.
    pub(super) async fn follow_to(&mut self, expected: Option<u64>) -> Result<(), Trouble> {
        for _ in 0..TRUST_ANSWERS_MAX {
            let got = self.trust().map_or(0, |trust| trust.epoch);
            if got > 0 && expected.is_none_or(|expected| got >= expected) {
                return Ok(());
            }
            let path = format!("/v1/trust?after={got}");
            let answer: TrustAnswer = self.exchange.ask(self.signer(), &Ask::get(&path)).await?;
            if answer.trust.is_empty() {
                return Err(Trouble::Chain { expected: expected.unwrap_or(1), got });
            }
            answer.trust.into_iter().try_for_each(|signed| self.follow(signed))?;
        }
        Ok(())
    }

    /// Believes a trust statement: the first by its hash, a later one by the roots of the one before.
    fn follow(&mut self, signed: Signed) -> Result<(), Trouble> {
        let (bytes, book) = (&signed.statement.0, self.book());
        let signatures = Signatures::decode(&signed.signatures.0)?;
        let trust = match self.trust() {
            None => Trust::first(bytes, &signatures, book.fleet, book.first_trust)?,
            Some(trust) => match trust.next(bytes, &signatures) {
                Err(TrustError::Epoch { .. }) => return Ok(()),
                next => next?,
            },
        };
        tracing::info!(epoch = trust.epoch, "trusts the keys of the fleet");
        Ok(self.believe(trust, signed)?)
    }

    /// Takes the statement of an offer, if it is a new one for this device; whether it is.
    pub(super) fn take(
        &mut self,
        offer: Offer,
        cohort: CohortId,
        candidates: bool,
    ) -> Result<bool, Trouble> {
        let taken = self.book().taken();
        let offered = Statement::decode(&offer.statement.0)?;
        if offered.sequence == taken {
            // It is under way, or its end is not acknowledged yet.
            let is_pending = |pending: &Pending| pending.signed.statement == offer.statement;
            if self.book().pending.as_ref().is_some_and(is_pending) {
                self.offered_again(offer)?;
            }
            return Ok(false);
        }
        let Some(trust) = self.trust() else { return Ok(false) };
        let now_ms = self.exchange.time.now_ms();
        let signatures = Signatures::decode(&offer.signatures.0)?;
        let standing = Standing { trust, cohort, candidates, taken, now_ms };
        let statement = standing.take(&offer.statement.0, &signatures);
        let statement = statement.map_err(|error| untaken(error, taken))?;
        let signed = Signed { statement: offer.statement, signatures: offer.signatures };
        let pending = Pending { signed, url: offer.url, spoiled: 0, fetched: false };
        self.note(|book| book.take(cohort, statement.sequence, pending))?;
        Ok(true)
    }

    /// What is under way may lie elsewhere since, and other keys may have signed it again.
    fn offered_again(&mut self, offer: Offer) -> Result<(), Trouble> {
        let signed = Signed { statement: offer.statement, signatures: offer.signatures };
        let believed = self.believes(&signed);
        Ok(self.note(|book| {
            if let Some(pending) = &mut book.pending {
                pending.url = offer.url;
                if believed {
                    pending.signed = signed;
                }
            }
        })?)
    }
}

fn untaken(error: StatementError, taken: u64) -> Trouble {
    if let StatementError::Sequence { got, .. } = error {
        tracing::warn!(taken, got, "the server offers an older sequence");
    }
    Trouble::Statement(error)
}
