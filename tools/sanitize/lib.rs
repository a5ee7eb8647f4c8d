//! The unsafe code of the products and what calls it, without the engines, to be run by a sanitizer.
//!
//! - In: the sources themselves, by path. Out: their own tests, and calls at the edges of slices:
//!   every slice is as long as its matrix and not a number longer, so a step beyond is one too far.
//! - A file that has `unsafe` belongs here, with a test; see CONTRIBUTING.md.
//! - Never here: candle, tract, and `malloc_trim` in `src/trunk.rs`, which takes and gives no memory.
#![deny(unsafe_code)]
#![allow(dead_code, reason = "a part of the decoder does not use all of its parts")]

mod base;
mod decoder;
#[path = "../../src/products/mod.rs"]
mod products;
mod settings;

#[cfg(test)]
mod tests {
    use super::decoder::Turns;
    use super::decoder::attention::{Sequences, Shape, Turn, attention, attention_backward, rope};
    use super::products::gemm::{Into, Threads, View, matmul};
    use super::products::{Form, Frozen, Pool, near};
    use super::settings::{HeadWeights, MatmulPrecision};
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    /// Sizes around the widths of vectors and tiles.
    const SIZES: [usize; 9] = [1, 2, 3, 7, 16, 17, 33, 64, 97];
    /// f32 sums of at most 97 products of numbers below 1 in another order than the oracle's f64.
    const TOLERANCE: f64 = 1e-4;

    fn noise(chance: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
        (0..len).map(|_| chance.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect()
    }

    /// Numbers of a `[rows, cols]` matrix whose rows are `stride` apart: no padding behind the last.
    fn reach(rows: usize, cols: usize, stride: usize) -> usize {
        (rows - 1) * stride + cols
    }

    /// A matrix in a slice that ends with it.
    struct Matrix {
        numbers: Box<[f32]>,
        rows: usize,
        cols: usize,
        stride: usize,
        turned: bool,
    }

    impl Matrix {
        /// `[rows, cols]` as it is read; stored the other way round when `turned`.
        fn new(chance: &mut ChaCha8Rng, sizes: (usize, usize), gap: usize, turned: bool) -> Self {
            let (rows, cols) = if turned { (sizes.1, sizes.0) } else { sizes };
            let stride = cols + gap;
            let numbers = noise(chance, reach(rows, cols, stride)).into_boxed_slice();
            Self { numbers, rows, cols, stride, turned }
        }

        fn view(&self) -> View<'_> {
            let view = View::new(&self.numbers, self.rows, self.cols, self.stride);
            if self.turned { view.transposed() } else { view }
        }

        fn at(&self, row: usize, col: usize) -> f64 {
            let (row, col) = if self.turned { (col, row) } else { (row, col) };
            self.numbers[row * self.stride + col].into()
        }
    }

