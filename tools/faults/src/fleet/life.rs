//! A device's life in a fleet: the sync of the device program, a server in memory, a learner, a clock.
//!
//! - In: a disk, what server and learner know, a plan. Out: what was wrong.
//! - An order may fail, and a server may be deaf: a life goes on. How it must end says [`Device::settle`].

use super::plan::Act;
use super::pupil::{Learned, Pupil};
use firmware_host::clock::Clock;
use firmware_host::config::Fleet as Config;
use firmware_host::sync::memory::files::{Keys, global};
use firmware_host::sync::memory::{Desk, NOW_MS, Office, Wound};
use firmware_host::sync::{Book, Life, Network, Order, Store, World};
use sapwood::ports::Storage;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::link::Link;
use sapwood_protocol::fleet::message::{Invite, Outcome};
use sapwood_protocol::fleet::statement::Role;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Where the fleet's folder would be.
pub const ROOT: &str = "/srv/fleet";
/// The sequence and the round with which every life ends.
const LAST: u64 = 1000;
/// Steps of the sync behind one check-in.
const STEPS_MAX: usize = 10;
/// Between two check-ins that follow each other.
const SOON: Duration = Duration::from_secs(90);
/// Longer than any wait of a device that failed.
const LONG: Duration = Duration::from_secs(7 * 3600);

/// What everybody but the disk knows.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Steps that the disk had made.
    pub steps: usize,
    /// The act that was under way.
    pub act: usize,
    /// How long the clock had run.
    pub elapsed: Duration,
    /// Keys that were drawn.
    pub drawn: u64,
    /// What the server knew.
    pub desk: Desk,
    /// What the learner knew.
    pub learned: Learned,
    /// The device's book.
    pub book: Option<Vec<u8>>,
}

impl Default for Moment {
    fn default() -> Self {
        Self {
            steps: 0,
            act: 0,
            elapsed: Duration::ZERO,
            drawn: 0,
            desk: Desk::default(),
            learned: Learned::default(),
            book: None,
        }
    }
}

/// Hears before the server or the learner may change; none while nobody records.
pub type Tape = Arc<dyn Fn(Moment) + Send + Sync>;

/// What outlives the program.
#[derive(Clone)]
pub struct Around {
    /// The server.
    pub office: Office,
    /// Time.
    pub clock: Arc<Wound>,
    act: Arc<AtomicU64>,
    drawn: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    tape: Option<Tape>,
}

impl Around {
    fn moment(&self, learned: Learned) -> Moment {
        let act = self.act.load(Ordering::Relaxed) as usize;
        let (elapsed, drawn) = (self.clock.elapsed(), self.drawn.load(Ordering::Relaxed));
        let desk = self.office.desk().clone();
        Moment { steps: 0, act, elapsed, drawn, desk, learned, book: None }
    }

    fn record(&self, learned: Learned) {
        if let Some(tape) = &self.tape {
            tape(self.moment(learned));
        }
    }
}

/// The device.
pub struct Device {
    disk: Arc<dyn Storage>,
    around: Around,
    pupil: Arc<Pupil>,
    sync: Life,
    runtime: Runtime,
}

