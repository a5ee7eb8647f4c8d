//! The long-running program, and one job without it.
//!
//! - The order: signals, state folder, base, servers, ways in, ready; then the worker until it is told
//!   to end; then servers and ways in end, the state folder last. Nothing is acknowledged before the
//!   inbox is open or after it is closed.

use super::cli;
use super::own;
use super::stop::Stop;
use anyhow::Context as _;
use firmware_host::clock::{Clock, SystemClock};
use firmware_host::config::{Config, Serve};
use firmware_host::device::{Handle, Order, Pace, Worker, World};
use firmware_host::intake::folder::Manner;
use firmware_host::intake::{self, Context};
use firmware_host::probe::SystemProbes;
use firmware_host::serve;
use firmware_host::service::Notifier;
use firmware_host::status::{JobReport, Phase, Status};
use firmware_host::supervise::Supervisor;
use firmware_host::sync::{self, Store};
use jiff::tz::TimeZone;
use sapwood::intake::Sample;
use sapwood::ports::Storage;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of text that one token stands for, about: what a file is cut into fills a block.
const BYTES_A_TOKEN: usize = 4;

/// Runs until it is told to end.
///
/// # Errors
/// What keeps the program from starting, or from going on.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    serve::check(&config.serve)?;
    let supervisor = Supervisor::default();
    let stop = Stop::on_signals(&supervisor).context("cannot listen to signals")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    sync::check(&config.fleet)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let (worker, handle, storage) = open(config, clock.clone())?;
    let notifier = Notifier::start(handle.board().clone(), &supervisor)
        .context("cannot watch over progress")?;
    end_when_broken(&supervisor, &handle);
    obey(&stop, &handle, &supervisor)?;
    let settings = Serve { socket: Some(cli::socket(config)?), ..config.serve.clone() };
    let ended = Arc::new(AtomicBool::new(false));
    let fleet = fleet(config, &handle, &clock, &supervisor, &ended)?;
    let server = serve::start(&settings, handle.clone(), clock.clone(), &supervisor)?;
    let ways = ways_in(config, (&handle, storage), &clock, &supervisor, &ended)?;
    let addresses = server.addresses();
    let socket = addresses.socket.as_ref().map(|path| path.display().to_string());
    tracing::info!(listen = %addresses.tcp, socket, "serving");
    notifier.ready();
    let worker = supervisor.start("worker", move || worker.live());
    let lived = worker.context("cannot start the worker")?.join();
    notifier.stopping();
    handle.board().update(|status| status.phase = Phase::Stopping);
    ended.store(true, Ordering::Relaxed);
    server.stop();
    for way in ways.into_iter().chain(fleet) {
        // What it could say it has logged.
        let _ = way.join();
    }
    if let Some(broken) = supervisor.broken() {
        return Err(broken.into());
    }
    // A worker that lived to its end says how; one that did not is broken.
    if let Ok(Some(lived)) = lived {
        lived?;
    }
    tracing::info!("ended");
    Ok(())
}

/// Whatever thread breaks off: the device says so, and ends in order.
fn end_when_broken(supervisor: &Supervisor, handle: &Handle) {
    let handle = handle.clone();
    supervisor.on_break(move |broken| {
        handle.board().update(|status| status.fault = Some(broken.to_string()));
        // A worker that is gone needs no order.
        let _ = handle.order(Order::Stop);
    });
}