    /// Goal: a product of any sizes, gaps and layouts is right and stays inside its slices.
    /// Oracle: three loops in f64. Seed 1.
    #[test]
    fn products_at_the_edge_of_their_slices_equal_three_loops() {
        let mut chance = ChaCha8Rng::seed_from_u64(1);
        let ways = [(Into::Replace, Threads::One), (Into::Add, Threads::All)];
        for (m, k, n) in SIZES
            .iter()
            .flat_map(|&m| SIZES.iter().flat_map(move |&k| SIZES.iter().map(move |&n| (m, k, n))))
        {
            let bits = chance.next_u32();
            let (gap, c_gap) = ((bits & 3) as usize, (bits >> 2 & 3) as usize);
            let a = Matrix::new(&mut chance, (m, k), gap, bits & 16 != 0);
            let b = Matrix::new(&mut chance, (k, n), gap, bits & 32 != 0);
            let stride = n + c_gap;
            let before = noise(&mut chance, reach(m, n, stride)).into_boxed_slice();
            for (into, threads) in ways {
                let (mut c, mut nearby) = (before.clone(), before.clone());
                matmul(&mut c, stride, a.view(), b.view(), 0.5, into, threads);
                near(&mut nearby, stride, a.view(), b.view(), into);
                for (row, col) in (0..m).flat_map(|row| (0..n).map(move |col| (row, col))) {
                    let sum: f64 = (0..k).map(|i| a.at(row, i) * b.at(i, col)).sum();
                    let add = if into == Into::Add { before[row * stride + col] } else { 0.0 };
                    let (add, at) = (f64::from(add), row * stride + col);
                    for (expected, got) in [(0.5 * sum + add, c[at]), (sum + add, nearby[at])] {
                        let error = (f64::from(got) - expected).abs();
                        assert!(error < TOLERANCE, "{m} x {k} x {n} at {row}, {col}: {error:.1e}");
                    }
                }
                for gap in (0..m - 1).map(|row| row * stride + n..(row + 1) * stride) {
                    let same = |c: &[f32]| c[gap.clone()] == before[gap.clone()];
                    assert!(same(&c) && same(&nearby), "{m} x {k} x {n}: a gap was written");
                }
            }
        }
    }

    /// The largest difference from `left` times `right`, both by index, that `out` shows; and
    /// whether the gaps between its rows are as they were.
    fn worst(
        (rows, depth, columns, stride): (usize, usize, usize, usize),
        out: &[f32],
        before: &[f32],
        left: impl Fn(usize, usize) -> f32,
        right: impl Fn(usize, usize) -> f32,
    ) -> (f64, bool) {
        let (mut worst, mut kept) = (0f64, true);
        for row in 0..rows {
            for col in 0..columns {
                let product = |k| f64::from(left(row, k)) * f64::from(right(k, col));
                let at = row * stride + col;
                let sum = f64::from(before[at]) + (0..depth).map(product).sum::<f64>();
                worst = worst.max((f64::from(out[at]) - sum).abs());
            }
            let gap = row * stride + columns..((row + 1) * stride).min(out.len());
            kept &= out[gap.clone()] == before[gap];
        }
        (worst, kept)
    }

    /// Goal: products with a frozen matrix, however it is kept, are right and stay in their slices.
    /// Oracle: three loops in f64 over the widened matrix. Seed 3.
    #[test]
    fn frozen_products_at_the_edge_of_their_slices_equal_three_loops() {
        let (mut chance, pool) = (ChaCha8Rng::seed_from_u64(3), Pool::default());
        let ways = [
            (HeadWeights::F32, MatmulPrecision::Highest),
            (HeadWeights::Auto, MatmulPrecision::Highest),
            (HeadWeights::Bf16, MatmulPrecision::Highest),
            (HeadWeights::Bf16, MatmulPrecision::Medium),
            (HeadWeights::Int8, MatmulPrecision::Highest),
        ];
        let sizes = [1, 2, 5, 15, 16, 17, 47, 48, 49, 97, 130, 300];
        for (rows, fan_in, fan_out) in [1, 3, 8, 9, 65]
            .into_iter()
            .flat_map(|rows| sizes.into_iter().flat_map(move |a| sizes.map(|b| (rows, a, b))))
        {
            let numbers = noise(&mut chance, fan_in * fan_out);
            let mut x = noise(&mut chance, rows * fan_in).into_boxed_slice();
            let mut dy = noise(&mut chance, rows * fan_out).into_boxed_slice();
            // In long rows the last number is far above the others, and is kept apart by int8.
            for (row, width) in [(&mut x, fan_in), (&mut dy, fan_out)] {
                let rows = row.chunks_exact_mut(width).filter(|_| width > 90);
                rows.for_each(|row| row[width - 1] = 100.0);
            }
            let stride = fan_out + (chance.next_u32() % 3) as usize;
            let out = noise(&mut chance, reach(rows, fan_out, stride)).into_boxed_slice();
            let dx = noise(&mut chance, rows * fan_in).into_boxed_slice();
            for (weights, precision) in ways {
                let what =
                    format!("{weights:?}, {precision:?}, {rows} rows of {fan_in} to {fan_out}");
                let form = Form { weights, precision };
                let frozen = Frozen::new(numbers.clone(), (fan_in, fan_out), form);
                let wide = frozen.widened();
                let w = |i: usize, o: usize| wide[i * fan_out + o];
                // A row rounded to 8 bits is off by up to 1/254 of its largest number, one in bf16 by
                // 1/256 of each.
                let is_rounded =
                    weights == HeadWeights::Int8 || precision == MatmulPrecision::Medium;
                let rounded = if is_rounded { 1.0 / 200.0 } else { 0.0 };
                let within = |depth: usize| TOLERANCE * 10.0 + rounded * depth as f64;
                let mut got = out.clone();
                let place = (&mut got[..], stride, Into::Add);
                frozen.forward(View::dense(&x, rows, fan_in), place, &pool);
                let shape = (rows, fan_in, fan_out, stride);
                let (error, kept) = worst(shape, &got, &out, |r, k| x[r * fan_in + k], w);
                assert!(kept && error < within(fan_in), "{what}: {error:.1e}, gaps kept: {kept}");
                let mut got = dx.clone();
                frozen.backward(View::dense(&dy, rows, fan_out), (&mut got, Into::Add), &pool);
                let shape = (rows, fan_out, fan_in, fan_in);
                let (error, _) =
                    worst(shape, &got, &dx, |r, k| dy[r * fan_out + k], |k, c| w(c, k));
                assert!(error < within(fan_out), "{what}, back: {error:.1e}");
            }
        }
    }

