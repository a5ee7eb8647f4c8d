//! The base, opened and split: the trunk in tract, the head in candle, proved to be one model.
//!
//! - In: a model folder and settings. Out: both engines, ready.
//! - Invariant: head over trunk gave the whole model's logits on a short probe, now or at the first load
//!   of this base by this program on such a processor, or loading failed.

use super::anchor::Wanted;
use super::memory::{Memory, Tokens};
use super::precision::precision;
use super::{LearnError, spec};
use crate::adapter::Spec;
use crate::base::Base;
use crate::block::Block;
use crate::generate::Generator;
use crate::head::{Backend, Below, Head, Keep};
use crate::products;
use crate::settings::{Device, HeadWeights, MatmulPrecision, Settings};
use crate::train::Whitening;
use crate::trunk::{Trunk, Whole, machine, trim};
use ndarray::{Array2, Array3};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Most that a logit may differ, relative to the largest: both engines compute in f32, so what is
/// left is the order of sums through L layers; a wrong weight or mask is off by far more.
const PROBE_TOLERANCE: f32 = 1e-3;
/// The same when the head's weights or rows are rounded: 2^-8 of a number in bf16 and of the largest
/// in int8, and L layers of it. Logits of another model differ by about 1.
const ROUNDED_TOLERANCE: f32 = 0.15;

/// What whitening is made from: texts, the shape of the adapter, its strength.
type Looks = (Vec<Block>, Spec, f64);

/// The two halves of the base.
pub struct Engines {
    /// The model folder.
    pub base: Base,
    /// Embedding and layers 0..tap, frozen.
    pub trunk: Trunk,
    /// Layers tap..L, the norm and lm_head.
    pub head: Head,
    /// Layers 0..tap, where the trunk has them from a device that tract does not reach.
    pub below: Option<Arc<Below>>,
    /// Where the head runs, and the trunk's layers.
    pub backend: Backend,
    /// How rows are multiplied: what was asked for, or what `auto` came to.
    pub precision: MatmulPrecision,
    /// Texts that the base wrote for itself, by what was asked of it.
    pub(super) own: Mutex<Option<(Wanted, Arc<Vec<Block>>)>>,
    /// What such texts say of the inputs of A, by what it was made from.
    pub(super) whitening: Mutex<Option<(Looks, Arc<Whitening>)>>,
    /// Where the base lies: what an adapter's files call it.
    pub model: PathBuf,
}

impl Engines {
    /// Opens the folder and splits the model below the top `settings.num_layers` layers.
    ///
    /// # Errors
    /// [`LearnError::Probe`] when head over trunk is not the whole model; [`LearnError::Settings`]
    /// when the model has fewer layers; the errors of base, trunk and head.
    pub fn load(model: &Path, settings: &Settings) -> Result<Self, LearnError> {
        Self::load_within(model, settings, 0, None)
    }

    /// [`Engines::load`], refused before any weight is loaded when the estimate for a job over `ranks` of a
    /// global adapter is more than `memory_max` bytes.
    ///
    /// # Errors
    /// [`LearnError::Memory`], and as [`Engines::load`].
    pub fn load_within(
        model: &Path,
        settings: &Settings,
        ranks: usize,
        memory_max: Option<u64>,
    ) -> Result<Self, LearnError> {
        let base = Base::open(model)?;
        let spec = spec(base.config(), settings)?.over(ranks);
        let memory = Memory::estimate(&base, &spec, settings, Tokens::default());
        Self::of(base, model, settings, (memory, memory_max))
    }

    /// [`Engines::load_within`] of a folder that was opened before, for what was estimated to take so much memory.
    ///
    /// # Errors
    /// As [`Engines::load_within`].
    pub fn of(
        base: Base,
        model: &Path,
        settings: &Settings,
        (memory, memory_max): (Memory, Option<u64>),
    ) -> Result<Self, LearnError> {
        base.config().check_length(settings.max_seq_length)?;
        let needed = memory.total();
        if let Some(available) = memory_max.filter(|&available| needed > available) {
            return Err(LearnError::Memory { needed, available });
        }
        let decided = Settings { matmul_precision: precision(&base, settings), ..settings.clone() };
        let (settings, precision) = (&decided, decided.matmul_precision);
        let mut backend = Backend::open(settings.device)?;
        let halves = match split(&base, settings, &backend) {
            // A GPU that is there and cannot hold or compute this base: `auto` goes on without it.
            Err(error) if settings.device == Device::Auto && !backend.is_cpu() => {
                backend = backend.passed_over(&error.to_string());
                split(&base, settings, &backend)
            }
            halves => halves,
        };
        let Halves { trunk, below, head } = halves?;
        let (own, whitening) = (Mutex::default(), Mutex::default());
        let model = model.to_path_buf();
        Ok(Self { base, trunk, head, below, backend, precision, own, whitening, model })
    }

    /// What a user should know of what was asked for and cannot be had, a sentence each.
    pub fn notices(&self, settings: &Settings) -> Vec<String> {
        let notices = self.backend.notice().map(str::to_owned).into_iter();
        notices.chain(self.precision_notice(settings)).collect()
    }