/// Takes the state folder for this process, recovers it, loads the base.
fn open(
    config: &Config,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<(Worker, Handle, Arc<dyn Storage>)> {
    let state = cli::state(config)?;
    let storage = Arc::new(own::disk(config)?);
    if let Some(notice) = storage.access().notice() {
        tracing::warn!(state = %state.display(), "{notice}");
    }
    let probes = Box::new(SystemProbes::new(config.probes.clone(), state.to_owned()));
    let world = World { storage: storage.clone(), clock, probes };
    let (worker, handle) = Worker::open(config.clone(), world, TimeZone::system())?;
    Ok((worker, handle, storage))
}

/// Hands the order to end on to the worker.
fn obey(stop: &Stop, handle: &Handle, supervisor: &Supervisor) -> anyhow::Result<()> {
    let (stop, handle) = (stop.clone(), handle.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let wait = move || {
        runtime.block_on(stop.told());
        // A worker that is gone needs no order.
        let _ = handle.order(Order::Stop);
    };
    supervisor.start("obey", wait).context("cannot wait for signals")?;
    Ok(())
}

/// Starts the device's side of a fleet, where the configuration lets it have one.
fn fleet(
    config: &Config,
    handle: &Handle,
    clock: &Arc<dyn Clock>,
    supervisor: &Supervisor,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<Option<JoinHandle<Option<()>>>> {
    let Some(folder) = config.fleet_folder().filter(|_| config.fleet.enabled) else {
        return Ok(None);
    };
    let store = Store::exclusive(&folder)?;
    let world = sync::World::new(Arc::new(handle.clone()), clock.clone());
    let (board, stop) = (handle.board().clone(), stop.clone());
    let (fleet, thread) =
        sync::start((store, config.fleet.clone()), world, board, stop, supervisor)
            .context("cannot start the fleet's thread")?;
    handle.follow(fleet);
    Ok(Some(thread))
}

/// Starts the ways in besides HTTP.
fn ways_in(
    config: &Config,
    (handle, storage): (&Handle, Arc<dyn Storage>),
    clock: &Arc<dyn Clock>,
    supervisor: &Supervisor,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<Vec<JoinHandle<Option<()>>>> {
    let context = || {
        let counters = handle.board().counters().clone();
        let (clock, supervisor, stop) = (clock.clone(), supervisor.clone(), stop.clone());
        Context { counters, clock, supervisor, stop }
    };
    let sink = || {
        let handle = handle.clone();
        move |samples: &[&Sample]| handle.offer(samples)
    };
    let mut ways = Vec::new();
    if let Some(folder) = &config.intake.watch {
        let manner = Manner {
            folder: folder.clone(),
            every: Duration::from_secs_f64(config.intake.watch_seconds),
            quiet: Duration::from_secs_f64(config.intake.watch_quiet_seconds),
            kept: config.intake.watch_files_kept,
            piece_bytes: BYTES_A_TOKEN * config.learn.max_seq_length,
        };
        ways.push(intake::folder::start(manner, storage, context(), sink())?);
    }
    for line in &config.intake.serial {
        ways.push(intake::serial::start(line.clone(), context(), sink())?);
    }
    Ok(ways)
}

/// Learns what waits in the inbox, where no program runs that could be told to; what came of it.
///
/// # Errors
/// What the learner refuses, or why no job may run.
pub(crate) fn job_in_foreground(config: &Config) -> anyhow::Result<JobReport> {
    let supervisor = Supervisor::default();
    let stop = Stop::on_signals(&supervisor).context("cannot listen to signals")?;
    let (mut worker, handle, _) = open(config, Arc::new(SystemClock::start()))?;
    end_when_broken(&supervisor, &handle);
    obey(&stop, &handle, &supervisor)?;
    handle.order(Order::JobNow)?;
    // A run is told apart by its number: the list of the last ones grows no longer than it is.
    let before = handle.status();
    let pace = worker.tick()?;
    let status = handle.status();
    let last = |status: &Status| status.jobs.last().map(|job| job.number);
    if last(&status) != last(&before)
        && let Some(report) = status.jobs.last()
    {
        return Ok(report.clone());
    }
    anyhow::ensure!(pace != Pace::End, "told to end before the job began");
    let is_aside = status.inbox.aside > before.inbox.aside;
    anyhow::ensure!(!is_aside, "no job: nothing can be learned from the samples; see `aside list`");
    anyhow::ensure!(status.inbox.samples > 0, "no job: nothing waits in the inbox");
    anyhow::bail!("no job: {}", status.waiting_for)
}