    /// Goal: every head and tile reads and writes its own part of rows that hold all heads.
    #[test]
    fn attention_of_odd_shapes_stays_inside_its_rows() {
        let mut chance = ChaCha8Rng::seed_from_u64(2);
        for (batch, tokens, heads, kv_heads, head_dim) in
            [(1, 1usize, 1, 1, 2), (2, 7, 3, 1, 6), (3, 65, 4, 2, 10), (1, 129, 6, 6, 48)]
        {
            let shape = Shape { heads, kv_heads, head_dim };
            // Of other lengths, but for the longest.
            let sequences = Sequences::new((0..batch).map(|i| tokens.saturating_sub(i).max(1)));
            let (places, n) = ((&shape, &sequences), sequences.rows());
            let mut qkv = noise(&mut chance, n * shape.qkv());
            let table = noise(&mut chance, tokens * head_dim / 2);
            let turns = Turns { cos: table.clone(), sin: table };
            rope(&mut qkv, places, (&turns, 0), Turn::Forward);
            let (mut out, mut lse) = (vec![0.0; n * shape.q()], vec![0.0; n * heads]);
            attention(places, &qkv, &mut out, &mut lse);
            let dout = noise(&mut chance, out.len());
            let mut dqkv = vec![0.0; qkv.len()];
            attention_backward(places, (&qkv, &out, &lse), &dout, &mut dqkv, true);
            rope(&mut dqkv, places, (&turns, 0), Turn::Back);
            let finite = [&out, &lse, &dqkv].into_iter().flatten().all(|number| number.is_finite());
            assert!(finite, "{shape:?}");
        }
    }

    /// What the sanitizer must stop; the script runs it to know that it would.
    #[test]
    #[ignore = "it is stopped by the sanitizer"]
    #[expect(unsafe_code, reason = "the mistake that must not go unseen")]
    fn a_read_past_the_end_is_seen() {
        let numbers = std::hint::black_box(vec![1f32; 8]);
        // # Safety
        // None: this is the mistake.
        let beyond = unsafe { std::ptr::read_volatile(numbers.as_ptr().add(numbers.len())) };
        std::hint::black_box(beyond);
    }
}
