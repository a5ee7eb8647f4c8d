//! A run: the server, the devices, the operator, the count, from the beginning to the report.

use crate::crowd;
use crate::device::Device;
use crate::line::{Lines, Server};
use crate::operator::{Operator, Story};
use crate::report::Report;
use crate::servers::{self, Programs, Running};
use crate::shape::Shape;
use crate::tally::{Tally, now};
use crate::time::Time;
use crate::watch::{Row, Watch};
use crate::weather::Weather;
use crate::world::{Invitation, World};
use anyhow::{Context, Result, anyhow, ensure};
use fleet_server::home::{Home, Stores};
use fleet_server::operator as orders;
use fleet_server::ports::{Clock, SystemChance};
use sapwood_connections::Known;
use sapwood_protocol::fleet::link::Link;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The label of all simulated devices.
const LABEL: &str = "simulated";
/// How long an enrolment link holds, simulated.
const LINK_MS: u64 = 365 * 24 * 3_600_000;

/// What the operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orders {
    /// Nothing.
    Nothing,
    /// Rounds one after the other; whether each release goes to all at once.
    Rounds {
        /// How many.
        count: u64,
        /// Without waiting for stages.
        hasty: bool,
    },
    /// A bad release, which an operator sees so many simulated ms after the stages paused it.
    Drill {
        /// How long the operator takes.
        react_ms: u64,
    },
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How it was asked for, in a line.
    pub asked: String,
    /// Devices, those of the lab included.
    pub devices: u32,
    /// Of them, of the lab.
    pub lab: u32,
    /// Devices whose folder somebody copied.
    pub copied: u32,
    /// The policy of the cohort, JSON; empty where the fleet is somebody else's.
    pub policy: String,
    /// Simulated ms within which those who enrolled check in first.
    pub first_ms: u64,
    /// Simulated ms between two check-ins whatever the server says.
    pub every_ms: Option<u64>,
    /// Real seconds at the beginning that are no part of the summary.
    pub warm_s: f64,
    /// Simulated minutes, at most.
    pub minutes: u64,
    /// How many times as fast as real time.
    pub speed: f64,
    /// Enrolments a real second.
    pub enrol_per_s: f64,
    /// What is learned.
    pub shape: Shape,
    /// What befalls devices.
    pub weather: Weather,
    /// What the operator does.
    pub orders: Orders,
    /// Simulated ms of a trial.
    pub trial_ms: u64,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Real seconds of a row.
    pub row_s: f64,
    /// Links of a fleet that is there, one for each replica; none has one made.
    pub links: Vec<Link>,
    /// The folder of that fleet, if it is on this machine.
    pub folder: Option<PathBuf>,
    /// Where the book of a new fleet is, if it is not in its folder.
    pub stores: Stores,
    /// Servers of a new fleet; several need a database.
    pub replicas: u32,
    /// Where the report goes.
    pub out: PathBuf,
}

/// The fleet that is tried.
struct Fleet {
    folder: Option<PathBuf>,
    servers: Vec<Server>,
    links: [Link; 2],
    running: Vec<Running>,
    /// Removed at the end.
    _place: Option<tempfile::TempDir>,
}

