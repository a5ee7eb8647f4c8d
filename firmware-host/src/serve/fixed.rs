//! The port of serving over a model folder and adapters that stay as they are: nothing is learned.
//!
//! - In: a model folder, adapters by their names. Out: a model of each name, `base` for the bare base, and
//!   `NAME@7` for each generation that a state folder keeps.
//! - An adapter of a name is read once, before anything is served; generations when they are asked for.
//! - Never here: a worker, an inbox, any change of a folder.

use super::model::Snapshot;
use super::{Device, Model, ModelError, scoring};
use crate::config::{ConfigError, Serve};
use crate::device::kept::{self, KeptError};
use crate::device::{Bounds, Current, Served};
use crate::status::{Board, Phase};
use crate::wire::{self, BASE, Listed, MODEL_BYTES_MAX};
use sapwood::adapter::peft::CONFIG_FILE;
use sapwood::base::Base;
use sapwood::gate::Tally;
use sapwood::intake::{Talk, Turn};
use sapwood::learner::{Engines, LearnError, Memory, Serving};
use sapwood::ports::Storage;
use sapwood::settings::Settings;
use sapwood::state::StateError;
use sapwood::tokenise::{TokeniseError, Tokeniser};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An adapter to serve, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// A folder of PEFT or mlx-lm, or a state folder for its slow adapter in use.
    pub place: PathBuf,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum FixedError {
    /// A name that is none, or is there already.
    #[error("--adapter-path: {expected}, got the name {name:?}; nothing was started")]
    Name {
        /// The name.
        name: String,
        /// What it may be.
        expected: String,
    },
    /// An adapter that cannot be read.
    #[error("--adapter-path: {}: {source}; nothing was started", place.display())]
    Adapter {
        /// Its folder.
        place: PathBuf,
        /// What is wrong with it.
        source: KeptError,
    },
    /// More memory needed than there is.
    #[error(
        "serving needs about {needed} bytes of memory, {available} can be had; nothing was started \
         (fewer adapters, a smaller `prompt-cache-bytes`, `adapters-max`, `concurrency` or `tokens-max` help)"
    )]
    Memory {
        /// The estimate.
        needed: u64,
        /// What the host says.
        available: u64,
    },
    /// The base.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenise(#[from] TokeniseError),
    /// Another name for no model.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// An adapter that was read.
struct Entry {
    name: String,
    about: String,
    current: Current,
    state: Option<Kept>,
}

/// The state folder that an adapter is of.
struct Kept {
    disk: Arc<dyn Storage>,
    /// The generations that it keeps.
    numbers: Vec<u64>,
}

/// An adapter that is served.
struct Shown {
    listed: Listed,
    current: Arc<Current>,
    state: Option<Kept>,
}

/// A base and adapters that stay as they are.
pub struct Fixed {
    served: Arc<Served>,
    board: Board,
    /// The first answers where no model is named.
    shown: Vec<Shown>,
    talks: bool,
}

impl Fixed {
    /// Reads the adapters and loads the base; refused where it cannot fit `memory_bytes`, as far as that is
    /// known.
    ///
    /// # Errors
    /// [`FixedError`]: nothing is served.
    pub fn open(
        model: &Path,
        adapters: &[Named],
        settings: &Settings,
        serve: &Serve,
        memory_bytes: Option<u64>,
    ) -> Result<Self, FixedError> {
        check_names(adapters)?;
        let base = Base::open(model).map_err(LearnError::from)?;
        let entries = adapters.iter().map(|named| entry(named, &base));
        let entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
        let memory = Memory::of_serving(&base, settings, serving(&entries, serve));
        if let Some(available) = memory_bytes.filter(|&available| memory.total() > available) {
            return Err(FixedError::Memory { needed: memory.total(), available });
        }
        let engines = Engines::of(base, model, settings, (memory, None))?;
        let tokeniser = Tokeniser::open(model, engines.base.config().vocab)?;
        let talk = Talk { turns: vec![Turn::plain("user", "a")], ..Talk::default() };
        let talks = tokeniser.encode_chat(&talk, "").is_ok();
        let bounds = Bounds {
            prompt_cache_bytes: serve.prompt_cache_bytes,
            adapters: serve.adapters_max,
            block_tokens: settings.max_seq_length,
        };
        let mut served = Served::new(engines, tokeniser, Current::default(), bounds);
        let shown = |Entry { name, about, current, state }| {
            let generation = current.generation;
            let listed = Listed { id: name, about, generation, ..Listed::default() };
            Shown { listed, current: served.pin(current), state }
        };
        let shown = entries.into_iter().map(shown).collect();
        let board = Board::default();
        let name = model.file_name().map(|name| name.to_string_lossy().into_owned());
        board.update(|status| {
            status.version = env!("CARGO_PKG_VERSION");
            status.model = name.unwrap_or_default();
            status.phase = Phase::Waiting;
            status.waiting_for = "nothing is learned here".to_owned();
        });
        let fixed = Self { served: Arc::new(served), board, shown, talks };
        fixed.check_aliases(serve)?;
        Ok(fixed)
    }

    /// Whether the model has a template for conversations.
    pub fn talks(&self) -> bool {
        self.talks
    }

    /// Refuses another name that stands for no model, or takes the place of one.
    fn check_aliases(&self, serve: &Serve) -> Result<(), ConfigError> {
        let all = self.models();
        let has = |name: &String| all.iter().any(|one| one.id == *name);
        match serve.aliases.iter().find(|(name, model)| has(name) || !has(model)) {
            Some((name, model)) => {
                let known: Vec<&str> = all.iter().map(|one| one.id.as_str()).collect();
                let expected = format!("other names for {}", known.join(", "));
                Err(ConfigError::range(
                    "serve.aliases",
                    expected,
                    format!("{name:?} for {model:?}"),
                ))
            }
            None => Ok(()),
        }
    }

