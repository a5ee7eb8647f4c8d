//! The model as it is served: the resident base, its tokenizer, and the adapter of the generation in use.
//!
//! - A commit swaps the adapter at once; a text that is being written keeps the one it began with.

use sapwood::adapter::Adapter;
use sapwood::learner::Engines;
use sapwood::state::{Global, Since};
use sapwood::tokenise::Tokeniser;
use std::sync::{Arc, PoisonError, RwLock};

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
}

/// The resident base and what is in use on top of it.
pub struct Served {
    /// Shared by learning and serving.
    pub engines: Engines,
    /// The base's tokenizer.
    pub tokeniser: Tokeniser,
    current: RwLock<Arc<Current>>,
}

impl Served {
    /// The base with what is in use.
    pub fn new(engines: Engines, tokeniser: Tokeniser, current: Current) -> Self {
        Self { engines, tokeniser, current: RwLock::new(Arc::new(current)) }
    }

    /// What is in use now; it stays whole for as long as the caller holds it.
    pub fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on another generation is in use.
    pub fn swap(&self, current: Current) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }
}
