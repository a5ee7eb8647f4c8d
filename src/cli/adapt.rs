//! `sapwood adapt`: one job over the user's data, into a state folder.

use super::args::Adapt;
use super::chosen;
use super::console::Console;
use super::host;
use super::report::Page;
use anyhow::Context;
use sapwood::adapter::peft::{CONFIG_FILE, META_FILE, TENSORS_FILE};
use sapwood::base::Base;
use sapwood::block::Block;
use sapwood::intake;
use sapwood::learner::{self, Engines, Event, Material, Memory, Outcome, Plan, Tokens, spec};
use sapwood::ports::{Disk, StorageError};
use sapwood::settings::{Overrides, Reader, Settings};
use sapwood::state::{State, foreign};
use sapwood::tokenise::Tokeniser;
use serde_json::json;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where general text lies in a model folder that brings some.
const GENERAL: &str = "general.jsonl";
/// How often a folder in use is tried again: a killed process needs a moment to let go of it.
const LOCK_TRIES: usize = 10;
/// How long to wait in between.
const LOCK_WAIT: Duration = Duration::from_millis(100);
/// The state folder when nobody names one.
const STATE: &str = "sapwood-state";
/// Most passes over the data that one may ask for.
const EPOCHS_MAX: f64 = 10_000.0;
/// What lies in an adapter's folder, and may be replaced by another.
const ADAPTER_FILES: [&str; 3] = [CONFIG_FILE, TENSORS_FILE, META_FILE];
/// What lies in a state folder before anything was kept in it.
const UNUSED_FOLDERS: [&str; 2] = ["adapters", "learner"];
/// And its files.
const UNUSED_FILES: [&str; 3] = ["reservoir", "manifest.a", "lock"];

/// Learns, and says what came of it.
pub(crate) fn run(args: &Adapt, console: &mut Console) -> anyhow::Result<()> {
    let wishes = super::wishes(&args.learn, Reader::Adapt)?;
    let settings = Settings::default().merge(wishes.clone().together()?);
    settings.check()?;
    check_epochs(args.epochs)?;
    host::bind_threads(settings.threads, console)?;
    let model = chosen::model(settings.model.as_ref())?;
    let data = settings.data.as_deref().context("--data is missing: a folder, a file, or `-`")?;
    let folder = settings.state.clone().unwrap_or_else(|| PathBuf::from(STATE));
    settings.adapter_path.as_deref().map_or(Ok(()), check_adapter_place)?;
    // The cheap refusals come first: data and state are looked at before the model is loaded.
    let dataset = chosen::data(data)?;
    within(&folder, console, |state, console| {
        check_interrupted(state, settings.resume || args.discard)?;
        learn(args, wishes, (&settings, model, data), &dataset, state, console)
    })
}

/// Plans a job over the data, and runs it.
fn learn(
    args: &Adapt,
    wishes: Overrides,
    (settings, model, data): (&Settings, &Path, &Path),
    dataset: &intake::Dataset,
    state: &mut State,
    console: &mut Console,
) -> anyhow::Result<()> {
    let adapter_path = settings.adapter_path.as_deref();
    let base = Base::open(model)?;
    let config = base.config().clone();
    let plan = Plan::new(&config, state, wishes, settings.resume)?.passes(args.epochs);
    config.check_length(plan.settings().max_seq_length)?;
    let tokeniser = Tokeniser::open(model, config.vocab)?;
    for warning in tokeniser.warnings() {
        console.warn(&warning.to_string())?;
    }
    let general = general(args.general.as_deref(), model);
    let (name, key) = match &args.domain {
        Some(name) => (name.clone(), name.clone()),
        None => (chosen::name(data), chosen::key(data)),
    };
    let material =
        material(&tokeniser, dataset, (name, key), general.as_deref(), plan.settings(), console)?;
    material.check()?;
    let settings = planned(plan, &base, &material, console)?;
    let page = |path| {
        let line = learner::plan_line(&settings, &config, material.train.len());
        Page::new(path, &settings, line)
    };
    let mut page = args.report.as_deref().map(page).transpose()?;
    let spec = spec(&config, &settings)?.over(state.ranks());
    let memory = Memory::estimate(&base, &spec, &settings, Tokens::of(&material, state));
    let engines = Engines::of(base, model, &settings, (memory, host::available_bytes()))?;
    let outcome = job(&engines, state, &material, &settings, console, &mut |event| {
        if let Some(page) = &mut page {
            page.take(event);
        }
    });
    // A job that failed or stopped has its page too; its own error is the one that is told.
    let written = page.map_or(Ok(()), |page| page.write());
    let outcome = outcome?;
    written.context("the job is done, its page is not")?;
    if let (Some(path), Outcome::Judged { verdict, .. }) = (adapter_path, &outcome) {
        if verdict.keeps() {
            write_adapter(state, path)?;
            console.line(&format!("adapter written to {}", path.display()))?;
        } else {
            console
                .warn(&format!("{} was not written: the adapter was dropped", path.display()))?;
        }
    }
    Ok(())
}

