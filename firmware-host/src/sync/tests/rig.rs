//! A device of memory on a disk that loses power, with a clock that is wound and a learner that obeys.

use super::files::{FACTS, adapter};
use super::server::{NOW_MS, Server};
use crate::clock::Clock;
use crate::config::Fleet as Config;
use crate::sync::World;
use crate::sync::memory::Wound;
use crate::sync::orders::enlist;
use crate::sync::turn::Turn;
use crate::sync::{Learner, Life, Network, Offered, Order, Part, Store, View};
use sapwood::ports::Storage;
use sapwood::ports::cut_disk::CutDisk;
use sapwood::state::{Global, Install, InstallOutcome};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::message::Ready;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A learner that commits when it is told, and installs what it is given at once.
pub(super) struct Pupil {
    pub(super) view: Mutex<View>,
    disk: Mutex<Arc<CutDisk>>,
    /// How installs end; none: never.
    pub(super) ends: Mutex<Option<InstallOutcome>>,
    pub(super) given: Mutex<Vec<Offered>>,
    /// What it was told to end the trial of.
    pub(super) recalled: Mutex<Vec<Hash>>,
}

impl Pupil {
    fn new() -> Arc<Self> {
        let ready = Some(Ready { steps: 3, tokens: 300 });
        let view = View {
            facts: FACTS,
            generation: 1,
            global: None,
            trial: false,
            ready,
            installs: Vec::new(),
        };
        Arc::new(Self {
            view: Mutex::new(view),
            disk: Mutex::new(Arc::new(CutDisk::new())),
            ends: Mutex::new(Some(InstallOutcome::Confirmed)),
            given: Mutex::default(),
            recalled: Mutex::default(),
        })
    }

    pub(super) fn commit(&self) {
        self.view.lock().unwrap().generation += 1;
    }
}

impl Learner for Pupil {
    fn view(&self) -> Option<View> {
        Some(self.view.lock().unwrap().clone())
    }

    fn own_part(&self, _: CohortId) -> Result<Option<Part>, String> {
        let view = self.view.lock().unwrap();
        let from = view.installed().map_or(Hash([0; 32]), |installed| installed.artifact);
        let bytes = adapter("sapwood-update/1", from, view.generation);
        Ok(Some(Part { from, rank: 2, bytes }))
    }

    fn install(&self, offered: Offered) {
        let name = offered.path.strip_prefix("/srv/fleet").unwrap().to_str().unwrap().to_owned();
        // What cannot be read now is given again.
        let Ok(bytes) = self.disk.lock().unwrap().read(&name) else { return };
        assert_eq!(Hash::of(&bytes), offered.artifact, "half a file was given to the learner");
        let mut view = self.view.lock().unwrap();
        let Offered { series, sequence, artifact, .. } = offered;
        let series = Some(series);
        let is_this = |one: &Install| (one.series, one.sequence) == (series, sequence);
        let known = view.installs.iter().any(is_this);
        self.given.lock().unwrap().push(offered);
        let ends = *self.ends.lock().unwrap();
        if let (Some(outcome), false) = (ends, known) {
            let reason = "it was tried".to_owned();
            let (before, after, artifact) = (Some(1.5), Some(1.25), artifact.0);
            let install = Install { sequence, series, artifact, outcome, reason, before, after };
            view.installs.push(install);
            view.global = Some(Global { ranks: 2, artifact, sequence, series });
            view.trial = outcome == InstallOutcome::Trialled;
            view.generation += 1;
        }
    }

    fn withdraw(&self) {
        let view = self.view.lock().unwrap();
        let has_begun = |offered: &Offered| {
            let is_it = |one: &Install| {
                (one.series, one.sequence) == (Some(offered.series), offered.sequence)
            };
            view.installs.iter().any(is_it)
        };
        self.given.lock().unwrap().retain(has_begun);
    }

    fn recall(&self, artifact: Hash) {
        self.recalled.lock().unwrap().push(artifact);
    }
}

