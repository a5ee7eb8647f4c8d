//! One turn of the sync: look at the learner, do at most one thing, say how it is.
//!
//! - An upload goes on from turn to turn: a slow line holds up neither check-ins nor orders.
//! - In: the fleet's folder, the learner, the time. Out: how long to rest; what is shown.
//! - Every act may fail and be tried again; none of them stops the device.
//! - Never here: threads, orders.

mod shown;

pub(super) use shown::shown;

use super::book::Book;
use super::decide::{Follow, Pace, Retry, is_ended, recalls, reports};
use super::errand::{Begun, Budget, Done, Sending};
use super::learner::{Offered, View};
use super::member::Member;
use super::store::Store;
use super::time::ServerTime;
use super::trouble::Trouble;
use super::world::World;
use crate::config::Fleet;
use sapwood::state::Series;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{CheckedIn, DeviceState, Invite};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at the learner.
const LOOK: Duration = Duration::from_secs(2);
/// How long an upload on its way is listened to at each look.
const HEAR: Duration = Duration::from_millis(20);
/// Between two times that the learner is given the same file.
const AGAIN: Duration = Duration::from_secs(600);
/// Between two times that the learner is told to end a trial.
const RECALL: Duration = Duration::from_secs(10);
/// Between two looks whether another day has begun.
const HOUR: Duration = Duration::from_secs(3600);

/// What was counted since the program began.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    check_ins: [u64; 2],
    uploads: u64,
    downloads: u64,
    bytes: [u64; 2],
}

/// The sync.
pub(super) struct Turn {
    pub(super) store: Store,
    world: World,
    config: Fleet,
    pub(super) time: Arc<ServerTime>,
    pub(super) member: Option<Member>,
    pub(super) pace: Pace,
    send: Retry,
    bring: Retry,
    /// The upload on its way.
    sending: Option<Sending>,
    /// Until when the invite holds.
    invite: Option<(Invite, Duration)>,
    /// The round of the last invite: another one is tried at once.
    round: Option<u64>,
    /// What the learner was given, and when.
    given: Option<(u64, Duration)>,
    /// What it was told to end the trial of, and when.
    recalled: Option<(Hash, Duration)>,
    /// What the server was told of: the commit, and how many reports waited.
    told: Option<(u64, usize)>,
    counted: Counted,
    /// Whether the folder was read, and no fleet stands in it.
    is_alone: bool,
    /// What is amiss with the way to the server, with what it offers, with an upload, with a
    /// download.
    amiss: [String; 4],
    last: Option<u64>,
    /// What the log was told that the device is to its fleet.
    said: Option<DeviceState>,
}

/// Which act something is amiss with.
#[derive(Clone, Copy)]
enum Act {
    Talk,
    Take,
    Send,
    Bring,
}

impl Turn {
    pub(super) fn new(store: Store, config: Fleet, world: World) -> Self {
        let time = Arc::new(ServerTime::new(world.clock.clone()));
        let pace = Pace::new(world.clock.elapsed(), (world.chance)());
        Self {
            store,
            world,
            config,
            time,
            member: None,
            pace,
            send: Retry::default(),
            bring: Retry::default(),
            sending: None,
            invite: None,
            round: None,
            given: None,
            recalled: None,
            told: None,
            counted: Counted::default(),
            is_alone: false,
            amiss: Default::default(),
            last: None,
            said: None,
        }
    }

    fn budget(&self) -> Budget {
        let bytes = |megabytes: u64| megabytes.saturating_mul(1_000_000);
        Budget { up: bytes(self.config.up_mb_a_day), down: bytes(self.config.down_mb_a_day) }
    }

    /// Reads the folder, where that has not been done.
    pub(super) fn open(&mut self) -> Result<(), Trouble> {
        if self.member.is_none() {
            let ca_file = self.config.ca_file.as_deref();
            self.member = Member::open(&self.store, ca_file, &self.time, &self.world.network)?;
            self.is_alone = self.member.is_none();
        }
        Ok(())
    }