    /// Why medium precision computes as highest, or does in part.
    fn precision_notice(&self, settings: &Settings) -> Option<String> {
        let ([below, some_below], [above, some_above]) =
            (self.trunk.in_bf16(), self.head.in_bf16());
        let (all, some) = (below && above, some_below || some_above);
        if settings.matmul_precision != MatmulPrecision::Medium || all {
            return None;
        }
        let why = match (self.backend.is_cpu(), products::in_bf16(), some) {
            (false, ..) => format!("{} multiplies in f32", self.backend.name()),
            (_, false, _) => "this processor has neither AVX-512 BF16 nor BFMMLA".to_owned(),
            (.., false) => "the frozen weights are not kept in bf16".to_owned(),
            (.., true) => "some of the frozen weights are not kept in bf16".to_owned(),
        };
        let reach = if some { "in part as" } else { "as" };
        Some(format!("--matmul-precision medium computes {reach} highest: {why}"))
    }

    /// The settings of a job with these engines, of which its checkpoints are to tell: what `auto` came to
    /// stands in its place.
    pub(super) fn decided(&self, settings: &Settings) -> Settings {
        match settings.matmul_precision {
            MatmulPrecision::Auto => {
                Settings { matmul_precision: self.precision, ..settings.clone() }
            }
            _ => settings.clone(),
        }
    }

    /// What writes texts with these very weights, also while they learn.
    pub fn generator(&self) -> Generator<'_> {
        Generator::new(&self.trunk, self.below.as_deref(), &self.head)
    }
}

/// Trunk and head, and what the trunk has from elsewhere.
struct Halves {
    trunk: Trunk,
    below: Option<Arc<Below>>,
    head: Head,
}

impl Halves {
    /// Both as they are to multiply.
    fn at(self, precision: MatmulPrecision) -> Result<Self, LearnError> {
        let Self { trunk, below, head } = self;
        Ok(Self { trunk: trunk.at(precision)?, below, head: head.at(precision) })
    }
}

/// Both halves of the base, proved on a probe to be the whole.
fn split(base: &Base, settings: &Settings, backend: &Backend) -> Result<Halves, LearnError> {
    let layers = base.config().layers;
    let tap = layers - settings.layers_of(layers)?;
    // What is proved is which weights there are and what is done with them: at any precision the same.
    let keep = Keep {
        weights: settings.head_weights,
        precision: MatmulPrecision::Highest,
        activations: settings.activations,
    };
    let proof = format!("head {tap} {:?}: {}", keep.weights, machine());
    // A GPU's driver may be another one every time.
    let proved = backend.is_cpu() && base.is_proved(&proof);
    let probe = probe(base.config().vocab);
    let expected = match proved {
        true => None,
        false => Some(Whole::plain(base)?.logits(&probe)?),
    };
    trim();
    let (trunk, below) = trunk(base, tap, settings, backend)?;
    let head = Head::load_over(&trunk, base, backend, settings.max_seq_length, keep)?;
    let precision = settings.matmul_precision;
    let Some(expected) = expected else {
        return Halves { trunk, below, head }.at(precision);
    };
    let got = head.logits(None, &trunk.hidden(&probe)?)?;
    trim();
    let error = distance(&got, &expected);
    // Only the CPU's kernels round weights or rows.
    let is_rounded = matches!(settings.head_weights, HeadWeights::Bf16 | HeadWeights::Int8);
    let tolerance =
        if is_rounded && backend.is_cpu() { ROUNDED_TOLERANCE } else { PROBE_TOLERANCE };
    if error.is_nan() || error > tolerance {
        return Err(LearnError::Probe { error, tolerance });
    }
    if backend.is_cpu() {
        base.prove(&proof);
    }
    Halves { trunk, below, head }.at(precision)
}

/// Embedding and layers below the tap: tract's, or on a GPU tract's embedding and layers there.
fn trunk(
    base: &Base,
    tap: usize,
    settings: &Settings,
    backend: &Backend,
) -> Result<(Trunk, Option<Arc<Below>>), LearnError> {
    let threads = threads(settings);
    if backend.is_cpu() || tap == 0 {
        return Ok((Trunk::load(base, tap, threads)?, None));
    }
    // No shorter than the probes that the trunk is compared on.
    let tokens_max = settings.max_seq_length.max(3).min(base.config().context);
    let below = Arc::new(Below::load(base, tap, backend, tokens_max)?);
    let shared = Arc::clone(&below);
    let layers = move |embedded: &Array3<f32>| Ok(shared.hidden(embedded)?);
    Ok((Trunk::load_continued(base, tap, threads, Box::new(layers))?, Some(below)))
}

/// Threads that the settings ask for; 0 is one per core.
pub fn threads(settings: &Settings) -> usize {
    match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// Two short rows of ids spread over the vocabulary; settings allow no block shorter than two.
fn probe(vocab: usize) -> Array2<u32> {
    Array2::from_shape_fn((2, 2), |(row, t)| ((row * 7_919 + t * 104_729 + 5) % vocab) as u32)
}

/// The largest difference, relative to the largest expected number; NaN when anything is NaN.
fn distance(got: &Array3<f32>, expected: &Array3<f32>) -> f32 {
    let largest = |worst: f32, number: f32| {
        if number.is_nan() || worst.is_nan() { f32::NAN } else { worst.max(number.abs()) }
    };
    let scale = expected.iter().copied().fold(1e-6, largest);
    got.iter().zip(expected).map(|(a, b)| a - b).fold(0.0, largest) / scale
}
