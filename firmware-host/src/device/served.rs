//! The model as it is served: the resident base, its tokenizer, and the adapter of the generation in use.
//!
//! - A commit swaps the adapter at once; a text that is being written keeps the one it began with.

use sapwood::adapter::Adapter;
use sapwood::constrain::Constrainer;
use sapwood::generate::Prompts;
use sapwood::learner::Engines;
use sapwood::state::{Global, Since};
use sapwood::tokenise::{Spelling, TokeniseError, Tokeniser};
use std::error::Error;
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

/// The resident base and what is in use on top of it.
pub struct Served {
    /// Shared by learning and serving.
    pub engines: Engines,
    /// The base's tokenizer.
    pub tokeniser: Tokeniser,
    /// What earlier texts were, for prompts that begin alike.
    pub prompts: Prompts,
    current: RwLock<Arc<Current>>,
    constrainer: OnceLock<Constrainer>,
    spellings: OnceLock<Vec<Spelling>>,
}

impl Served {
    /// The base with what is in use; keys and values of earlier texts are kept up to so many bytes.
    pub fn new(
        engines: Engines,
        tokeniser: Tokeniser,
        current: Current,
        prompt_cache_bytes: u64,
    ) -> Self {
        let current = RwLock::new(Arc::new(Current { whose: 1, ..current }));
        let (constrainer, spellings) = (OnceLock::new(), OnceLock::new());
        let prompts = Prompts::new(prompt_cache_bytes);
        Self { engines, tokeniser, prompts, current, constrainer, spellings }
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

    /// What is in use now; it stays whole for as long as the caller holds it.
    pub fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on another generation is in use; nothing is kept of what the one before has written.
    pub fn swap(&self, current: Current) {
        let whose = {
            let mut place = self.current.write().unwrap_or_else(PoisonError::into_inner);
            let whose = place.whose + 1;
            *place = Arc::new(Current { whose, ..current });
            whose
        };
        self.prompts.retain(|owner| owner == 0 || owner == whose);
    }

    /// Whether `whose` texts are those of the bare base or of what is in use.
    pub fn is_in_use(&self, whose: u64) -> bool {
        whose == 0 || self.current.read().unwrap_or_else(PoisonError::into_inner).whose == whose
    }
}
