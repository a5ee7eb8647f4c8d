//! What a layer's forward pass keeps for the backward pass, and how it is kept meanwhile.
//!
//! - `Recompute` keeps the layer's input alone and runs the layer again; `Bf16` rounds what is large.
//! - Never here: which layers learn, in which order they are asked.

use super::kernels;
use crate::products::Pool;
use crate::settings::Activations;
use half::bf16;

/// What one forward pass saved.
pub(crate) struct Saved {
    /// The layer's input, `[N, D]`.
    pub(super) x: Vec<f32>,
    /// 1 / rms before attention, `[N]`.
    pub(super) inverse_attention: Vec<f32>,
    /// Queries and keys before their norms, `[N, q + kv]`; nothing where the base has none.
    pub(super) raw: Vec<f32>,
    /// Rotated queries and keys, and values, `[N, qkv]`.
    pub(super) qkv: Vec<f32>,
    /// Log-sum-exp of each row of scores, `[N, heads]`.
    pub(super) lse: Vec<f32>,
    /// The attention's output, `[N, q]`.
    pub(super) attended: Vec<f32>,
    /// The residual stream after attention, `[n, D]`, of the n rows that were wanted.
    pub(super) middle: Vec<f32>,
    /// 1 / rms before the MLP, `[n]`.
    pub(super) inverse_mlp: Vec<f32>,
    /// Gate and up side by side, `[n, 2 F]`.
    pub(super) gate_up: Vec<f32>,
    /// `input Aᵀ` of every module, `[N, r]` or `[n, r]`, in the order of the modules.
    pub(super) narrow: Vec<Vec<f32>>,
}

impl Saved {
    /// Gives every buffer back.
    pub(super) fn give(self, pool: &Pool) {
        let Self { x, inverse_attention, raw, qkv, lse, attended, middle, .. } = self;
        let Self { inverse_mlp, gate_up, narrow, .. } = self;
        pool.give([x, inverse_attention, raw, qkv, lse, attended, middle, inverse_mlp, gate_up]);
        pool.give(narrow);
    }

    /// The buffers that hold a whole row of activations.
    fn large(&mut self) -> [&mut Vec<f32>; 6] {
        let Self { x, raw, qkv, attended, middle, gate_up, .. } = self;
        [x, raw, qkv, attended, middle, gate_up]
    }
}

/// One layer's entry on the tape.
pub(crate) enum Tape {
    /// All of it.
    Whole(Box<Saved>),
    /// What is large in bf16, and how long each of these is.
    Halved(Box<Saved>, [usize; 6]),
    /// The input, from which the layer runs again.
    Input(Vec<f32>),
}

impl Tape {
    /// Keeps what a forward pass saved.
    pub(super) fn keep(mut saved: Saved, activations: Activations, pool: &Pool) -> Self {
        match activations {
            Activations::F32 => Self::Whole(Box::new(saved)),
            Activations::Recompute => {
                let x = std::mem::take(&mut saved.x);
                saved.give(pool);
                Self::Input(x)
            }
            Activations::Bf16 => {
                let lens = saved.large().map(|numbers| halve(numbers, pool));
                Self::Halved(Box::new(saved), lens)
            }
        }
    }

    /// The same in f32 again; `run` saves what the layer saves over its input.
    pub(super) fn open(self, pool: &Pool, run: impl FnOnce(Vec<f32>) -> Saved) -> Saved {
        match self {
            Self::Whole(saved) => *saved,
            Self::Halved(mut saved, lens) => {
                for (numbers, len) in saved.large().into_iter().zip(lens) {
                    double(numbers, len, pool);
                }
                *saved
            }
            Self::Input(x) => run(x),
        }
    }
}

/// Rounds numbers to bf16, two in the place of one, and says how many there were.
fn halve(numbers: &mut Vec<f32>, pool: &Pool) -> usize {
    let len = numbers.len();
    let mut halves = pool.take(len.div_ceil(2));
    let narrow: &mut [bf16] = bytemuck::cast_slice_mut(&mut halves);
    kernels::narrow(numbers, &mut narrow[..len]);
    pool.give([std::mem::replace(numbers, halves)]);
    len
}

/// Undoes [`halve`].
fn double(numbers: &mut Vec<f32>, len: usize, pool: &Pool) {
    let mut wide = pool.take(len);
    kernels::widen(&bytemuck::cast_slice(numbers)[..len], &mut wide);
    pool.give([std::mem::replace(numbers, wide)]);
}