    /// The adapter of that name, and the generation of it that is asked for if one is.
    fn find(&self, id: &str) -> Option<(&Shown, Option<u64>)> {
        self.shown.iter().find_map(|one| {
            let name = one.listed.id.as_str();
            if name == id {
                return Some((one, None));
            }
            let number = wire::generation_of(name, id)?;
            let kept = one.state.as_ref()?.numbers.contains(&number);
            kept.then_some((one, Some(number)))
        })
    }

    /// What a model of that name is.
    fn at(&self, id: &str) -> Result<Arc<Current>, ModelError> {
        if id == BASE {
            return Ok(Arc::default());
        }
        let unknown = || ModelError::Unknown { id: id.to_owned() };
        let (shown, number) = self.find(id).ok_or_else(unknown)?;
        match (number, &shown.state) {
            (Some(number), Some(state)) if shown.current.generation != Some(number) => {
                let base = &self.served.engines.base;
                let read = || kept::generation(state.disk.clone(), number, base);
                self.served.named(id, read).map_err(|error| match error {
                    KeptError::State(StateError::Unknown { .. }) => unknown(),
                    error => ModelError::Failed(Box::new(error)),
                })
            }
            _ => Ok(shown.current.clone()),
        }
    }
}

impl Device for Fixed {
    fn board(&self) -> &Board {
        &self.board
    }

    fn models(&self) -> Vec<Listed> {
        let base =
            Listed { id: BASE.to_owned(), about: "the bare base".to_owned(), ..Listed::default() };
        let kept = self.shown.iter().flat_map(|one| {
            let numbers = one.state.iter().flat_map(|state| &state.numbers);
            numbers.map(|&number| Listed {
                id: wire::kept(&one.listed.id, number),
                about: format!("generation {number} of {}", one.listed.id),
                generation: Some(number),
                ..Listed::default()
            })
        });
        self.shown.iter().map(|one| one.listed.clone()).chain([base]).chain(kept).collect()
    }

    fn model(&self, id: &str) -> Result<Arc<dyn Model>, ModelError> {
        Ok(Arc::new(Snapshot::new(&self.served, self.at(id)?)))
    }

    fn compare(
        &self,
        ids: [&str; 2],
        texts: Option<&[String]>,
        going: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<[Tally; 2], ModelError> {
        let (first, second) = (self.at(ids[0])?, self.at(ids[1])?);
        let pair = [&*first, &*second];
        if let Some(texts) = texts {
            return scoring::texts(&self.served, pair, texts, going);
        }
        let of = |id: &&str| self.find(id).and_then(|(shown, _)| shown.state.as_ref());
        let state = ids.iter().find_map(of).ok_or(ModelError::NoText)?;
        let held_out = kept::held_out(state.disk.clone());
        let held_out = held_out.map_err(|error| ModelError::Failed(Box::new(error)))?;
        scoring::blocks(&self.served, pair, &held_out, going)
    }
}

/// Each adapter has a name of its own, which is no generation's.
fn check_names(adapters: &[Named]) -> Result<(), FixedError> {
    for (at, Named { name, .. }) in adapters.iter().enumerate() {
        let is_name = (1..=MODEL_BYTES_MAX).contains(&name.len())
            && name.trim() == name
            && !name.contains('@')
            && !name.contains(char::is_control);
        let expected = match () {
            () if !is_name => format!("expected a name of 1 to {MODEL_BYTES_MAX} bytes without @"),
            () if name == BASE => "expected another name than that of the bare base".to_owned(),
            () if adapters[..at].iter().any(|other| other.name == *name) => {
                "expected each adapter under a name of its own (NAME=PATH)".to_owned()
            }
            () => continue,
        };
        return Err(FixedError::Name { name: name.clone(), expected });
    }
    Ok(())
}

/// Reads an adapter: of PEFT or mlx-lm where the folder has their configuration, else of a state folder.
fn entry(named: &Named, base: &Base) -> Result<Entry, FixedError> {
    let Named { name, place } = named;
    let failed = |source| FixedError::Adapter { place: place.clone(), source };
    let shown = place.display();
    if place.join(CONFIG_FILE).is_file() {
        let adapter = Some(kept::adapter(place, base).map_err(failed)?);
        let current = Current { adapter, ..Current::default() };
        let about = format!("the adapter of {shown}");
        return Ok(Entry { name: name.clone(), about, current, state: None });
    }
    let disk = kept::folder(place).map_err(failed)?;
    let (number, numbers) = kept::numbers(disk.clone()).map_err(failed)?;
    let current = kept::generation(disk.clone(), number, base).map_err(failed)?;
    let about = format!("generation {number} of {shown}");
    Ok(Entry { name: name.clone(), about, current, state: Some(Kept { disk, numbers }) })
}

/// What serving takes at most: every adapter that was named, and as many others as may be held.
fn serving(entries: &[Entry], serve: &Serve) -> Serving {
    let numbers = |entry: &Entry| entry.current.adapter.as_ref().map_or(0, |a| a.values.len());
    let largest = entries.iter().map(numbers).max().unwrap_or(0);
    let has_kept = entries.iter().any(|entry| entry.state.is_some());
    let others = if has_kept { serve.adapters_max * largest } else { 0 };
    let own: usize = entries.iter().map(numbers).sum();
    Serving {
        prompt_cache_bytes: serve.prompt_cache_bytes,
        adapter_numbers: (own + others) as u64,
        texts: serve.concurrency,
        tokens: serve.tokens_max,
    }
}