    /// Does what is to be done now; how long nothing more is.
    pub(super) async fn step(&mut self) -> Duration {
        let now = self.world.clock.elapsed();
        if self.member.is_none() {
            let due = self.pace.due();
            if !self.is_alone
                && (now >= due || self.amiss[Act::Talk as usize].is_empty())
                && let Err(error) = self.open()
            {
                self.failed(Act::Talk, &error);
            }
            return LOOK;
        }
        let Some(view) = self.view() else { return LOOK };
        if let Err(error) = self.look(&view) {
            self.failed(Act::Talk, &error);
        }
        if now >= self.pace.due() {
            // What is amiss it has said.
            let _ = self.talk(&view).await;
        } else if self.wants_to_send(now) {
            self.upload(&view);
        } else if self.wants_to_bring(now) {
            self.fetch(&view).await;
        }
        let now = self.world.clock.elapsed();
        let busy = self.wants_to_send(now) || self.wants_to_bring(now);
        let wait = match busy {
            true => Duration::ZERO,
            false => self.pace.due().saturating_sub(now).min(LOOK),
        };
        if self.hear_upload().await { Duration::ZERO } else { wait }
    }

    fn wants_to_send(&self, now: Duration) -> bool {
        // Before a server has said what day it is, none can be counted.
        let invited = self.invite.as_ref().is_some_and(|(_, until)| now < *until);
        self.sending.is_none() && self.time.is_heard() && invited && self.send.is_due(now)
    }

    fn wants_to_bring(&self, now: Duration) -> bool {
        let book = self.member.as_ref().map(Member::book);
        let accepted = book.is_some_and(|book| book.state == Some(DeviceState::Accepted));
        let waits = |book: &Book| book.pending.as_ref().is_some_and(|one| !one.fetched);
        let may = self.time.is_heard() && accepted && book.is_some_and(waits);
        // Under way stays what other keys may still sign again; whose keys are gone is not fetched.
        let trusted = || self.member.as_ref().is_some_and(|member| member.trusted().is_some());
        may && self.bring.is_due(now) && trusted()
    }

    /// The learner as its fleet may see it.
    fn view(&self) -> Option<View> {
        let view = self.world.learner.view()?;
        Some(self.member.as_ref()?.sees(view))
    }

    /// What the learner's view changes before anybody is asked.
    fn look(&mut self, view: &View) -> Result<(), Trouble> {
        let (now, random) = (self.world.clock.elapsed(), (self.world.chance)());
        let Some(member) = &mut self.member else { return Ok(()) };
        if let Some(cohort) = member.cohort(&view.facts)
            && member.book().cohort != Some(cohort)
        {
            member.note(|book| book.belong(cohort))?;
            (self.invite, self.sending, self.given) = (None, None, None);
            self.world.learner.withdraw();
        }
        if let Some(statement) = member.pending()
            && is_ended(view, statement.sequence)
        {
            tracing::info!(sequence = statement.sequence, "the learner is done with it");
            member.end()?;
        }
        let recalled = member.trusted().and_then(|next| recalls(view, &next));
        if let Some(artifact) = recalled
            && self.recalled.is_none_or(|(was, at)| was != artifact || now >= at + RECALL)
        {
            tracing::info!(%artifact, "another is offered: the trial ends");
            self.recalled = Some((artifact, now));
            self.world.learner.recall(artifact);
        }
        let waiting = reports(member.book(), view).len();
        let is_news = |(generation, told)| view.generation != generation || waiting > told;
        // The first check-in tells of it in any case.
        if self.told.is_some_and(is_news) {
            self.pace.news(now, random);
        }
        self.hand_over(now)
    }

    /// Gives the learner what is whole, and again now and then until it has told the end.
    fn hand_over(&mut self, now: Duration) -> Result<(), Trouble> {
        let Some(member) = &mut self.member else { return Ok(()) };
        let fetched = member.book().pending.as_ref().is_some_and(|one| one.fetched);
        let Some(statement) = member.trusted().filter(|_| fetched) else { return Ok(()) };
        let sequence = statement.sequence;
        match self.given {
            Some((given, at)) if given == sequence && now < at.saturating_add(AGAIN) => {
                return Ok(());
            }
            // What lay on the disk while the program did not run is looked at again.
            None => {
                let got = member.store.look_through(statement.artifact, &mut |_| {})?;
                if got != statement.artifact {
                    member.store.drop_incoming(statement.artifact)?;
                    let anew = |book: &mut Book| {
                        book.pending.iter_mut().for_each(|one| one.fetched = false);
                    };
                    member.note(anew)?;
                    return Ok(());
                }
            }
            Some(_) => {}
        }
        let (artifact, path) = (statement.artifact, member.store.path(statement.artifact));
        let series = Series { fleet: statement.fleet.0, cohort: statement.cohort.0 };
        tracing::info!(sequence, "a global adapter is given to the learner");
        self.world.learner.install(Offered { series, sequence, artifact, path });
        self.given = Some((sequence, now));
        Ok(())
    }