/// Passes over the data are some.
fn check_epochs(epochs: Option<f64>) -> anyhow::Result<()> {
    match epochs {
        Some(epochs) if !(epochs > 0.0 && epochs <= EPOCHS_MAX) => {
            anyhow::bail!("--epochs: expected more than 0 and at most {EPOCHS_MAX}, got {epochs}")
        }
        _ => Ok(()),
    }
}

/// Refuses to start where a job was interrupted and nobody said what becomes of it.
fn check_interrupted(state: &State, is_said: bool) -> anyhow::Result<()> {
    match state.take_checkpoint()?.filter(|_| !is_said) {
        None => Ok(()),
        Some(checkpoint) => anyhow::bail!(
            "the state folder holds a job that was interrupted at its step {}: expected --resume to go \
             on with it, or --discard to give it up; nothing was changed",
            checkpoint.learner.cursor.step
        ),
    }
}

/// Works with a state folder; one that was made for it goes again if the work fails and nothing is kept.
pub(crate) fn within<T>(
    folder: &Path,
    console: &mut Console,
    work: impl FnOnce(&mut State, &mut Console) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let is_new = !folder.exists();
    let mut state = open(folder, console)?;
    let outcome = work(&mut state, console);
    if outcome.is_err() && is_new && state.is_unused() {
        // The error that is told is the work's. The lock is held until the end.
        let _ = remove_unused(folder);
    }
    outcome
}

/// Removes what opening a state folder, and a job that kept nothing, made; anything else stays.
fn remove_unused(folder: &Path) -> io::Result<()> {
    for name in UNUSED_FOLDERS {
        fs::remove_dir(folder.join(name))?;
    }
    for name in UNUSED_FILES {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir(folder)
}

/// Where general text lies: as named, or in the model folder.
pub(crate) fn general(named: Option<&Path>, model: &Path) -> Option<PathBuf> {
    match named {
        Some(path) => Some(path.to_owned()),
        None => Some(model.join(GENERAL)).filter(|path| path.is_file()),
    }
}

/// The settings that data, base and processor ask for; they are told in one line.
pub(crate) fn planned(
    plan: Plan,
    base: &Base,
    material: &Material,
    console: &Console,
) -> anyhow::Result<Settings> {
    let blocks = material.train.len();
    let tokens = material.train.iter().map(|block| block.tokens.len()).sum();
    let threads = learner::threads(plan.settings());
    let mut settings = plan.fit(blocks, tokens, threads);
    settings.check()?;
    settings.matmul_precision = learner::precision(base, &settings);
    let line = learner::plan_line(&settings, base.config(), blocks);
    // Whoever has gone is met again by the job's first report, which stops where it can go on.
    let _ = console.result(&json!({ "event": "plan", "settings": settings, "line": line }), &line);
    Ok(settings)
}

/// Opens a state folder for this process alone; what recovery found is told.
pub(crate) fn open(folder: &Path, console: &Console) -> anyhow::Result<State> {
    check_own(folder)?;
    let disk = exclusive(folder)?;
    if let Some(notice) = disk.access().notice() {
        console.warn(notice)?;
    }
    let state = State::open(Arc::new(disk))
        .with_context(|| format!("state folder {}", folder.display()))?;
    let recovery = state.recovery();
    for line in recovery.fell_back.iter().chain(&recovery.checkpoint_lost) {
        console.warn(line)?;
    }
    Ok(state)
}

/// Takes the folder's lock; one that a process just killed still holds is waited for.
fn exclusive(folder: &Path) -> anyhow::Result<Disk> {
    for _ in 0..LOCK_TRIES {
        match Disk::exclusive(folder) {
            Err(StorageError::Locked { .. }) => wait(),
            other => return Ok(other?),
        }
    }
    Ok(Disk::exclusive(folder)?)
}

#[expect(clippy::disallowed_methods, reason = "the command may wait for its user's sake")]
fn wait() {
    std::thread::sleep(LOCK_WAIT);
}

/// Refuses a folder of other things, which a mistyped name may lead to.
fn check_own(folder: &Path) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<io::Result<_>>()?;
    match foreign(&names, &[]) {
        None => Ok(()),
        Some(name) => anyhow::bail!(
            "{} is no state folder, it holds {name}: expected an empty folder or a new one; nothing was changed",
            folder.display()
        ),
    }
}