/// The device.
pub(super) struct Rig {
    pub(super) disk: Arc<CutDisk>,
    pub(super) clock: Arc<Wound>,
    pub(super) pupil: Arc<Pupil>,
    pub(super) config: Config,
    pub(super) turn: Turn,
    free: fn(&Path) -> Option<u64>,
}

impl Rig {
    /// One that has joined nothing.
    pub(super) fn new() -> Self {
        Self::with(Config { enabled: true, ..Config::default() }, NOW_MS, |_| Some(u64::MAX))
    }

    pub(super) fn with(config: Config, start_ms: u64, free: fn(&Path) -> Option<u64>) -> Self {
        let (disk, clock, pupil) = (Arc::new(CutDisk::new()), Wound::at(start_ms), Pupil::new());
        let turn = Self::turn(&disk, &clock, &pupil, &config, free);
        Self { disk, clock, pupil, config, turn, free }
    }

    fn turn(
        disk: &Arc<CutDisk>,
        clock: &Arc<Wound>,
        pupil: &Arc<Pupil>,
        config: &Config,
        free: fn(&Path) -> Option<u64>,
    ) -> Turn {
        *pupil.disk.lock().unwrap() = disk.clone();
        let store = Store::on(disk.clone(), Path::new("/srv/fleet"));
        Turn::new(store, config.clone(), Self::world(clock, pupil, free))
    }

    fn world(clock: &Arc<Wound>, pupil: &Arc<Pupil>, free: fn(&Path) -> Option<u64>) -> World {
        let (learner, network) = (pupil.clone(), Network::System);
        World { learner, clock: clock.clone(), chance: || 0, free, network }
    }

    /// The same device, as an owner's orders reach it.
    pub(super) fn life(&self) -> Life {
        let world = Self::world(&self.clock, &self.pupil, self.free);
        Life::new(self.turn.store.clone(), self.config.clone(), world)
    }

    /// The program starts again, on the disk as it is after a power cut.
    pub(super) fn restart(&mut self, luck: u64) {
        self.disk = Arc::new(self.disk.after_cut(luck));
        let Self { disk, clock, pupil, config, free, .. } = self;
        self.turn = Self::turn(disk, clock, pupil, config, *free);
    }

    /// Joins by the server's link.
    pub(super) fn join(&mut self, server: &Server) {
        let link = server.link().parse().unwrap();
        let clock: Arc<dyn Clock> = self.clock.clone();
        let ca_file = self.config.ca_file.clone();
        // A disk without power joins nothing.
        let store = &self.turn.store;
        let _ = enlist(store, &link, Some("kiosk"), ca_file.as_deref(), &clock);
        let _ = self.turn.open();
    }

    /// Leaves, as an operator says it.
    pub(super) async fn leave(&mut self) {
        let Self { disk, clock, pupil, config, free, .. } = self;
        let fresh = Self::turn(disk, clock, pupil, config, *free);
        let turn = std::mem::replace(&mut self.turn, fresh);
        let world = Self::world(clock, pupil, *free);
        let mut life = Life { turn, config: config.clone(), world };
        life.follow(Order::Leave).await.unwrap();
        self.turn = life.turn;
    }

    /// One step, and as much time as it asks for.
    pub(super) async fn step(&mut self) {
        let wait = self.turn.step().await;
        self.clock.wind(wait.max(Duration::from_millis(1)));
    }

    /// So many steps.
    pub(super) async fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step().await;
        }
    }

    /// Steps until the book says so.
    pub(super) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                return;
            }
            self.step().await;
        }
        unreachable!("waited for {what}: {:?}", self.turn.status());
    }

    pub(super) fn book(&self) -> crate::sync::Book {
        self.turn.member.as_ref().unwrap().book().clone()
    }

    pub(super) fn amiss(&self) -> String {
        self.turn.status().map(|status| status.waiting_for).unwrap_or_default()
    }
}