/// Runs a scenario, and writes its report.
///
/// # Errors
/// What keeps it from beginning, or an order that the server's library refuses.
pub fn run(scenario: &Scenario, programs: &Programs) -> Result<Report> {
    std::fs::create_dir_all(&scenario.out).with_context(|| scenario.out.display().to_string())?;
    let time = Time::start(scenario.speed);
    let fleet = match scenario.links.is_empty() {
        true => own(scenario, programs, &time)?,
        false => foreign(scenario)?,
    };
    let world = Arc::new(world(scenario, &fleet, time)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let played = Run { scenario, fleet: &fleet, world: &world, runtime: &runtime }.play();
    let (report, worked) = played?;
    report.write(&scenario.out).with_context(|| scenario.out.display().to_string())?;
    // What the operator was refused ends a run; what was measured until then is kept.
    worked.with_context(|| {
        format!("the operator stopped; {} has what was until then", scenario.out.display())
    })?;
    Ok(report)
}

/// A fleet in a folder that goes at the end.
fn own(scenario: &Scenario, programs: &Programs, time: &Time) -> Result<Fleet> {
    let place = tempfile::tempdir_in(&scenario.out).context("a temporary folder")?;
    // Links to it are followed from elsewhere.
    let folder = place.path().canonicalize()?.join("fleet");
    servers::init(&folder, &scenario.stores, time)?;
    let (mut running, mut all) = (Vec::new(), Vec::new());
    for number in 0..scenario.replicas {
        let own = match number {
            0 => folder.clone(),
            _ => place.path().canonicalize()?.join(format!("fleet-{number}")),
        };
        if number > 0 {
            servers::copy(&folder, &own).with_context(|| own.display().to_string())?;
        }
        let log = scenario.out.join(format!("server-{number}.log"));
        let (one, server) = servers::start(programs, &own, time, &log)?;
        running.push(one);
        all.push(server);
    }
    let host = all.first().context("a server")?.host.clone();
    let home = Home::open(&folder)?;
    let invited = |lab: bool| {
        let invitation = orders::Invitation {
            host: host.clone(),
            label: LABEL.to_owned(),
            uses: u64::from(scenario.devices) + u64::from(scenario.copied),
            expires_ms: time.now_ms() + LINK_MS,
            auto: true,
            lab,
            pinned: true,
        };
        orders::invite(&home, &invitation, &SystemChance, time.now_ms())
    };
    let links = [invited(false)?, invited(true)?];
    let (folder, place) = (Some(folder), Some(place));
    Ok(Fleet { folder, servers: all, links, running, _place: place })
}

/// A fleet that is there.
fn foreign(scenario: &Scenario) -> Result<Fleet> {
    let server = |link: &Link| -> Result<Server> {
        let port = if link.host.contains(':') { "" } else { ":443" };
        let found = format!("{}{port}", link.host).to_socket_addrs();
        let mut found = found.with_context(|| link.host.clone())?;
        let address = found.next().with_context(|| format!("{} has no address", link.host))?;
        Ok(Server { address, host: link.host.clone() })
    };
    let servers = scenario.links.iter().map(server).collect::<Result<Vec<_>>>()?;
    let first = scenario.links.first().context("a link")?;
    ensure!(scenario.speed == 1.0, "a fleet that is there has real time, expected --speed 1");
    let links = [first.clone(), first.clone()];
    Ok(Fleet { folder: scenario.folder.clone(), servers, links, running: vec![], _place: None })
}

fn world(scenario: &Scenario, fleet: &Fleet, time: Time) -> Result<World> {
    let pin = fleet.links[0]
        .pin
        .context("the link has no pin, expected one: --no-pin is for real devices")?;
    let known = Known::by_key(pin)?;
    let lines = Lines::new(known, fleet.servers.clone(), fleet.links[0].fleet);
    let invitation = |link: &Link| Invitation { token: link.token.clone(), trust: link.trust };
    Ok(World {
        seed: scenario.seed,
        time,
        lines,
        invitations: fleet.links.each_ref().map(invitation),
        shape: scenario.shape,
        weather: scenario.weather.clone(),
        trial_ms: scenario.trial_ms,
        first_ms: scenario.first_ms,
        every_ms: scenario.every_ms,
        trust: OnceLock::new(),
        cohort: OnceLock::new(),
        bad: Mutex::default(),
        attacks: Mutex::default(),
        tally: Tally::default(),
    })
}

struct Run<'a> {
    scenario: &'a Scenario,
    fleet: &'a Fleet,
    world: &'a Arc<World>,
    runtime: &'a Runtime,
}

/// What the threads of a run tell each other.
#[derive(Clone, Default)]
struct Told {
    story: Arc<Mutex<Story>>,
    /// The operator stops.
    stop: Arc<AtomicBool>,
    /// The operator has done all.
    done: Arc<AtomicBool>,
}

