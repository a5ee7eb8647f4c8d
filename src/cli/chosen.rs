//! What several subcommands let the user choose: a model, an adapter, data.

use super::args::Choice;
use super::console::Console;
use anyhow::Context;
use sapwood::adapter::Adapter;
use sapwood::adapter::layout;
use sapwood::adapter::peft::{self, Files, Meta};
use sapwood::base::place::expect_folder;
use sapwood::base::{Base, Config};
use sapwood::block::Block;
use sapwood::intake::{self, Dataset, Skipped};
use sapwood::learner::Engines;
use sapwood::ports::Disk;
use sapwood::settings::{MatmulPrecision, Settings};
use sapwood::state::State;
use sapwood::tokenise::{Blocks, Tokeniser};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most files that are named one by one as passed over.
const TOLD_MAX: usize = 5;

/// The model folder, which every command needs.
pub(crate) fn model(given: Option<&PathBuf>) -> anyhow::Result<&Path> {
    let model = given
        .map(PathBuf::as_path)
        .context("--model is missing: the folder of a model (see `sapwood export`)")?;
    expect_folder(model).context("--model")?;
    Ok(model)
}

/// Data from a path, or from standard input when it is `-`.
pub(crate) fn data(path: &Path) -> anyhow::Result<Dataset> {
    Ok(match path.as_os_str() == "-" {
        true => intake::read(io::stdin().lock(), "standard input")?,
        false => intake::open(path)?,
    })
}

/// The same with nothing held out that has no file of its own.
pub(crate) fn whole(path: &Path) -> anyhow::Result<Dataset> {
    Ok(match path.as_os_str() == "-" {
        true => intake::read_whole(io::stdin().lock(), "standard input")?,
        false => intake::open_whole(path)?,
    })
}

/// What a job is judged by, and what that is called; refused where there is none.
pub(crate) fn held_out<'d>(
    data: &'d Dataset,
    name: &str,
) -> anyhow::Result<(&'d [intake::Example], &'static str)> {
    let part = match (&data.valid[..], &data.test[..]) {
        ([], test) => (test, "test"),
        (valid, _) if data.held_out == intake::HeldOut::Given => (valid, "valid"),
        (valid, _) => (valid, "the held-out end of the data"),
    };
    anyhow::ensure!(
        !part.0.is_empty(),
        "{name} has one example only: the gate needs text that is held out (a valid.jsonl, or more examples)"
    );
    Ok(part)
}

/// What is scored of data that nobody learns from: its test text, else its own validation text, else all.
pub(crate) fn to_score(data: Dataset) -> Vec<intake::Example> {
    match (&data.test[..], &data.valid[..]) {
        ([], []) => data.train,
        ([], _) => data.valid,
        (test, _) => test.to_vec(),
    }
}

/// Tells of the files of a data set that are not text.
pub(crate) fn tell_skipped(data: &Dataset, console: &Console) -> io::Result<()> {
    for Skipped { path, why } in data.skipped.iter().take(TOLD_MAX) {
        console.warn(&format!("{} was passed over: {why}", path.display()))?;
    }
    match data.skipped.len().saturating_sub(TOLD_MAX) {
        0 => Ok(()),
        more => console.warn(&format!("{more} more were passed over")),
    }
}

/// What a data set is called in reports: the last part of its path.
pub(crate) fn name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "stdin".to_owned();
    }
    let stem = path.file_stem().or(path.file_name());
    stem.map_or_else(|| "data".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// What makes a data set's domain this one and no other: where it lies. Two folders with the same last
/// part are two domains.
pub(crate) fn key(path: &Path) -> String {
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    place.to_string_lossy().into_owned()
}

/// An adapter folder in PEFT's layout or in mlx-lm's, told by its configuration.
pub(crate) fn adapter_at(
    folder: &Path,
    config: &Config,
    base_hash: Option<[u8; 32]>,
) -> anyhow::Result<(Adapter, Option<Meta>)> {
    let file = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).with_context(|| format!("cannot read {} of the adapter", path.display()))
    };
    let config_bytes = file(peft::CONFIG_FILE)?;
    let tensors = file(layout::tensors_file(&config_bytes))?;
    let meta = match folder.join(peft::META_FILE).exists() {
        true => Some(file(peft::META_FILE)?),
        false => None,
    };
    let files = Files { config: &config_bytes, tensors: &tensors, meta: meta.as_deref() };
    layout::read(files, config, base_hash).with_context(|| format!("adapter {}", folder.display()))
}

