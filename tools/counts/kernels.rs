//! What a step and a text spend their time in: products, attention, the loops over rows.
//!
//! - Widths of the shipped base; rows enough for several tiles, and some left over.

use crate::decoder::Turns;
use crate::decoder::attention::{Sequences, Shape, Turn, attention, attention_backward, rope};
use crate::decoder::kernels::{rms_norm, rms_norm_backward, swiglu, swiglu_backward};
use crate::products::gemm::{Into, Threads, View, matmul};
use crate::products::{Form, Frozen, Pool};
use crate::settings::{HeadWeights, MatmulPrecision};
use crate::{Path, Work, chance, noise};
use rand_chacha::ChaCha8Rng;

pub(crate) const PATHS: &[Path] = &[
    ("frozen-f32", || forward(HeadWeights::F32)),
    ("frozen-f32-back", || backward(HeadWeights::F32)),
    ("frozen-bf16", || forward(HeadWeights::Bf16)),
    ("frozen-bf16-back", || backward(HeadWeights::Bf16)),
    ("frozen-int8", || forward(HeadWeights::Int8)),
    ("frozen-int8-back", || backward(HeadWeights::Int8)),
    ("one-row-bf16", || one_row(HeadWeights::Bf16, false)),
    ("one-row-bf16-turned", || one_row(HeadWeights::Bf16, true)),
    ("one-row-int8", || one_row(HeadWeights::Int8, false)),
    ("one-row-int8-turned", || one_row(HeadWeights::Int8, true)),
    ("lora", lora),
    ("attention", || attend(Way::Forward)),
    ("attention-back", || attend(Way::Back)),
    ("rope", || attend(Way::Turn)),
    ("rms-norm", || norm(false)),
    ("rms-norm-back", || norm(true)),
    ("swiglu", || gated(false)),
    ("swiglu-back", || gated(true)),
];

/// Rows N.
const ROWS: usize = 150;
/// Hidden width D.
const HIDDEN: usize = 192;
/// Width of the feed-forward layer.
const WIDE: usize = 512;
/// LoRA rank r.
const RANK: usize = 8;
/// Of the base's attention.
const SHAPE: Shape = Shape { heads: 6, kv_heads: 2, head_dim: 32 };
/// Two sequences, together as many tokens as there are rows.
const TOKENS: [usize; 2] = [110, 40];

fn frozen(weights: HeadWeights, chance: &mut ChaCha8Rng) -> Frozen {
    let form = Form { weights, precision: MatmulPrecision::Highest };
    Frozen::new(noise(chance, HIDDEN * WIDE), (HIDDEN, WIDE), form)
}

fn forward(weights: HeadWeights) -> Work {
    let (mut chance, pool) = (chance(), Pool::default());
    let frozen = frozen(weights, &mut chance);
    let (x, mut out) = (noise(&mut chance, ROWS * HIDDEN), vec![0.0; ROWS * WIDE]);
    Box::new(move || {
        let x = View::dense(&x, ROWS, HIDDEN);
        frozen.forward(x, (&mut out, WIDE, Into::Replace), &pool);
    })
}

fn backward(weights: HeadWeights) -> Work {
    let (mut chance, pool) = (chance(), Pool::default());
    let frozen = frozen(weights, &mut chance);
    let (dy, mut dx) = (noise(&mut chance, ROWS * WIDE), vec![0.0; ROWS * HIDDEN]);
    Box::new(move || {
        let dy = View::dense(&dy, ROWS, WIDE);
        frozen.backward(dy, (&mut dx, Into::Replace), &pool);
    })
}

/// A text's token.
fn one_row(weights: HeadWeights, turned: bool) -> Work {
    let mut chance = chance();
    let frozen = frozen(weights, &mut chance);
    let frozen = if turned { frozen.turned() } else { frozen };
    let (fan_in, fan_out) = frozen.fans();
    let (x, mut out) = (noise(&mut chance, fan_in), vec![0.0; fan_out]);
    Box::new(move || frozen.forward_row(&x, &mut out, Into::Replace))
}

/// The two thin products of an adapted linear layer, as `decoder/lora.rs` has them.
fn lora() -> Work {
    let mut chance = chance();
    let [a, b] = [HIDDEN, WIDE].map(|width| noise(&mut chance, RANK * width));
    let x = noise(&mut chance, ROWS * HIDDEN);
    let (mut thin, mut out) = (vec![0.0; ROWS * RANK], vec![0.0; ROWS * WIDE]);
    Box::new(move || {
        let a = View::dense(&a, RANK, HIDDEN).transposed();
        let x = View::dense(&x, ROWS, HIDDEN);
        matmul(&mut thin, RANK, x, a, 1.0, Into::Replace, Threads::All);
        let b = View::dense(&b, WIDE, RANK).transposed();
        let thin = View::dense(&thin, ROWS, RANK);
        matmul(&mut out, WIDE, thin, b, 2.0, Into::Add, Threads::All);
    })
}

enum Way {
    Forward,
    Back,
    Turn,
}

fn attend(way: Way) -> Work {
    let mut chance = chance();
    let sequences = Sequences::new(TOKENS);
    let mut qkv = noise(&mut chance, ROWS * SHAPE.qkv());
    let [mut out, dout] = [0, 1].map(|_| noise(&mut chance, ROWS * SHAPE.q()));
    let (mut lse, mut dqkv) = (vec![0.0; ROWS * SHAPE.heads], vec![0.0; qkv.len()]);
    let [cos, sin] = [0, 1].map(|_| noise(&mut chance, TOKENS[0] * SHAPE.head_dim / 2));
    let turns = Turns { cos, sin };
    attention((&SHAPE, &sequences), &qkv, &mut out, &mut lse);
    Box::new(move || {
        let places = (&SHAPE, &sequences);
        match way {
            Way::Forward => attention(places, &qkv, &mut out, &mut lse),
            Way::Back => {
                attention_backward(places, (&qkv, &out, &lse), &dout, &mut dqkv, true);
            }
            Way::Turn => rope(&mut qkv, places, (&turns, 0), Turn::Forward),
        }
    })
}

fn norm(back: bool) -> Work {
    let mut chance = chance();
    let [x, dy, mut y] = [0, 1, 2].map(|_| noise(&mut chance, ROWS * HIDDEN));
    let (gain, mut inverse) = (noise(&mut chance, HIDDEN), vec![0.0; ROWS]);
    rms_norm(&x, &gain, 1e-5, &mut y, &mut inverse);
    Box::new(move || match back {
        false => rms_norm(&x, &gain, 1e-5, &mut y, &mut inverse),
        true => rms_norm_backward(&dy, &x, &gain, &inverse, &mut y),
    })
}

fn gated(back: bool) -> Work {
    let mut chance = chance();
    let mut gate_up = noise(&mut chance, ROWS * 2 * WIDE);
    let mut h = noise(&mut chance, ROWS * WIDE);
    Box::new(move || match back {
        false => swiglu(&gate_up, &mut h, WIDE),
        true => swiglu_backward(&mut gate_up, &h, WIDE),
    })
}
