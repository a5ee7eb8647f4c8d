//! What the worker learns with: settings, the resident base, its threads, general text.
//!
//! - Out: what a job takes of memory and disk, what the learner is given, what is served after it.

use super::prepare::Prepared;
use super::served::{Bounds, Current, Served};
use super::{DeviceError, threads};
use crate::budget::Meter;
use crate::config::Config;
use crate::status::Board;
use crate::sync::Offered;
use rayon::ThreadPool;
use sapwood::adapter::{Adapter, Spec};
use sapwood::base::{Base, read_config};
use sapwood::block::Block;
use sapwood::intake;
use sapwood::learner::{self, Engines, LearnError, Material, Memory, Plan, Serving, Tokens};
use sapwood::ports::Storage;
use sapwood::state::State;
use sapwood::tokenise::{TokeniseError, Tokeniser};
use sapwood_protocol::limits::FLEET_RANK_MAX;
use std::path::Path;
use std::sync::Arc;

/// Free bytes beside what a job is known to write: manifests, history, what file systems round up.
const DISK_SPARE_BYTES: u64 = 8 << 20;

/// What the worker learns with.
pub(super) struct Tools {
    /// With the settings that base and state have chosen where the file leaves them open.
    pub(super) config: Config,
    pub(super) served: Arc<Served>,
    /// The threads that learn; they give way to those that serve.
    pub(super) pool: ThreadPool,
    /// General text that no job learns.
    pub(super) general: Vec<Block>,
}