impl Run<'_> {
    /// What was measured, and whether the operator came to his end.
    fn play(&self) -> Result<(Report, Result<()>)> {
        let told = Told::default();
        let mut devices = self.devices();
        self.first(&mut devices)?;
        let operator = |folder: &Path| {
            Operator::new(folder, self.world.clone(), told.story.clone(), told.stop.clone())
        };
        let operators = [0, 1].map(|_| self.fleet.folder.as_deref().map(operator).transpose());
        let [ours, watching] = operators;
        let (ours, watching) = (ours?, watching?);
        if let Some(operator) = ours.as_ref().filter(|_| !self.scenario.policy.is_empty()) {
            operator.policy(&self.scenario.policy)?;
        }
        let processes = self.fleet.running.iter().map(Running::process).collect();
        let folder = self.fleet.folder.clone();
        let mut watch = Watch::new(self.world.clone(), folder, processes, watching);
        let (stop, stopped) = watch::channel(false);
        let world = self.world.clone();
        let living = self.runtime.spawn(async move { crowd::live(&world, devices, stopped).await });
        let working = ours.map(|operator| self.work(operator, told.clone()));
        self.heed(&told)?;
        let rows = self.look(&mut watch, &told);
        told.stop.store(true, Ordering::Relaxed);
        // Nobody left to hear it is as good as having stopped.
        let _ = stop.send(true);
        let ended = self.runtime.block_on(living)?;
        let worked = match working.map(std::thread::JoinHandle::join) {
            None => Ok(()),
            Some(Ok(worked)) => worked,
            Some(Err(_)) => Err(anyhow!("the operator broke off")),
        };
        Ok((self.report(rows, &told, &watch, ended.len()), worked))
    }

    /// Every device, and when it is due first.
    fn devices(&self) -> Vec<(Device, u64)> {
        let Scenario { devices, copied, lab, seed, .. } = *self.scenario;
        let speed = self.world.time.speed();
        let ms = 1000.0 * speed / self.scenario.enrol_per_s;
        let begin = self.world.time.now_ms();
        let facts = self.scenario.shape.facts();
        let weather = &self.scenario.weather;
        let mut all: Vec<(Device, u64)> = (0..devices)
            .map(|number| {
                let device = Device::new(seed, number, weather.traits(seed, number), number < lab);
                (device, begin + (f64::from(number) * ms) as u64)
            })
            .collect();
        let whole = begin + (f64::from(devices) * ms) as u64;
        for copy in 0..copied.min(devices) {
            let mut lived = all[copy as usize].0.clone();
            lived.checks_in(facts);
            let mut copy = lived.copied(devices + copy);
            copy.state = Some(sapwood_protocol::fleet::message::DeviceState::Accepted);
            let later = copy.luck.draw() % 600_000;
            all.push((copy, whole + 600_000 + later));
        }
        all
    }

    /// Has the first device enrol, which makes the cohort.
    fn first(&self, devices: &mut [(Device, u64)]) -> Result<()> {
        let (device, due) = devices.first_mut().context("a device")?;
        *due = self.runtime.block_on(self.world.wake(device));
        let ends = self.world.tally.all().ends;
        ensure!(device.state.is_some(), "the first device did not enrol: {ends:?}");
        Ok(())
    }

    fn work(&self, operator: Operator, told: Told) -> std::thread::JoinHandle<Result<()>> {
        let orders = self.scenario.orders;
        std::thread::spawn(move || {
            let done = match orders {
                Orders::Nothing => return Ok(()),
                Orders::Rounds { count, hasty } => operator.rounds(count, hasty),
                Orders::Drill { react_ms } => operator.drill(react_ms),
            };
            told.done.store(true, Ordering::Relaxed);
            done
        })
    }

    /// Ends at SIGTERM and SIGINT as at the end of its time: nothing that was started is left behind.
    fn heed(&self, told: &Told) -> Result<()> {
        let entered = self.runtime.enter();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        drop(entered);
        let done = told.done.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            done.store(true, Ordering::Relaxed);
        });
        Ok(())
    }

    /// A row now and then, until the time is over or the operator is done.
    #[expect(clippy::disallowed_methods, reason = "rows are by real time")]
    fn look(&self, watch: &mut Watch, told: &Told) -> Vec<Row> {
        let until_ms = self.scenario.minutes * 60_000;
        let row = Duration::from_secs_f64(self.scenario.row_s);
        let start = std::time::Instant::now();
        let (mut rows, mut begun) = (Vec::new(), start);
        let mut warm = Some(Duration::from_secs_f64(self.scenario.warm_s));
        let rounds =
            || told.story.lock().unwrap_or_else(PoisonError::into_inner).rounds.len() as u64;
        loop {
            let is_over = self.world.time.passed_ms() >= until_ms;
            let is_over = is_over || told.done.load(Ordering::Relaxed);
            if warm.take_if(|warm| start.elapsed() >= *warm).is_some() {
                self.world.tally.anew();
            }
            if begun.elapsed() >= row || is_over {
                begun = std::time::Instant::now();
                rows.push(watch.row(rounds()));
                self.show(&rows);
            }
            if is_over {
                return rows;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[expect(clippy::print_stderr, reason = "what happens is told while it does")]
    fn show(&self, rows: &[Row]) {
        let Some(row) = rows.last() else { return };
        let ms = |share| row.calls.whole.quantile(share) as f64 / 1000.0;
        eprintln!(
            "{:6.1} min ({:.0} simulated): {} devices, {:.1} check-ins/s, p50 {:.1} ms, p99 {:.1} ms, {} errors, \
             server {:.2} processors, {:.1} MiB, load {:.1}, {} rounds",
            row.real_s[0] / 60.0,
            row.simulated_ms as f64 / 60_000.0,
            row.enrolled,
            row.calls.whole.count() as f64 / row.real_s[1],
            ms(0.5),
            ms(0.99),
            row.calls.errors(),
            row.server.cpu_s / row.real_s[1],
            row.server.resident as f64 / f64::from(1 << 20),
            row.load,
            row.rounds
        );
    }

    fn report(&self, rows: Vec<Row>, told: &Told, watch: &Watch, ended: usize) -> Report {
        let (tally, [server, own]) = (&self.world.tally, watch.costs());
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let [up, down] = self.world.lines.bytes();
        let stored = rows.last().map_or([0; 2], |row| row.stored);
        let real_s = rows.last().map_or(0.0, |row| row.real_s[0]);
        let count = |number| now(number) as f64;
        let [confirmed, reverted, declined] = tally.installs.each_ref().map(count);
        let counts = vec![
            ("devices", ended as f64),
            ("enrolled", count(&tally.enrolled)),
            ("real seconds", real_s),
            ("server, processor seconds", server.cpu_s),
            ("server, MiB at the end", mib(server.resident)),
            ("server, MiB at most", mib(server.peak)),
            ("simulator, processor seconds", own.cpu_s),
            ("simulator, MiB at most", mib(own.peak)),
            ("book, MiB", mib(stored[0])),
            ("adapters, MiB", mib(stored[1])),
            ("up, MiB", mib(up)),
            ("down, MiB", mib(down)),
            ("woken late", count(&tally.late)),
            ("clocks corrected", count(&tally.corrected)),
            ("power cuts", count(&tally.cuts)),
            ("downloads resumed", count(&tally.resumed)),
            ("told that they are suspended", count(&tally.suspended)),
            ("installs confirmed", confirmed),
            ("installs reverted", reverted),
            ("installs declined", declined),
            ("ever ran the bad release", count(&tally.ran_bad)),
            ("run it at the end", count(&tally.run_bad)),
        ];
        let story = told.story.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let setting = self.setting();
        Report {
            asked: self.scenario.asked.clone(),
            setting,
            rows,
            story,
            calls: tally.all(),
            counts,
        }
    }

    /// What a reader must know beside the numbers.
    fn setting(&self) -> String {
        let Scenario { devices, speed, shape, .. } = self.scenario;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let time = match *speed == 1.0 {
            true => "in real time, fleet-server serve as a process of its own".to_owned(),
            false => format!(
                "{speed} times as fast as real time: the server's library under a simulated clock, in a process of \
                 its own; latencies are real ones, everything else is simulated time"
            ),
        };
        format!(
            "{devices} devices, updates of {} numbers ({}), {time}. Servers and devices share {cores} cores. Each \
             call has a connection and a full TLS handshake of its own, as the real device's.",
            shape.numbers(),
            shape.name
        )
    }
}