/// A state folder to look into: none is made, nothing is changed.
pub(crate) fn look(folder: &Path, console: &Console) -> anyhow::Result<State> {
    let named = folder.display();
    anyhow::ensure!(folder.exists(), "there is no state folder {named}; `sapwood adapt` makes one");
    let state = State::look(Arc::new(Disk::look(folder)?));
    let state = state.with_context(|| format!("state folder {named}"))?;
    state.recovery().fell_back.iter().try_for_each(|line| console.warn(line))?;
    Ok(state)
}

/// The adapter that `--adapter-path` or `--state` names, or none.
pub(crate) fn adapter(
    choice: &Choice,
    base: &Base,
    console: &Console,
) -> anyhow::Result<Option<Adapter>> {
    if let Some(folder) = &choice.adapter_path {
        return Ok(Some(adapter_at(folder, base.config(), Some(base.hash()))?.0));
    }
    let Some(folder) = &choice.state else { return Ok(None) };
    let Some(place) = committed(folder, console)? else { return Ok(None) };
    Ok(Some(adapter_at(&place, base.config(), Some(base.hash()))?.0))
}

/// Where the committed slow adapter of a state folder lies; none after a rollback to the bare base.
pub(crate) fn committed(folder: &Path, console: &Console) -> anyhow::Result<Option<PathBuf>> {
    let state = look(folder, console)?;
    let Some(current) = state.current() else {
        // A rollback to generation 0 is the user's wish for the bare base.
        if !state.generations().is_empty() {
            return Ok(None);
        }
        anyhow::bail!("{} holds no committed adapter yet", folder.display());
    };
    Ok(Some(folder.join("adapters").join(current.number.to_string())))
}

/// The adapter folder that `path` is, or that the committed slow adapter of this state folder has.
pub(crate) fn adapter_place(path: &Path, console: &Console) -> anyhow::Result<PathBuf> {
    if path.join(peft::CONFIG_FILE).is_file() {
        return Ok(path.to_owned());
    }
    committed(path, console)?.with_context(|| format!("{} stands on the bare base", path.display()))
}

/// Settings of a command that does not learn: everything in the head, blocks of `tokens`, and the highest
/// precision, so that a score is the same on every machine.
pub(crate) fn settings(choice: &Choice, tokens: usize) -> anyhow::Result<Settings> {
    let settings = Settings {
        num_layers: -1,
        max_seq_length: tokens,
        device: choice.device,
        threads: choice.threads,
        matmul_precision: MatmulPrecision::Highest,
        ..Settings::default()
    };
    settings.check()?;
    Ok(settings)
}

/// Blocks of some examples; the warnings go to the console.
pub(crate) fn blocks(
    tokeniser: &Tokeniser,
    examples: &[intake::Example],
    settings: &Settings,
    domain: u32,
    mut warn: impl FnMut(&str) -> io::Result<()>,
) -> anyhow::Result<Vec<Block>> {
    let made = tokeniser.blocks(examples, settings.max_seq_length, settings.mask_prompt, domain)?;
    for warning in made.report.warnings() {
        warn(&warning.to_string())?;
    }
    Ok(made.blocks)
}

/// The same of a part of the data, whose name an error says.
pub(crate) fn part(
    tokeniser: &Tokeniser,
    examples: &[intake::Example],
    settings: &Settings,
    name: &str,
    mut warn: impl FnMut(&str) -> io::Result<()>,
) -> anyhow::Result<Blocks> {
    let made = tokeniser.blocks(examples, settings.max_seq_length, settings.mask_prompt, 0);
    let made = made.with_context(|| name.to_owned())?;
    for warning in made.report.warnings() {
        warn(&warning.to_string())?;
    }
    Ok(made)
}

/// The tokenizer of a loaded model.
pub(crate) fn tokeniser(model: &Path, engines: &Engines) -> anyhow::Result<Tokeniser> {
    Ok(Tokeniser::open(model, engines.base.config().vocab)?)
}
