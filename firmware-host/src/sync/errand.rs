//! What goes and comes beside check-ins: the own part up, an artifact down, each within the day's bytes.
//!
//! - In: a member, the learner, an invite or a statement that was taken. Out: a receipt in the book, a
//!   file that is whole.
//! - Bytes are counted before they move: a power cut in between leaves them spent.
//! - An upload cannot be taken up where it was cut, so it is given the time that a slow line takes: on a task
//!   of its own, beside check-ins. A download makes room for others, and goes on after them.
//! - Invariant: what goes out for an artifact is on the disk first, and is what goes out ever after; a
//!   file has its last name only when its hash and its header hold.

use super::book::{Book, Pending, Refused, SPOILED_MAX, Sent};
use super::decide::{Upload, is_over, is_refused};
use super::error::ExchangeError;
use super::exchange::{Ask, Signer, within};
use super::fetch::Wanted;
use super::learner::{Learner, Part, View};
use super::member::Member;
use super::trouble::Trouble;
use super::verify::Check;
use hyper::Method;
use hyper::body::Bytes;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::message::{Invite, Outcome, Receipt, Report, one_line};
use sapwood_protocol::fleet::statement::Statement;
use sapwood_protocol::limits::FLEET_REASON_BYTES_MAX;
use std::time::Duration;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

/// Free bytes that a download leaves on the disk.
const ROOM_BYTES: u64 = 64 << 20;