    /// Checks in; what else is to be done comes with the next steps.
    pub(super) async fn now(&mut self) -> Result<(), Trouble> {
        // It stays asked for where it cannot be made yet.
        self.pace.ask();
        let view = self.view().ok_or(Trouble::Unready)?;
        self.look(&view)?;
        self.talk(&view).await
    }

    /// Asks the server of another link to the same fleet who this device is to it; once it has said so, the
    /// book that goes by that link is kept.
    pub(super) async fn prove(&mut self, mut book: Book) -> Result<(), Trouble> {
        let view = self.view().ok_or(Trouble::Unready)?;
        let Self { store, world, config, member: Some(member), .. } = self else { return Ok(()) };
        let number = member.number()?;
        book.counter = member.book().counter;
        // Whoever answers there says nothing of the time to the server of before.
        let time = Arc::new(ServerTime::new(world.clock.clone()));
        let ca_file = config.ca_file.as_deref();
        let other = Member::with(store, (book, number), ca_file, &time, &world.network)?;
        other.prove(&view, config.lab).await
    }

    /// Enrols if need be, and checks in.
    async fn talk(&mut self, view: &View) -> Result<(), Trouble> {
        let talked = self.talked(view).await;
        let (now, random) = (self.world.clock.elapsed(), (self.world.chance)());
        match talked {
            Ok(check_in_s) => {
                self.counted.check_ins[0] += 1;
                self.pace.worked(now, check_in_s, random);
                let left = self.member.as_ref().map(|member| reports(member.book(), view).len());
                self.told = Some((view.generation, left.unwrap_or(0)));
                self.last = Some(self.time.now_ms());
                self.tell_state();
                self.clear(Act::Talk);
                Ok(())
            }
            Err(error) => {
                self.counted.check_ins[1] += 1;
                self.failed(Act::Talk, &error);
                let noted = self.member.as_mut().map(|member| member.note_refusal(&error));
                if let Some(Err(error)) = noted {
                    self.set(Act::Talk, error.to_string());
                }
                self.tell_state();
                Err(error)
            }
        }
    }

    /// What the device is to its fleet, in the log when it is another than it was, and after a start.
    fn tell_state(&mut self) {
        let state = self.member.as_ref().and_then(|member| member.book().state);
        if state == self.said {
            return;
        }
        self.said = state;
        match state {
            None => {}
            Some(DeviceState::Accepted) => tracing::info!("the fleet takes this device"),
            Some(DeviceState::Pending) => {
                tracing::info!("this device waits until an operator of the fleet accepts it");
            }
            Some(DeviceState::Suspended) => {
                tracing::warn!("the fleet has suspended this device: it lends and takes nothing");
            }
            Some(DeviceState::Rejected) => tracing::warn!("the fleet has rejected this device"),
            Some(DeviceState::Retired) => tracing::warn!("the fleet has retired this device"),
        }
    }

    async fn talked(&mut self, view: &View) -> Result<u64, Trouble> {
        let Some(member) = &mut self.member else { return Ok(self.pace.check_in_s) };
        if member.is_new() {
            let check_in_s = member.enrol(view).await?;
            tracing::info!(device = %member.book().device, "enrolled at the fleet's server");
            if member.book().state != Some(DeviceState::Accepted) {
                return Ok(check_in_s);
            }
        }
        let answer = member.check_in(view, self.config.lab).await?;
        let check_in_s = answer.check_in_s;
        self.pace.check_in_s = check_in_s;
        // What is wrong with an offer makes no check-in fail.
        match self.answered(view, answer).await {
            Ok(()) => self.clear(Act::Take),
            Err(error) => self.set(Act::Take, error.to_string()),
        }
        Ok(check_in_s)
    }

