//! A day of a device in a simulated world: samples, heat, a battery, orders, power cuts.
//!
//! - The real worker, inbox, state and learner over a base of seeded noise; only time, weather and
//!   disk are played. The clock goes three seconds with every look at it, so
//!   that a step takes about that.
//! - Held after every cut and at the end: what was acknowledged waits or was part of a job that
//!   ended; the disk stays within its bound; memory stays flat; every run says why it ended.

use crate::world::{
    BOUNDS, DAY_MINUTES, MIDNIGHT_SECONDS, MINUTE_MS, Sky, Weather, base, config, offer,
};
use firmware_host::config::Config;
use firmware_host::device::{DeviceError, Handle, Order, Pace, Worker, World};
use firmware_host::history::History;
use firmware_host::probe::{Probes, Readings};
use firmware_host::status::{Ending, JobReport};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::inbox::Inbox;
use sapwood::intake::Example;
use sapwood::ports::Storage;
use sapwood::ports::cut_disk::{CutDisk, Failure, Fault};
use sapwood::state::State;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What allocators keep, and the test's own books; a leak of a job's buffers would be a MiB a job.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

/// What the outside knows of the device.
struct Outside {
    sky: Arc<Sky>,
    config: Config,
    chance: ChaCha8Rng,
    disk: Arc<CutDisk>,
    /// Acknowledged samples, by their number.
    acknowledged: BTreeMap<u64, String>,
    sent: u64,
    cuts: u32,
    runs: BTreeMap<u64, JobReport>,
    disk_bytes: u64,
}

impl Outside {
    fn open(&self) -> Result<(Worker, Handle), DeviceError> {
        let world = World {
            storage: self.disk.clone(),
            clock: self.sky.clone(),
            probes: Box::new(Weather(self.sky.clone())),
        };
        Worker::open(self.config.clone(), world, TimeZone::UTC)
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.chance.next_u64() % below
    }

    /// Sends some samples, now and then one that was sent before.
    fn send(&mut self, handle: &Handle) {
        for _ in 0..=self.draw(3) {
            let again = self.sent > 0 && self.draw(8) == 0;
            let number = if again { self.draw(self.sent) } else { self.sent };
            self.sent += u64::from(!again);
            let text = format!("pump {number} turns at {} rpm", (number * 7_919) % 3_000);
            if let Ok(receipt) = offer(handle, &text)
                && receipt.accepted == 1
            {
                self.acknowledged.insert(receipt.last, text);
            }
        }
    }

    /// What was acknowledged is there, or was part of a job that ended; nothing is there twice.
    fn check(&self) {
        let state = State::look(self.disk.clone()).unwrap();
        let copy = Arc::new(self.disk.copy());
        let inbox = Inbox::open(copy, BOUNDS, state.learned()).unwrap();
        let text = |example: Example| match example {
            Example::Text(text) => text,
            other => format!("{other:?}"),
        };
        let taken = inbox.take(u64::MAX).unwrap().samples;
        let waiting: Vec<String> = taken.into_iter().map(|(_, one)| text(one)).collect();
        for (number, text) in self.acknowledged.range(state.learned() + 1..) {
            assert!(waiting.contains(text), "sample {number} was acknowledged and is lost: {text}");
        }
        for (number, text) in self.acknowledged.range(..=state.learned()) {
            assert!(!waiting.contains(text), "sample {number} was learned and is back: {text}");
        }
        assert_eq!(inbox.found().lost_samples, 0);
    }

    fn note(&mut self, handle: &Handle) {
        for job in handle.status().jobs {
            self.runs.insert(job.number, job);
        }
        // A copy, so that looking is no operation that a cut could fall on.
        let copy = self.disk.copy();
        let lengths = copy.paths().into_iter().map(|path| copy.len(&path).unwrap());
        self.disk_bytes = self.disk_bytes.max(lengths.map(Option::unwrap_or_default).sum());
    }

    /// The program died in the middle of whatever it did; some of what was not synced is lost.
    fn power_is_back(&mut self) {
        self.cuts += 1;
        let luck = self.draw(1 << 20);
        self.disk = Arc::new(self.disk.after_cut(luck));
        self.check();
    }

    fn ended(&self, ending: Ending) -> usize {
        self.runs.values().filter(|run| run.ending == ending).count()
    }
}

