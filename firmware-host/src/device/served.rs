//! The model as it is served: the resident base, its tokenizer, and the adapter of the generation in use.
//!
//! - A commit swaps the adapter at once; a text that is being written keeps the one it began with.
//! - Adapters of other names are read when they are asked for, and a few of them are kept.
//! - Invariant: what is kept of a text is found by texts of the same adapter alone, known by its number.

use super::shelf::Shelf;
use sapwood::adapter::Adapter;
use sapwood::constrain::Constrainer;
use sapwood::generate::Prompts;
use sapwood::learner::Engines;
use sapwood::state::{Global, Since};
use sapwood::tokenise::{Spelling, TokeniseError, Tokeniser, Tools};
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// What is in use at one moment.
#[derive(Debug, Default)]
pub struct Current {
    /// The generation; none for the bare base.
    pub generation: Option<u64>,
    /// Its slow adapter.
    pub adapter: Option<Adapter>,
    /// The global adapter that it stands on: the first ranks.
    pub global: Option<Global>,
    /// What was learned since that was installed.
    pub since: Since,
    /// Whose the texts are that it writes: another number for each that comes into use, 0 for the bare base.
    pub whose: u64,
}

/// How much is kept for texts to come.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of keys and values of earlier texts.
    pub prompt_cache_bytes: u64,
    /// Adapters beside the one in use.
    pub adapters: usize,
    /// Most tokens of a block of text that is scored.
    pub block_tokens: usize,
}

/// The resident base and what is in use on top of it.
pub struct Served {
    /// Shared by learning and serving.
    pub engines: Engines,
    /// The base's tokenizer.
    pub tokeniser: Tokeniser,
    /// What earlier texts were, for prompts that begin alike.
    pub prompts: Prompts,
    /// Most tokens of a block of text that is scored.
    pub block_tokens: usize,
    current: RwLock<Arc<Current>>,
    /// Adapters that stay.
    pinned: Vec<Arc<Current>>,
    /// Adapters that were asked for by name.
    shelf: Shelf<Current>,
    /// Texts of so many adapters were told apart.
    owners: AtomicU64,
    constrainer: OnceLock<Constrainer>,
    spellings: OnceLock<Vec<Spelling>>,
    tools: OnceLock<Tools>,
}

impl Served {
    /// The base with what is in use.
    pub fn new(engines: Engines, tokeniser: Tokeniser, current: Current, bounds: Bounds) -> Self {
        let current = RwLock::new(Arc::new(Current { whose: 1, ..current }));
        let (constrainer, spellings, tools) = Default::default();
        Self {
            engines,
            tokeniser,
            prompts: Prompts::new(bounds.prompt_cache_bytes),
            block_tokens: bounds.block_tokens,
            current,
            pinned: Vec::new(),
            shelf: Shelf::new(bounds.adapters),
            owners: AtomicU64::new(2),
            constrainer,
            spellings,
            tools,
        }
    }

    /// What each token stands for; looked up when it is asked for first.
    ///
    /// # Errors
    /// [`TokeniseError::Decoder`].
    pub fn spellings(&self) -> Result<&[Spelling], TokeniseError> {
        if let Some(made) = self.spellings.get() {
            return Ok(made);
        }
        let made = self.tokeniser.spellings()?;
        Ok(self.spellings.get_or_init(|| made))
    }

    /// What holds texts to a schema; made when the first is asked for.
    ///
    /// # Errors
    /// Those of a tokenizer whose tokens are no bytes of a text.
    pub fn constrainer(&self) -> Result<&Constrainer, Box<dyn Error + Send + Sync>> {
        if let Some(made) = self.constrainer.get() {
            return Ok(made);
        }
        let config = self.engines.base.config();
        let made = Constrainer::new(self.spellings()?, config.vocab, &config.eos)?;
        Ok(self.constrainer.get_or_init(|| made))
    }

    /// What the chat template knows of tools; looked for when it is asked first.
    pub fn tools(&self) -> &Tools {
        self.tools.get_or_init(|| self.tokeniser.tools())
    }

    /// What is in use now; it stays whole for as long as the caller holds it.
    pub fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on another generation is in use; nothing is kept of what the one before has written.
    pub fn swap(&self, current: Current) {
        let current = self.owned(current);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
        self.prompts.retain(|owner| self.holds(owner));
    }

    /// An adapter that stays for as long as the base does.
    pub fn pin(&mut self, current: Current) -> Arc<Current> {
        let current = Arc::new(self.owned(current));
        self.pinned.push(current.clone());
        current
    }

    /// With a number of its own.
    fn owned(&self, current: Current) -> Current {
        Current { whose: self.owners.fetch_add(1, Ordering::Relaxed), ..current }
    }

    /// The adapter of a name, read where it is not kept; the one that was of no use for longest goes for it.
    ///
    /// # Errors
    /// As `read`.
    pub fn named<E>(
        &self,
        name: &str,
        read: impl FnOnce() -> Result<Current, E>,
    ) -> Result<Arc<Current>, E> {
        if let Some(found) = self.shelf.find(name) {
            return Ok(found);
        }
        let read = Arc::new(self.owned(read()?));
        let kept = self.shelf.keep(name, read);
        self.prompts.retain(|owner| self.holds(owner));
        Ok(kept)
    }

    /// Numbers of the adapters that are kept beside the one in use, and how many more there may be.
    pub fn shelved(&self) -> (u64, usize) {
        let numbers = |current: &Current| current.adapter.as_ref().map_or(0, |a| a.values.len());
        let held = self.shelf.all();
        let count = held.iter().map(|current| numbers(current) as u64).sum();
        (count, self.shelf.most().saturating_sub(held.len()))
    }

    /// Whether `whose` texts are those of the bare base or of an adapter that is held.
    pub fn holds(&self, whose: u64) -> bool {
        whose == 0
            || self.current.read().unwrap_or_else(PoisonError::into_inner).whose == whose
            || self.pinned.iter().any(|current| current.whose == whose)
            || self.shelf.all().iter().any(|current| current.whose == whose)
    }
}