/// The seed of the how-many-th key.
pub fn seed(number: u64) -> [u8; 32] {
    let mut seed = [0x5e; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}

impl Device {
    /// Starts the program on a disk, when the others know this.
    ///
    /// # Errors
    /// The system gives no runtime.
    pub fn start(
        disk: Arc<dyn Storage>,
        moment: Moment,
        tape: Option<Tape>,
    ) -> Result<Self, String> {
        let clock = Wound::at(NOW_MS);
        clock.wind(moment.elapsed);
        let around = Around {
            office: Office::with(moment.desk),
            clock,
            act: Arc::default(),
            drawn: Arc::new(AtomicU64::new(moment.drawn)),
            wrong: Arc::default(),
            tape,
        };
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (pupil, sync) = program(&disk, &around, moment.learned);
        Ok(Self { disk, around, pupil, sync, runtime })
    }

    /// The program starts again on another disk, and the world goes on as from now.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn again(&self, disk: Arc<dyn Storage>) -> Result<Self, String> {
        Self::start(disk, self.around.moment(self.pupil.learned()), None)
    }

    /// The program ends, and starts again.
    fn restart(&mut self) {
        let learned = self.pupil.learned();
        (self.pupil, self.sync) = program(&self.disk, &self.around, learned);
    }

    /// The server.
    pub fn office(&self) -> &Office {
        &self.around.office
    }

    /// What is amiss; none in no fleet.
    pub fn amiss(&mut self) -> String {
        self.runtime.block_on(self.sync.step());
        self.sync.status().map(|status| status.waiting_for).unwrap_or_default()
    }

    /// What was wrong so far: what no server and no learner should ever see.
    ///
    /// # Errors
    /// The first.
    pub fn judge(&self) -> Result<(), String> {
        if let Some(what) = self.around.wrong.lock().unwrap_or_else(PoisonError::into_inner).first()
        {
            return Err(what.clone());
        }
        let desk = self.office().desk();
        match () {
            () if !desk.back.is_empty() => Err(format!("numbers ran back: {:?}", desk.back)),
            () if desk.other_tries + desk.refused_uploads > 0 => {
                Err("other bytes went out for an artifact that had some".to_owned())
            }
            () => Ok(()),
        }
    }

    /// Lives the acts of a plan from number `from` on.
    pub fn live(&mut self, plan: &[Act], from: usize) {
        for (number, act) in plan.iter().enumerate().skip(from) {
            self.around.act.store(number as u64, Ordering::Relaxed);
            self.record();
            self.act(act);
        }
        self.around.act.store(plan.len() as u64, Ordering::Relaxed);
        self.record();
    }

    /// Notes what is known, where anybody records.
    pub fn record(&self) {
        if self.around.tape.is_some() {
            self.around.record(self.pupil.learned());
        }
    }

    fn act(&mut self, act: &Act) {
        let installed = self.pupil.learned().view.installed();
        let artifact = installed.map_or(Hash([0; 32]), |installed| installed.artifact);
        match act {
            Act::Join => self.join(),
            Act::Leave => self.order(Order::Leave),
            Act::Rotate => self.order(Order::RotateKey),
            Act::Restart => self.restart(),
            Act::Talk => self.talk(),
            Act::Wait => self.wind(LONG / 20),
            Act::Commit => self.pupil.commit(),
            Act::Invite(round) => self.office().desk().invite = Some(invite(*round, artifact)),
            Act::Close => self.office().desk().invite = None,
            Act::Offer(sequence, is_sound) => self.offer(*sequence, *is_sound),
            Act::Try => self.pupil.try_it(),
            Act::End(outcome) => self.pupil.end(*outcome),
            Act::Epoch => {
                let mut desk = self.office().desk();
                let epoch = desk.trust.len() as u8;
                let (old, new) = (Keys::new(epoch - 1), Keys::new(epoch));
                desk.trust.push(new.trust(u64::from(epoch) + 1, Some(&old)));
            }
            Act::Bad(path, bad) => self.office().desk().bad.push_back((path, bad.clone())),
        }
    }

    fn offer(&self, sequence: u64, is_sound: bool) {
        let mut desk = self.office().desk();
        let artifact = match is_sound {
            true => global(sequence),
            false => format!("no adapter {sequence}").into_bytes(),
        };
        let keys = Keys::new(desk.trust.len() as u8 - 1);
        desk.offer(keys.release(sequence, &artifact, Role::Release), &artifact);
    }

    /// An order may fail: its owner reads why.
    fn order(&mut self, order: Order) {
        if matches!(order, Order::Join { .. } | Order::Leave) {
            // Another membership begins: it knows nothing of what the one before gave.
            self.pupil.forget();
        }
        drop(self.runtime.block_on(self.sync.follow(order)));
        self.record();
    }

    fn join(&mut self) {
        let link = self.office().link("fleet.example", Hash([9; 32])).parse::<Link>();
        if let Ok(link) = link {
            self.order(Order::Join { link, name: Some("kiosk".to_owned()) });
        }
    }

    fn wind(&self, more: Duration) {
        self.around.clock.wind(more);
        let now = NOW_MS + self.around.clock.elapsed().as_millis() as u64;
        self.office().desk().now_ms = now;
    }

    /// Checks in, and does what follows; twice, so that what failed is tried again.
    fn talk(&mut self) {
        for _ in 0..2 {
            self.order(Order::Now);
            for _ in 0..STEPS_MAX {
                let wait = self.runtime.block_on(self.sync.step());
                self.record();
                if !wait.is_zero() {
                    break;
                }
                self.wind(Duration::from_millis(1));
            }
            self.wind(SOON);
        }
    }

    fn store(&self) -> Store {
        Store::on(self.disk.clone(), Path::new(ROOT))
    }

    fn book(&self) -> Result<Option<Book>, String> {
        self.store().book().map_err(|error| error.to_string())
    }

    /// Lets everything be well, and waits until the device is as the fleet wants it.
    ///
    /// # Errors
    /// What is wrong, then or before.
    pub fn settle(&mut self) -> Result<(), String> {
        {
            let mut desk = self.office().desk();
            desk.bad.clear();
            desk.late.clear();
            desk.invite = None;
        }
        self.offer(LAST, true);
        self.until("the last install", |device, book| {
            device.pupil.end(Outcome::Confirmed);
            book.acked.contains(&LAST) && book.pending.is_none()
        })?;
        self.act(&Act::Invite(LAST));
        self.until("the last upload", |_, book| {
            book.sent.as_ref().is_some_and(|sent| sent.round == Some(LAST))
        })?;
        self.act(&Act::Rotate);
        self.talk();
        self.judge()?;
        self.ends_well()
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Self, &Book) -> bool) -> Result<(), String> {
        for _ in 0..12 {
            if self.book()?.is_none() {
                self.join();
            }
            self.talk();
            if let Some(book) = self.book()?
                && holds(self, &book)
            {
                return Ok(());
            }
            self.wind(LONG);
        }
        self.judge()?;
        Err(format!("{what} never comes: {}", self.amiss()))
    }

    fn ends_well(&self) -> Result<(), String> {
        let Some(book) = self.book()? else { return Err("the book is gone".to_owned()) };
        let desk = self.office().desk();
        let artifact = Hash::of(&global(LAST));
        if !desk.uploads.contains_key(&(book.device, artifact)) {
            return Err("the last upload is not with the server".to_owned());
        }
        if desk.reports.get(&LAST) != Some(&Outcome::Confirmed) {
            return Err("the last install is not with the server".to_owned());
        }
        let names = |folder| self.disk.list(folder).map_err(|error| error.to_string());
        let (coming, going) = (names("incoming")?, names("outgoing")?);
        match (coming.as_slice(), going.len()) {
            ([], 1) => {}
            _ => return Err(format!("{coming:?} and {going:?} are left over")),
        }
        match names("")?.into_iter().find(|name| name == "key.next" || name.ends_with(".new")) {
            Some(left) => Err(format!("{left} is left over")),
            None => Ok(()),
        }
    }
}

/// The program, as it starts.
fn program(disk: &Arc<dyn Storage>, around: &Around, learned: Learned) -> (Arc<Pupil>, Life) {
    let (clock, wrong, given) = (around.clock.clone(), around.wrong.clone(), around.clone());
    let hook = Box::new(move |learned| given.record(learned));
    let pupil = Arc::new(Pupil::new(disk.clone(), clock, learned, wrong, hook));
    let (learner, called) = (pupil.clone(), around.clone());
    let pipe = move || {
        called.record(learner.learned());
        called.office.pipe()
    };
    let drawn = around.drawn.clone();
    let store = Store::on(disk.clone(), Path::new(ROOT))
        .drawing(move || seed(drawn.fetch_add(1, Ordering::Relaxed)));
    let world = World {
        learner: pupil.clone(),
        clock: around.clock.clone(),
        chance: || 0,
        free: |_| None,
        network: Network::Pipe(Arc::new(pipe)),
    };
    let config = Config { enabled: true, ..Config::default() };
    (pupil, Life::new(store, config, world))
}

fn invite(round: u64, artifact: Hash) -> Invite {
    Invite { round, artifact, deadline_s: 86_400, bytes_max: 1 << 20, rank_max: 16 }
}