/// A minute of the device: samples, perhaps an order or a cut, some looks of the worker.
fn minute(outside: &mut Outside, device: &mut Option<(Worker, Handle)>) {
    let (mut worker, handle) = device.take().unwrap_or_else(|| outside.open().unwrap());
    if outside.draw(40) == 0 {
        let operation = outside.draw(160) as usize;
        outside.disk.set(Some(Fault::Cut(operation)));
    }
    outside.send(&handle);
    // The disk may refuse it.
    let _ = handle.order(match outside.draw(120) {
        0 => Order::Pause,
        1 => Order::JobNow,
        _ => Order::Resume,
    });
    for _ in 0..4 {
        match worker.tick() {
            Ok(Pace::Again) => {}
            Ok(pace) => {
                assert_eq!(pace, Pace::Wait, "nobody told it to end");
                break;
            }
            Err(_) => break,
        }
    }
    outside.note(&handle);
    if outside.disk.is_off() {
        outside.power_is_back();
    } else {
        *device = Some((worker, handle));
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1_024
}

/// What the state folder may take: every kept generation and one that is being written, reservoir,
/// inbox, checkpoint, manifests and history.
fn disk_bytes_max(disk: &Arc<CutDisk>) -> u64 {
    let length = |path: &str| disk.len(path).unwrap().unwrap_or_default();
    let state = State::look(disk.clone()).unwrap();
    let kept = state.generations();
    let bytes = kept.iter().map(|generation| {
        let files: u64 = generation.files.iter().map(|file| file.length).sum();
        files + generation.learner.length
    });
    let largest = bytes.max().unwrap_or(0);
    let manifests = 3 * (length("manifest.a").max(length("manifest.b")) + (16 << 10));
    let (segment, history) = (1 << 20, 64 << 10);
    // A checkpoint is a learner and a ledger, and is there twice while it is replaced.
    (kept.len() as u64 + 3) * largest
        + length("reservoir")
        + BOUNDS.bytes
        + segment
        + manifests
        + history
}

#[test]
fn a_day_of_heat_cuts_and_orders_loses_nothing_and_explains_itself() {
    let folder = tempfile::tempdir().unwrap();
    let model = base(folder.path());
    let mut outside = Outside {
        sky: Arc::default(),
        config: config(&model),
        chance: ChaCha8Rng::seed_from_u64(1),
        disk: Arc::new(CutDisk::new()),
        acknowledged: BTreeMap::new(),
        sent: 0,
        cuts: 0,
        runs: BTreeMap::new(),
        disk_bytes: 0,
    };
    let (mut device, mut early) = (None, 0);
    while outside.sky.milliseconds() < DAY_MINUTES * MINUTE_MS {
        let begun = outside.sky.milliseconds();
        minute(&mut outside, &mut device);
        outside.sky.0.fetch_max(begun + MINUTE_MS, Ordering::Relaxed);
        if outside.sky.minute() < 6 * 60 {
            early = resident_bytes().max(early);
        }
    }
    let growth = resident_bytes().saturating_sub(early);
    drop(device);
    outside.check();

    let learned = State::look(outside.disk.clone()).unwrap().learned();
    let (runs, most) = (&outside.runs, disk_bytes_max(&outside.disk));
    let told = format!(
        "{} samples sent, {} acknowledged, {learned} learned; {} cuts; {} runs, {} kept, {} stopped; \
         {} of {most} bytes on disk at most, {growth} bytes grown\n",
        outside.sent,
        outside.acknowledged.len(),
        outside.cuts,
        runs.len(),
        outside.ended(Ending::Kept),
        outside.ended(Ending::Stopped),
        outside.disk_bytes
    );
    std::io::stderr().write_all(told.as_bytes()).unwrap();
    assert!(outside.cuts > 10 && runs.len() > 20 && learned > 200, "{told}");
    assert!(outside.ended(Ending::Kept) > 20, "{told}");
    for why in ["temperature", "budget.seconds"] {
        let stopped = |run: &&JobReport| run.ending == Ending::Stopped && run.reason.contains(why);
        assert!(runs.values().filter(stopped).count() > 1, "none was stopped by {why}: {told}");
    }
    for run in runs.values() {
        // At a cut a real program is gone; this one still says what it met.
        let cut = run.reason.contains("broken pipe");
        assert!((cut || run.ending != Ending::Failed) && !run.reason.is_empty(), "{run:?}");
        let started: Timestamp = run.started.parse().unwrap();
        let minute = (started.as_second() - MIDNIGHT_SECONDS) as u64 / 60 % DAY_MINUTES;
        assert!(!Sky::is_hot(minute) && !Sky::is_drained(minute), "{run:?}");
    }
    assert!(growth < GROWTH_BYTES_MAX, "{told}");
    assert!(outside.disk_bytes <= most, "{told}");
}

/// A disk with room for little.
struct Narrow;

impl Probes for Narrow {
    fn read(&mut self) -> Readings {
        Readings { storage_bytes: Some(1 << 20), ..Readings::default() }
    }
}

#[test]
fn a_disk_is_not_filled_so_far_that_no_job_could_drain_the_inbox() {
    let folder = tempfile::tempdir().unwrap();
    let model = base(folder.path());
    let (storage, sky) = (Arc::new(CutDisk::new()), Arc::<Sky>::default());
    let world = World { storage, clock: sky, probes: Box::new(Narrow) };
    let (mut worker, handle) = Worker::open(config(&model), world, TimeZone::UTC).unwrap();
    worker.tick().unwrap();
    let said = offer(&handle, "no room").unwrap_err().to_string();
    assert!(said.starts_with("the disk has 1048576 bytes free"), "{said}");
}

/// Nothing to do for ten minutes is no reason for a watchdog to kill the program.
#[test]
fn a_worker_that_waits_long_still_gives_signs_and_hears_orders() {
    let folder = tempfile::tempdir().unwrap();
    let model = base(folder.path());
    let mut config = config(&model);
    config.job.poll_seconds = 600.0;
    let sky: Arc<Sky> = Arc::default();
    let (storage, probes) = (Arc::new(CutDisk::new()), Box::new(Weather(sky.clone())));
    let world = World { storage, clock: sky, probes };
    let (worker, handle) = Worker::open(config, world, TimeZone::UTC).unwrap();
    let living = std::thread::spawn(move || worker.live());
    let tries = (0..500).take_while(|_| {
        std::thread::park_timeout(Duration::from_millis(20));
        handle.board().beats() < 3
    });
    assert!(tries.count() < 500, "no sign for ten seconds");
    handle.order(Order::Stop).unwrap();
    living.join().unwrap().unwrap();
}

#[test]
fn a_disk_that_keeps_no_promise_ends_the_program_and_a_new_start_finds_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let model = base(folder.path());
    let (sky, disk) = (Arc::<Sky>::default(), Arc::new(CutDisk::new()));
    let open = || {
        let probes = Box::new(Weather(sky.clone()));
        let world = World { storage: disk.clone(), clock: sky.clone(), probes };
        Worker::open(config(&model), world, TimeZone::UTC).unwrap()
    };
    let (mut worker, handle) = open();
    offer(&handle, "before").unwrap();
    // The write, then the sync.
    disk.set(Some(Fault::Once(1, Failure::Eio)));
    assert!(offer(&handle, "at the fault").is_err());
    disk.set(None);
    assert!(offer(&handle, "after").is_err(), "nobody knows what the disk holds");
    let error = worker.tick().unwrap_err();
    assert!(error.is_final(), "{error}");
    drop((worker, handle));
    let (mut worker, handle) = open();
    assert_eq!(worker.tick().unwrap(), Pace::Wait);
    assert!(handle.status().inbox.samples >= 1 && offer(&handle, "after").is_ok());
}