    /// What the answer to a check-in asks for.
    async fn answered(&mut self, view: &View, answer: CheckedIn) -> Result<(), Trouble> {
        let CheckedIn { trust_epoch, release, invite, state, .. } = answer;
        let accepted = state == DeviceState::Accepted;
        let invited = |invite: Invite| {
            let until = self.world.clock.elapsed() + Duration::from_secs(invite.deadline_s);
            (invite, until)
        };
        self.invite = invite.filter(|_| accepted).map(invited);
        let round = self.invite.map(|(invite, _)| invite.round);
        if round.is_some() && round != self.round {
            (self.round, self.send) = (round, Retry::default());
        }
        let Some(member) = self.member.as_mut().filter(|_| accepted) else { return Ok(()) };
        member.follow_to(trust_epoch).await?;
        if let Some(cohort) = member.cohort(&view.facts) {
            member.note(|book| book.belong(cohort))?;
            if let Some(offer) = release
                && member.take(offer, cohort, self.config.lab)?
            {
                tracing::info!(sequence = member.book().taken(), "a global adapter is offered");
                // What came before it and has not begun is not to begin any more.
                self.world.learner.withdraw();
                self.bring.worked();
            }
        }
        Ok(())
    }

    fn upload(&mut self, view: &View) {
        let (budget, learner) = (self.budget(), self.world.learner.clone());
        let (Some(member), Some((invite, _))) = (&mut self.member, self.invite) else { return };
        let Some(cohort) = member.cohort(&view.facts) else {
            self.invite = None;
            return;
        };
        match member.begin_upload((&*learner, view), cohort, &invite, budget) {
            Ok(Begun::Sends(sending)) => self.sending = Some(sending),
            Ok(Begun::Not(done)) => self.uploaded(invite.round, Ok(done)),
            Err(error) => self.uploaded(invite.round, Err(error)),
        }
    }

    /// Hears of the upload on its way; whether it has ended.
    async fn hear_upload(&mut self) -> bool {
        let Some(sending) = &mut self.sending else { return false };
        let Some(answer) = sending.heard(HEAR).await else { return false };
        if let (Some(member), Some(sending)) = (&mut self.member, self.sending.take()) {
            let done = member.end_upload(&sending, answer);
            self.uploaded(sending.round, done);
        }
        true
    }

    #[cfg(test)]
    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// What came of an invite.
    fn uploaded(&mut self, round: u64, done: Result<Done, Trouble>) {
        match done {
            Ok(Done::Over(bytes)) => {
                tracing::info!(round, bytes, "lent what was learned");
                self.counted.uploads += 1;
                self.counted.bytes[0] += bytes;
                // A check-in in between may have brought the next one.
                self.invite.take_if(|(invite, _)| invite.round == round);
                self.send = Retry::default();
                self.clear(Act::Send);
            }
            Ok(Done::Nothing(why)) => {
                tracing::debug!(round, reason = why, "nothing is lent");
                self.invite.take_if(|(invite, _)| invite.round == round);
                self.clear(Act::Send);
            }
            Ok(Done::Tomorrow(why)) => {
                self.send.rest(self.world.clock.elapsed() + HOUR);
                self.set(Act::Send, why.to_owned());
            }
            Err(error) => self.failed(Act::Send, &error),
        }
    }

    async fn fetch(&mut self, view: &View) {
        let (budget, free) = (self.budget(), (self.world.free)(self.store.root()));
        let Some(member) = &mut self.member else { return };
        match member.fetch(view, budget, free).await {
            Ok(Done::Over(bytes)) => {
                self.counted.downloads += 1;
                self.counted.bytes[1] += bytes;
                self.bring.worked();
                self.clear(Act::Bring);
            }
            Ok(Done::Nothing(_)) => self.clear(Act::Bring),
            Ok(Done::Tomorrow(why)) => {
                self.bring.rest(self.world.clock.elapsed() + HOUR);
                self.set(Act::Bring, why.to_owned());
            }
            Err(error) => self.failed(Act::Bring, &error),
        }
    }

    fn failed(&mut self, act: Act, error: &Trouble) {
        let (now, random) = (self.world.clock.elapsed(), (self.world.chance)());
        let follow = match error {
            Trouble::Exchange(error) => Follow::of(error, self.pace.check_in_s),
            _ => Follow::Again,
        };
        match act {
            Act::Talk => self.pace.failed(now, follow, random),
            // The next check-in offers it again.
            Act::Take => {}
            Act::Send => self.send.failed(now, follow, random),
            Act::Bring => self.bring.failed(now, follow, random),
        }
        self.set(act, error.to_string());
    }

    fn clear(&mut self, act: Act) {
        if !std::mem::take(&mut self.amiss[act as usize]).is_empty() {
            tracing::info!("the fleet: it goes on");
        }
    }

    /// Told in the log when it changes.
    fn set(&mut self, act: Act, line: String) {
        let known = &mut self.amiss[act as usize];
        if *known != line {
            tracing::warn!(reason = line, "the fleet waits");
            *known = line;
        }
    }
}