impl Tools {
    /// Loads the base of a configuration, for a state.
    ///
    /// - `memory_bytes`: that can be had, where that is known.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub(super) fn load(
        mut config: Config,
        model: &Path,
        state: &State,
        memory_bytes: Option<u64>,
    ) -> Result<Self, DeviceError> {
        if let Some(wishes) = &config.wishes {
            let base = read_config(model).map_err(LearnError::from)?;
            config.learn = Plan::new(&base, state, wishes.clone(), false)?.settings().clone();
        }
        let base = Base::open(model).map_err(LearnError::from)?;
        let spec = learner::spec(base.config(), &config.learn)?.over(state.ranks());
        let memory = Memory::estimate(&base, &spec, &config.learn, Tokens::default())
            .with_serving(&base, serving(&config, &spec));
        let engines = Engines::of(base, model, &config.learn, (memory, memory_bytes))?;
        // Of a job that is cut off it is asked whether it was one of these settings.
        config.learn.matmul_precision = engines.precision;
        // Texts do not run on the trunk's own threads, only jobs do.
        engines.trunk.on_threads(threads::yield_to_others);
        let tokeniser = Tokeniser::open(model, engines.base.config().vocab)?;
        let general = general(&config, &tokeniser)?;
        let pool = threads::pool(&config.learn)?;
        let bounds = Bounds {
            prompt_cache_bytes: config.serve.prompt_cache_bytes,
            adapters: config.serve.adapters_max,
            block_tokens: config.learn.max_seq_length,
        };
        let served = Arc::new(Served::new(engines, tokeniser, Current::default(), bounds));
        Ok(Self { config, served, pool, general })
    }

    /// The own ranks of an adapter.
    ///
    /// # Errors
    /// [`LearnError`] where settings do not fit the base.
    pub(super) fn spec(&self) -> Result<Spec, LearnError> {
        learner::spec(self.served.engines.base.config(), &self.config.learn)
    }

    /// Load a core that a job makes: its threads over the machine's.
    pub(super) fn own_load(&self) -> f32 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        learner::threads(&self.config.learn) as f32 / cores as f32
    }

    /// Memory that a job takes beside the resident base; `ranks` of a global adapter come first.
    pub(super) fn job_bytes(&self, samples: u64, ranks: usize) -> u64 {
        let (base, settings) = (&self.served.engines.base, &self.config.learn);
        // Samples are about a block each, and an eighth of them is held out.
        let fresh = samples * settings.max_seq_length as u64;
        let tokens = Tokens { fresh, held_out: fresh / 8 }.with_old();
        let spec = self.spec().map(|own| own.over(ranks));
        let job = |spec: Spec| {
            let room = self.serving_room(&spec);
            Memory::estimate(base, &spec, settings, tokens).job() + room
        };
        spec.map_or(0, job)
    }

    /// Memory that serving may come to take beside what it has: keys and values of earlier texts, and adapters
    /// of other names.
    fn serving_room(&self, spec: &Spec) -> u64 {
        let kept = self.config.serve.prompt_cache_bytes.saturating_sub(self.served.prompts.bytes());
        let (_, places) = self.served.shelved();
        kept + (places * spec.len() * size_of::<f32>()) as u64
    }

    /// Memory that an install takes beside the resident base, over `ranks` of another global adapter: as many
    /// as the offered file has at most.
    pub(super) fn install_bytes(&self, offered: &Offered, ranks: usize) -> u64 {
        let (base, settings) = (&self.served.engines.base, &self.config.learn);
        let Ok(own) = self.spec() else { return 0 };
        let one = (own.over(1).len() - own.len()).max(1) as u64;
        // What cannot be read is told by the install itself.
        let file_bytes = std::fs::metadata(&offered.path).map_or(0, |found| found.len());
        let most = file_bytes / size_of::<u16>() as u64 / one;
        let next = own.over(most.min(FLEET_RANK_MAX.into()) as usize);
        let specs = [&own.over(ranks), &next];
        let memory = Memory::of_install(base, specs, settings, Tokens::default().with_old());
        memory.job() + self.serving_room(&next)
    }

    /// Bytes of the disk that a job writes before it frees any: a checkpoint twice while one is replaced, the
    /// commit's learner and adapter, and a reservoir that is not there yet; `ranks` of a global adapter come
    /// first.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub(super) fn job_disk_bytes(&self, disk: &Meter, ranks: usize) -> Result<u64, DeviceError> {
        let learn = &self.config.learn;
        let adapter = self.spec()?.over(ranks).len() as u64 * size_of::<f32>() as u64;
        // Fast, slow and the two moments.
        let record = 4 * adapter;
        let blocks = learn.replay_blocks * learn.max_seq_length as u64;
        let reservoir = match disk.len("reservoir")? {
            Some(_) => 0,
            None => 2 * blocks * size_of::<u32>() as u64,
        };
        Ok(3 * record + adapter + reservoir + DISK_SPARE_BYTES)
    }

    /// What the learner is given: every job is a domain of its own, so that the next one is judged on its
    /// held-out text too.
    pub(super) fn material(&self, prepared: Prepared) -> Material {
        let name = format!("samples to {}", prepared.job.through);
        Material {
            key: name.clone(),
            name,
            hash: prepared.hash,
            train: prepared.train,
            valid: prepared.valid,
            general: self.general.clone(),
            start: self.served.tokeniser.opening(),
        }
    }

    /// Serves the generation in use.
    ///
    /// # Errors
    /// [`DeviceError`]: what was served before still is.
    pub(super) fn serve(&self, state: &State, board: &Board) -> Result<(), DeviceError> {
        let spec = self.spec()?.over(state.ranks());
        let current = match (state.current(), state.learner()?) {
            (Some(generation), Some(record)) => {
                record.belongs_to(&self.served.engines.base.hash(), &spec)?;
                let adapter = Some(Adapter { spec, values: record.slow });
                let (generation, global, since) =
                    (Some(generation.number), record.global, record.since);
                Current { generation, adapter, global, since, ..Current::default() }
            }
            _ => Current::default(),
        };
        let generation = current.generation;
        self.served.swap(current);
        board.update(|status| status.serving.generation = generation);
        Ok(())
    }
}

/// What serving may take beside a job.
fn serving(config: &Config, spec: &Spec) -> Serving {
    let serve = &config.serve;
    Serving {
        prompt_cache_bytes: serve.prompt_cache_bytes,
        adapter_numbers: (serve.adapters_max * spec.len()) as u64,
        texts: serve.concurrency,
        tokens: serve.tokens_max,
    }
}

/// Blocks of the text that the gate judges every job by.
fn general(config: &Config, tokeniser: &Tokeniser) -> Result<Vec<Block>, DeviceError> {
    let Some(path) = &config.job.general else { return Ok(Vec::new()) };
    let data = intake::open(path)?;
    let examples = [data.train, data.valid].concat();
    let learn = &config.learn;
    match tokeniser.blocks(&examples, learn.max_seq_length, learn.mask_prompt, 0) {
        Ok(made) => Ok(made.blocks),
        Err(TokeniseError::NothingTrainable { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