/// A disk that refuses a job's record is told where an operator looks, not in the log alone.
#[test]
fn a_job_that_cannot_begin_is_counted_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let model = base(folder.path());
    let (sky, disk) = (Arc::<Sky>::default(), Arc::new(CutDisk::new()));
    let world = World { storage: disk.clone(), clock: sky.clone(), probes: Box::new(Weather(sky)) };
    let (mut worker, handle) = Worker::open(config(&model), world, TimeZone::UTC).unwrap();
    (0..12).for_each(|number| assert!(offer(&handle, &format!("text {number}")).is_ok()));
    disk.set(Some(Fault::From(0, Failure::Kind(ErrorKind::QuotaExceeded))));
    assert_eq!(worker.tick().unwrap(), Pace::Wait);
    disk.set(None);
    assert_eq!(worker.tick().unwrap(), Pace::Wait);
    let status = handle.status();
    assert_eq!((status.endings.failed, status.inbox.samples), (1, 12));
    let why = &status.waiting_for;
    assert!(why.starts_with("rests for ") && why.contains("quota"), "{why}");
}

/// Whatever took the manifests, the reservoir beside them is not written over.
#[test]
fn a_state_whose_runs_are_remembered_and_whose_manifest_is_gone_is_not_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let model = base(folder.path());
    let (sky, disk) = (Arc::<Sky>::default(), Arc::new(CutDisk::new()));
    let report = JobReport { number: 1, generation: Some(6), ..JobReport::default() };
    History::default().end(&*disk, report);
    disk.write("reservoir", b"blocks").unwrap();
    let probes = Box::new(Weather(sky.clone()));
    let world = World { storage: disk.clone(), clock: sky, probes };
    let opened = Worker::open(config(&model), world, TimeZone::UTC);
    let said = opened.err().unwrap().to_string();
    assert!(said.contains("generation 6") && said.contains("recover --from-adapters"), "{said}");
    assert_eq!(disk.paths(), ["history.json", "reservoir"], "nothing is made beside them");
}