/// Most bytes of a day, up and down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// What came of an errand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It is over, with so many bytes.
    Over(u64),
    /// There was nothing to do, for this reason.
    Nothing(&'static str),
    /// It waits for another day.
    Tomorrow(&'static str),
}

/// What an invite came to.
pub(super) enum Begun {
    /// An upload is on its way.
    Sends(Sending),
    /// There is none.
    Not(Done),
}

/// An upload on its way; it ends with this.
pub(super) struct Sending {
    /// The round that asked for it.
    pub(super) round: u64,
    sent: Sent,
    answer: JoinHandle<Result<Receipt, ExchangeError>>,
}

impl Sending {
    /// What came of it, if that is known within so long.
    pub(super) async fn heard(&mut self, wait: Duration) -> Option<Result<Receipt, ExchangeError>> {
        let lost = |problem: JoinError| ExchangeError::Broke { problem: problem.to_string() };
        let joined = timeout(wait, &mut self.answer).await.ok()?;
        Some(joined.map_err(lost).and_then(|answer| answer))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

impl Member {
    fn today(&self) -> super::book::Day {
        self.book().day.at(self.exchange.time.now_ms())
    }

    /// Lets the own part go out to the round that asked for it.
    pub(super) fn begin_upload(
        &mut self,
        (learner, view): (&dyn Learner, &View),
        cohort: CohortId,
        invite: &Invite,
        budget: Budget,
    ) -> Result<Begun, Trouble> {
        let nothing = |why| Ok(Begun::Not(Done::Nothing(why)));
        let (sent, bytes) = match super::decide::upload(self.book(), view, invite) {
            Upload::Nothing(why) => return nothing(why),
            Upload::Again(sent) => match self.store.outgoing(sent.hash)? {
                Some(bytes) => (sent, bytes),
                None => return nothing("the file of this contribution is gone"),
            },
            Upload::New => match learner.own_part(cohort).map_err(Trouble::Learner)? {
                Some(part) => match fits(&part, invite) {
                    Some(why) => return nothing(why),
                    None => sent_of(part, view.generation),
                },
                None => return nothing("the learner has nothing to lend yet"),
            },
        };
        let mut day = self.today();
        day.up = day.up.saturating_add(sent.bytes);
        if day.up > budget.up {
            let why = "an upload waits: the day's bytes are spent (up-mb-a-day)";
            return Ok(Begun::Not(Done::Tomorrow(why)));
        }
        if self.book().sent.as_ref() != Some(&sent) {
            self.store.put_outgoing(sent.hash, &bytes)?;
        }
        self.note(|book| {
            book.contribute(sent.clone());
            book.day = day;
        })?;
        let answer = tokio::spawn(self.put(invite, bytes));
        Ok(Begun::Sends(Sending { round: invite.round, sent, answer }))
    }

    /// The call that brings it, for as long as the round may take it.
    fn put(
        &self,
        invite: &Invite,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Result<Receipt, ExchangeError>> + use<> {
        let (exchange, key, device) = (self.exchange.clone(), self.key.clone(), self.book().device);
        let path = format!("/v1/rounds/{}/upload", invite.round);
        let open = Duration::from_secs(invite.deadline_s);
        async move {
            let ask = Ask { method: Method::PUT, body: Bytes::from(bytes), ..Ask::get(&path) };
            let signer = Signer { key: &key, device };
            within(open, "an upload to a round", exchange.ask(signer, &ask)).await
        }
    }

    /// Notes what came of an upload.
    pub(super) fn end_upload(
        &mut self,
        sending: &Sending,
        answer: Result<Receipt, ExchangeError>,
    ) -> Result<Done, Trouble> {
        let Sending { round, sent, .. } = sending;
        match answer {
            Ok(Receipt { receipt }) if receipt == sent.hash => {
                self.received(*round)?;
                let incoming = self.pending().map(|statement| statement.artifact);
                self.store.sweep(incoming, Some(sent.hash))?;
                Ok(Done::Over(sent.bytes))
            }
            Ok(Receipt { receipt }) => Err(Trouble::Receipt { expected: sent.hash, got: receipt }),
            Err(error) => {
                let code = error.code();
                if error.is_before_sending() {
                    self.note(|book| book.day.up = book.day.up.saturating_sub(sent.bytes))?;
                }
                match code {
                    Some(Code::AlreadyUploaded) => {
                        self.received(*round)?;
                        Ok(Done::Nothing("the fleet has another contribution of this device"))
                    }
                    Some(code) if is_over(code) => Ok(Done::Nothing("the round is over")),
                    Some(code) if is_refused(code) => {
                        self.refuse(sent)?;
                        Err(error.into())
                    }
                    _ => Err(error.into()),
                }
            }
        }
    }

    fn received(&mut self, round: u64) -> Result<(), Trouble> {
        Ok(self.note(|book| book.sent.iter_mut().for_each(|sent| sent.round = Some(round)))?)
    }

    /// The server keeps none of these bytes: the next commit may have others.
    fn refuse(&mut self, sent: &Sent) -> Result<(), Trouble> {
        let refused = Refused { artifact: sent.artifact, generation: sent.generation };
        let is_kept = sent.round.is_some();
        Ok(self.note(|book| {
            book.refused = Some(refused);
            book.sent = book.sent.take().filter(|_| is_kept);
        })?)
    }

    /// Fetches the artifact of the statement under way, or what is missing of it, and checks it.
    ///
    /// - `free`: bytes that the disk has left, where that can be told.
    pub(super) async fn fetch(
        &mut self,
        view: &View,
        budget: Budget,
        free: Option<u64>,
    ) -> Result<Done, Trouble> {
        let Some(statement) = self.trusted() else {
            return Ok(Done::Nothing("nothing is offered by keys that are believed"));
        };
        let Statement { artifact, artifact_bytes: total, .. } = statement;
        if self.exchange.time.now_ms() / 1000 >= statement.expires_s {
            self.give_up(&statement, "the statement expired before its artifact came")?;
            return Ok(Done::Nothing("a statement expired before its artifact came"));
        }
        let is_whole = self.store.is_whole(artifact)?;
        let have = if is_whole { total } else { self.store.have(artifact)? };
        let have = if have > total { 0 } else { have };
        if have < total {
            let missing = total - have;
            let needed = missing.saturating_add(ROOM_BYTES);
            if let Some(free) = free.filter(|free| *free < needed) {
                return Err(Trouble::Room { free, needed });
            }
            let mut day = self.today();
            day.down = day.down.saturating_add(missing);
            if day.down > budget.down {
                let why = "a download waits: the day's bytes are spent (down-mb-a-day)";
                return Ok(Done::Tomorrow(why));
            }
            self.note(|book| book.day = day)?;
            if !self.bring(artifact, have, total).await? {
                return Ok(Done::Nothing("a download goes on"));
            }
        }
        match self.check(view, &statement, have)? {
            true => Ok(Done::Over(total)),
            false => Ok(Done::Nothing("what was fetched is no adapter of this cohort")),
        }
    }

    /// Bytes from the network to the disk; what did not come is given back to the day. Whether all of them
    /// are there: a slow one makes room for others, and goes on after them.
    async fn bring(&mut self, artifact: Hash, have: u64, total: u64) -> Result<bool, Trouble> {
        let url = self.book().pending.as_ref().map(|pending| pending.url.clone());
        let (url, store, mut came) = (url.unwrap_or_default(), self.store.clone(), 0);
        let mut sink = |offset: u64, bytes: &[u8]| match offset {
            0 => {
                store.begin(artifact)?;
                store.add(artifact, 0, bytes)
            }
            offset => store.add(artifact, offset, bytes),
        };
        let wanted = Wanted { url: &url, have, total };
        let fetched = self.exchange.fetch(self.signer(), wanted, &mut sink, &mut came).await;
        let back = (total - have).saturating_sub(came);
        self.note(|book| book.day.down = book.day.down.saturating_sub(back))?;
        match fetched {
            Err(ExchangeError::Slow { .. }) if came > 0 => Ok(false),
            Err(ExchangeError::Status { status: 416, told, expected }) => {
                self.store.drop_incoming(artifact)?;
                Err(ExchangeError::Status { status: 416, told, expected }.into())
            }
            fetched => Ok(fetched.map(|()| true)?),
        }
    }

    /// Whether what came is what was signed, and an adapter of this cohort.
    fn check(&mut self, view: &View, statement: &Statement, had: u64) -> Result<bool, Trouble> {
        let Statement { artifact, artifact_bytes: total, cohort, .. } = *statement;
        let mut check = Check::new(view.facts, cohort, total);
        let got = self.store.look_through(artifact, &mut |piece| check.feed(piece))?;
        if got != artifact {
            self.store.drop_incoming(artifact)?;
            // The end of what was there may have been torn by a power cut.
            let more = u32::from(had == 0);
            let count = |one: &mut Pending| one.spoiled = SPOILED_MAX.min(one.spoiled + more);
            self.note(|book| book.pending.iter_mut().for_each(count))?;
            let many = self.book().pending.as_ref().is_some_and(|one| one.spoiled >= SPOILED_MAX);
            if many {
                self.give_up(statement, "what was fetched is not what was signed")?;
            }
            return Err(Trouble::Spoiled { expected: artifact, got });
        }
        if let Err(error) = check.end() {
            self.give_up(statement, &format!("no adapter of this cohort: {error}"))?;
            return Ok(false);
        }
        if !self.store.is_whole(artifact)? {
            self.store.finish(artifact)?;
        }
        self.note(|book| book.pending.iter_mut().for_each(|one| one.fetched = true))?;
        Ok(true)
    }

    /// Ends a statement that never comes to the learner; the server will be told.
    fn give_up(&mut self, statement: &Statement, why: &str) -> Result<(), Trouble> {
        tracing::warn!(sequence = statement.sequence, reason = why, "a global adapter is given up");
        let reason = one_line(why, FLEET_REASON_BYTES_MAX);
        let (sequence, outcome) = (statement.sequence, Outcome::Failed);
        self.note(|book| {
            book.fail(Report { sequence, outcome, reason, before: None, after: None })
        })?;
        Ok(self.store.drop_incoming(statement.artifact)?)
    }

    /// The learner has told how the statement under way ended: its file is of no more use.
    pub(super) fn end(&mut self) -> Result<(), Trouble> {
        let artifact = self.pending().map(|statement| statement.artifact);
        self.note(|book: &mut Book| book.pending = None)?;
        Ok(artifact.map_or(Ok(()), |artifact| self.store.drop_incoming(artifact))?)
    }
}

/// Why a part does not fit a round; none when it does.
fn fits(part: &Part, invite: &Invite) -> Option<&'static str> {
    if part.from != invite.artifact {
        return Some("the round wants updates against another artifact");
    }
    if part.rank > invite.rank_max {
        return Some("the own rank is higher than the round takes");
    }
    let is_long = part.bytes.len() as u64 > invite.bytes_max;
    is_long.then_some("the own part is longer than the round takes")
}

/// A part as it goes out.
fn sent_of(part: Part, generation: u64) -> (Sent, Vec<u8>) {
    let Part { from, rank, bytes } = part;
    let (hash, length) = (Hash::of(&bytes), bytes.len() as u64);
    (Sent { artifact: from, hash, bytes: length, rank, generation, round: None }, bytes)
}