/// Data as blocks under the name and the key of its domain, with general text for the gate when there is some.
pub(crate) fn material(
    tokeniser: &Tokeniser,
    dataset: &intake::Dataset,
    (name, key): (String, String),
    general: Option<&Path>,
    settings: &Settings,
    console: &Console,
) -> anyhow::Result<Material> {
    chosen::tell_skipped(dataset, console)?;
    let blocks = |examples: &[intake::Example], part: &str| -> anyhow::Result<Vec<Block>> {
        if examples.is_empty() {
            return Ok(Vec::new());
        }
        let warn = |text: &str| console.warn(&format!("{part}: {text}"));
        Ok(chosen::part(tokeniser, examples, settings, part, warn)?.blocks)
    };
    let (held_out, words) = chosen::held_out(dataset, &name)?;
    let general = match general {
        Some(path) => {
            let data = chosen::data(path)?;
            blocks(&[data.train, data.valid, data.test].concat(), "general text")?
        }
        None => Vec::new(),
    };
    Ok(Material {
        train: blocks(&dataset.train, "train")?,
        valid: blocks(held_out, words)?,
        hash: dataset.hash,
        general,
        start: tokeniser.opening(),
        name,
        key,
    })
}

/// Runs a job with the console as its listener; `also` hears of everything before it.
pub(crate) fn job(
    engines: &Engines,
    state: &mut State,
    material: &Material,
    settings: &Settings,
    console: &mut Console,
    also: &mut dyn FnMut(&Event),
) -> anyhow::Result<Outcome> {
    let mut failed = None;
    let mut tell = |event: &Event| {
        also(event);
        match console.event(event) {
            Ok(()) => ControlFlow::Continue(()),
            // Nobody reads any more: stop where the job can go on later.
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let outcome = learner::adapt(engines, state, material, settings, &mut tell)?;
    match (failed, &outcome) {
        (None, _) => Ok(outcome),
        (Some(error), Outcome::Stopped) => {
            Err(error).context("cannot report progress; go on with --resume")
        }
        (Some(error), Outcome::Judged { generation, verdict, .. }) => {
            let kept = if verdict.keeps() { "kept" } else { "dropped" };
            let number = generation.map_or("none".to_owned(), |number| number.to_string());
            Err(error).with_context(|| {
                format!(
                    "the job is done and was {kept}, generation in use: {number}; its report could not \
                     be written"
                )
            })
        }
    }
}

/// Refuses a place at which anything but our own files would have to go, or where no folder can be made.
fn check_adapter_place(folder: &Path) -> anyhow::Result<()> {
    let fresh = fresh(folder)?;
    check_only_adapter(folder)?;
    check_only_adapter(&fresh)?;
    fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    // What an earlier run left in it goes when the adapter is written.
    let _ = fs::remove_dir(&fresh);
    Ok(())
}

/// Where an adapter is written before it takes its place.
fn fresh(folder: &Path) -> anyhow::Result<PathBuf> {
    let name = folder.file_name().context("--adapter-path: expected a folder's name")?;
    let mut fresh = name.to_owned();
    fresh.push(".new");
    Ok(folder.with_file_name(fresh))
}

/// Passes a folder that is not there, or that holds nothing but files of an adapter.
fn check_only_adapter(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => {
            let found = found.with_context(|| format!("cannot look at {shown}"))?;
            anyhow::ensure!(found.is_dir(), "{shown} is no folder of its own; it is unchanged");
        }
    }
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {shown}"))? {
        let name = entry?.file_name();
        let ours = ADAPTER_FILES.iter().any(|&own| name == own);
        let other = name.to_string_lossy();
        anyhow::ensure!(
            ours,
            "{shown} holds {other}, which is not of an adapter of ours: expected {}, or a folder that is new or empty; it is unchanged",
            ADAPTER_FILES.join(", ")
        );
    }
    Ok(())
}

/// Removes an adapter's folder, file by file: what came in meanwhile keeps it in place.
fn remove_adapter(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for name in ADAPTER_FILES {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir(folder)
}

/// Writes the adapter in use to a folder of the user's, whole or not at all.
fn write_adapter(state: &State, folder: &Path) -> anyhow::Result<()> {
    let current = state.current().context("nothing is committed")?;
    let files = state.adapter(current.number)?;
    check_adapter_place(folder)?;
    let fresh = fresh(folder)?;
    let failed = |what: &str, path: &Path| format!("cannot {what} {}", path.display());
    remove_adapter(&fresh).with_context(|| failed("remove what was left of", &fresh))?;
    fs::create_dir_all(&fresh).with_context(|| failed("make", &fresh))?;
    for (name, bytes) in files {
        let path = fresh.join(name);
        fs::write(&path, bytes).with_context(|| failed("write", &path))?;
    }
    remove_adapter(folder).with_context(|| failed("replace", folder))?;
    fs::rename(&fresh, folder).with_context(|| failed("rename to", folder))
}
