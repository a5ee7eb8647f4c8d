//! A device that has learned, in whose inbox samples wait, and global adapters that are offered to it.

use crate::world::{MINUTE_MS, Sky, Weather, base, config, offer};
use firmware_host::config::Config;
use firmware_host::device::{Handle, Order, Worker, World};
use firmware_host::status::{Ending, JobKind};
use firmware_host::sync::{Learner as _, Offered, Part, View};
use jiff::tz::TimeZone;
use sapwood::adapter::{Adapter, Spec, Strength, Target, wire};
use sapwood::base::{Base, read_config};
use sapwood::ports::cut_disk::CutDisk;
use sapwood::state::{InstallOutcome, Series};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::update::{Header, Kind, Meta};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;

/// Ranks of a global adapter.
pub(crate) const RANKS: usize = 3;
/// The fleet's cohort that offers them.
pub(crate) const SERIES: Series = Series { fleet: [4; 16], cohort: [1; 32] };
/// Samples that the device has learned at the beginning, and that wait then.
pub(crate) const LEARNED: u64 = 14;
pub(crate) const WAITING: u64 = 13;

/// A base, files of global adapters, and a device that has learned and in whose inbox samples wait.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) model: PathBuf,
    learned: CutDisk,
}

pub(crate) fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let model = base(folder.path());
        let disk = Arc::new(CutDisk::new());
        let mut device = Device::open(&disk, patient(&model));
        (0..LEARNED).for_each(|number| device.offer(number));
        device.until(|view| view.generation == 1);
        assert_eq!(device.handle.status().inbox.samples, 0);
        (LEARNED..LEARNED + WAITING).for_each(|number| device.offer(number));
        drop(device);
        let learned = disk.copy();
        Place { folder, model, learned }
    })
}

/// A configuration whose jobs end by themselves: every look at the clock takes three seconds, and a job
/// looks before every token that its base writes for itself.
fn patient(model: &Path) -> Config {
    let mut config = config(model);
    config.budget.seconds = Some(1_200.0);
    config
}

impl Place {
    pub(crate) fn disk(&self) -> Arc<CutDisk> {
        Arc::new(self.learned.copy())
    }

    pub(crate) fn config(&self) -> Config {
        patient(&self.model)
    }

    /// A device on a copy of the disk.
    pub(crate) fn device(&self) -> Device {
        Device::open(&self.disk(), self.config())
    }

    /// An order to install the global adapter of that number, which changes little; `targets` are its own.
    pub(crate) fn offered(&self, number: u8, sequence: u64, targets: &[Target]) -> Arc<Offered> {
        let path = self.folder.path().join(format!("{number}-{}.safetensors", targets.len()));
        let config = read_config(&self.model).unwrap();
        let strength = Strength { rank: RANKS, alpha: RANKS as f32 };
        let spec = Spec::uniform(&config, config.layers - 2..config.layers, targets, strength);
        let value = |at: usize| ((at * 31 + usize::from(number)) % 17) as f32 / 4096.0;
        let values = (0..spec.len()).map(value).collect();
        let meta = Meta {
            kind: Kind::Global,
            base: Hash(Base::open(&self.model).unwrap().hash()),
            cohort: CohortId([1; 32]),
            from: Hash([0; 32]),
            generation: 1,
            steps: 1,
            tokens: 1,
        };
        let bytes = wire::encode(&Adapter { spec, values }, &meta).unwrap();
        // Whole at once: the tests of this file run side by side and share it.
        let file = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        fs::write(file.path(), &bytes).unwrap();
        file.persist(&path).unwrap();
        Arc::new(Offered { series: SERIES, sequence, artifact: Hash::of(&bytes), path })
    }
}

pub(crate) const TARGETS: [Target; 2] = [Target::Q, Target::V];

/// A program that runs.
pub(crate) struct Device {
    pub(crate) sky: Arc<Sky>,
    pub(crate) worker: Worker,
    pub(crate) handle: Handle,
}

impl Device {
    pub(crate) fn open(disk: &Arc<CutDisk>, config: Config) -> Self {
        Self::try_open(disk, config).unwrap()
    }

    pub(crate) fn try_open(disk: &Arc<CutDisk>, config: Config) -> Option<Self> {
        let sky: Arc<Sky> = Arc::default();
        let probes = Box::new(Weather(sky.clone()));
        let world = World { storage: disk.clone(), clock: sky.clone(), probes };
        let (worker, handle) = Worker::open(config, world, TimeZone::UTC).ok()?;
        Some(Self { sky, worker, handle })
    }

    pub(crate) fn offer(&self, number: u64) {
        offer(&self.handle, &format!("pump {number} turns at {} rpm", number * 7_919 % 3_000))
            .unwrap();
    }

    pub(crate) fn order(&self, offered: &Arc<Offered>) {
        // A program that is on its way out takes none.
        let _ = self.handle.order(Order::Install(offered.clone()));
    }

    /// A look of the worker, then half a minute; false when it ended with an error.
    pub(crate) fn tick(&mut self) -> bool {
        let lived = self.worker.tick().is_ok();
        self.sky.0.fetch_add(MINUTE_MS / 2, Ordering::Relaxed);
        lived
    }

    /// Looks of the worker until something is so, an hour at most.
    pub(crate) fn view(&self) -> View {
        self.handle.view().unwrap()
    }

    /// What it lends, and the header of that file.
    pub(crate) fn own_part(&self) -> Option<(Part, Header)> {
        let part = self.handle.own_part(CohortId([1; 32])).unwrap()?;
        let header = wire::header(&part.bytes).unwrap();
        Some((part, header))
    }

    pub(crate) fn until(&mut self, so: impl Fn(&View) -> bool) {
        for _ in 0..120 {
            if so(&self.view()) {
                return;
            }
            assert!(self.tick(), "the worker ended");
        }
        let status = self.handle.status();
        unreachable!("{:?} {}: {:?}", status.phase, status.waiting_for, status.jobs);
    }

    pub(crate) fn kinds(&self) -> Vec<(JobKind, Ending)> {
        self.handle.status().jobs.iter().map(|job| (job.kind, job.ending)).collect()
    }
}

pub(crate) fn outcome(view: &View, sequence: u64) -> Option<InstallOutcome> {
    let found = view.installs.iter().find(|install| install.sequence == sequence);
    found.map(|install| install.outcome)
}
