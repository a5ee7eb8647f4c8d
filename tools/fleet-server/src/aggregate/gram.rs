//! What updates have in common: inner products of all pairs, from a sketch of each.
//!
//! - In: updates, read once each, and what to multiply them by. Out: `K[i, j]`, nearly `<U_i, U_j>` over all
//!   modules together.
//! - A module's sketch is `P_L U P_R / 16`, 16 x 16, from its factors; P of normal numbers, drawn from the
//!   seed, so that who sends an update does not know what will be seen of it.
//! - Invariant: K is symmetric, its bits are the same on every processor.
//! - Memory: 64 KiB an update at most, and 8 bytes a pair.

use super::dense::Rows;
use super::product::{Left, Processor, add_product, turn};
use super::sketch::Gaussian;
use super::walk::{fits, term};
use super::weigh::Share;
use super::{AggregateError, Source};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::adapter::{Adapter, Spec};

/// Rows and columns of a module's sketch.
const SIDE: usize = 16;
const SQUARE: usize = SIDE * SIDE;
/// So many modules have a sketch of their own; of more, several are added into one, each with a sign of
/// chance.
const BLOCKS_MAX: usize = 64;
/// Rows of K at a time.
const TOGETHER: usize = 16;
/// Numbers of a sketch at a time: with the rows together they stay in the cache.
const PIECE: usize = 2048;

/// Streams of the seed: those of the merge are 0 and 1.
const STREAMS: [u64; 3] = [2, 3, 4];

/// What every update is looked at through.
struct Probes {
    /// `[widest fan_out + modules, 16]`
    left: Gaussian,
    /// `[widest fan_in + modules, 16]`
    right: Gaussian,
    signs: Vec<f64>,
}

impl Probes {
    fn new(seed: [u8; 32], spec: &Spec) -> Self {
        let modules = spec.modules.len();
        let widest = |width: fn(&sapwood::adapter::Module) -> usize| {
            spec.modules.iter().map(width).max().unwrap_or(0) + modules
        };
        let drawn = |stream, rows| Gaussian::drawn(seed, stream, rows, SIDE);
        let mut chance = ChaCha8Rng::from_seed(seed);
        chance.set_stream(STREAMS[2]);
        let sign = |_| if chance.next_u32() & 1 == 0 { 1.0 } else { -1.0 };
        Self {
            left: drawn(STREAMS[0], widest(|module| module.fan_out)),
            right: drawn(STREAMS[1], widest(|module| module.fan_in)),
            signs: (0..modules).map(sign).collect(),
        }
    }
}

/// Inner products of the updates, each times its share's factor, in the order of the shares.
pub(super) fn gram<S: Source>(
    processor: Processor,
    source: &mut S,
    spec: &Spec,
    shares: &[Share],
    seed: [u8; 32],
) -> Result<Rows, S::Error> {
    let probes = Probes::new(seed, spec);
    let width = spec.modules.len().clamp(1, BLOCKS_MAX) * SQUARE;
    let mut sketches = Vec::with_capacity(shares.len() * width);
    for share in shares {
        let update = source.read(share.at)?;
        fits(update, spec)?;
        let sketch = sketch(processor, update, share.factor, &probes, width);
        if !sketch.iter().all(|number| number.is_finite()) {
            return Err(AggregateError::NotFinite.into());
        }
        sketches.extend(sketch.into_iter().map(|number| number as f32));
    }
    products(processor, source, &sketches, width)
}

/// An update's sketch: of numbers about as large as the update, whatever its rank.
fn sketch(
    processor: Processor,
    update: &Adapter,
    factor: f64,
    probes: &Probes,
    width: usize,
) -> Vec<f64> {
    let mut sketch = vec![0.0; width];
    for (at, sign) in probes.signs.iter().enumerate() {
        let term = term(update, at, factor * sign / SIDE as f64);
        // Each module begins a row further: chance that two shared would err in both alike.
        let [left, right] = [&probes.left, &probes.right].map(|probes| probes.rows_from(at));
        let (fan_in, fan_out) = (term.a.len() / term.rank, term.b.len() / term.rank);
        let mut sides = [vec![0.0; term.rank * SIDE], vec![0.0; term.rank * SIDE]];
        let columns = Left::transposed(term.b, term.rank);
        add_product(processor, &mut sides[0], columns, &left[..fan_out * SIDE], SIDE);
        let rows = Left::plain(term.a, fan_in);
        add_product(processor, &mut sides[1], rows, &right[..fan_in * SIDE], SIDE);
        sides[1].iter_mut().for_each(|number| *number *= term.factor);
        let block = &mut sketch[at % BLOCKS_MAX * SQUARE..][..SQUARE];
        add_product(processor, block, Left::transposed(&sides[0], SIDE), &sides[1], SIDE);
    }
    sketch
}

/// The inner products of rows; `sketches`: `[updates, width]`.
fn products<S: Source>(
    processor: Processor,
    source: &mut S,
    sketches: &[f32],
    width: usize,
) -> Result<Rows, S::Error> {
    let count = sketches.len() / width;
    let mut gram = Rows::zeros(count, count.max(1));
    let mut panel: Vec<f64> = Vec::new();
    for first in (0..count).step_by(TOGETHER) {
        source.alive()?;
        let columns = TOGETHER.min(count - first);
        turn(&sketches[first * width..(first + columns) * width], width, &mut panel);
        let mut sums = vec![0.0; (count - first) * columns];
        for piece in (0..width).step_by(PIECE) {
            let right = &panel[piece * columns..(piece + PIECE).min(width) * columns];
            let left = Left::plain(&sketches[first * width + piece..], width);
            add_product(processor, &mut sums, left, right, columns);
        }
        for (row, sums) in (first..).zip(sums.chunks_exact(columns)) {
            for (column, sum) in (first..).zip(sums).take(row + 1 - first) {
                gram.numbers[row * count + column] = *sum;
                gram.numbers[column * count + row] = *sum;
            }
        }
    }
    Ok(gram)
}
