//! Products of kept matrices against plain sums in f64, over shapes that fit no tile.

mod medium;

use super::*;

/// Rows, in and out: one of each, tiles to the number, and one more or less on every side.
const SHAPES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (8, 4, 48), (7, 577, 47), (9, 3, 49), (65, 260, 97), (130, 1153, 200)];
const KEPT: [Form; 5] = [
    highest(HeadWeights::Auto),
    highest(HeadWeights::F32),
    highest(HeadWeights::Bf16),
    highest(HeadWeights::Int8),
    MEDIUM,
];
const MEDIUM: Form = Form { weights: HeadWeights::Bf16, precision: MatmulPrecision::Medium };

const fn highest(weights: HeadWeights) -> Form {
    Form { weights, precision: MatmulPrecision::Highest }
}

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / f64::from(u32::MAX) - 0.5
    };
    (0..len).map(|_| next() as f32).collect()
}

/// `[rows, depth] x [depth, columns]` in f64; `right` as a function of depth and column.
fn plain(
    left: &[f32],
    (rows, depth, columns): (usize, usize, usize),
    right: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let mut out = vec![0f64; rows * columns];
    for row in 0..rows {
        for column in 0..columns {
            let terms =
                (0..depth).map(|k| f64::from(left[row * depth + k]) * f64::from(right(k, column)));
            out[row * columns + column] = terms.sum();
        }
    }
    out
}

/// The root mean square of the differences over that of what was expected.
fn error(got: &[f32], expected: &[f64]) -> f64 {
    let squares = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    let off =
        squares(&mut got.iter().zip(expected).map(|(got, expected)| f64::from(*got) - expected));
    (off / squares(&mut expected.iter().copied()).max(1e-30)).sqrt()
}

/// What rounding may cost: f32 sums; int8 rows of 256 numbers are rounded to 1/254 of the largest
/// at most, whose root mean square over that of evenly spread numbers is 0.4 %. A number rounded to
/// bf16 is off by 2^-8 of itself at most, half of a step, and by half of that in the root mean square;
/// a product of one term, which averages nothing, may be off by all of it.
fn allowed(kept: Form) -> f64 {
    match kept {
        kept if kept.weights == HeadWeights::Int8 && whole() => 8e-3,
        kept if kept == MEDIUM && crate::products::in_bf16() => 2f64.powi(-8),
        _ => 1e-6,
    }
}

fn whole() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return panel::whole_available();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

#[test]
fn both_products_are_those_of_the_widened_matrix_on_any_shape() {
    let pool = Pool::default();
    for (kept, (rows, fan_in, fan_out)) in KEPT.into_iter().flat_map(|k| SHAPES.map(|s| (k, s))) {
        let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), kept);
        let wide = frozen.widened();
        let x = numbers(rows * fan_in, 2);
        let mut y = vec![f32::NAN; rows * fan_out];
        frozen.forward(View::dense(&x, rows, fan_in), (&mut y, fan_out, Into::Replace), &pool);
        let expected = plain(&x, (rows, fan_in, fan_out), |k, n| wide[k * fan_out + n]);
        let off = error(&y, &expected);
        assert!(off <= allowed(kept), "{kept:?} {rows} {fan_in} {fan_out} forward: {off}");

        let dy = numbers(rows * fan_out, 3);
        let mut dx = vec![1f32; rows * fan_in];
        frozen.backward(View::dense(&dy, rows, fan_out), (&mut dx, Into::Add), &pool);
        let mut expected = plain(&dy, (rows, fan_out, fan_in), |k, n| wide[n * fan_out + k]);
        expected.iter_mut().for_each(|sum| *sum += 1.0);
        let off = error(&dx, &expected);
        assert!(off <= allowed(kept), "{kept:?} {rows} {fan_in} {fan_out} backward: {off}");
    }
}

#[test]
fn one_row_is_a_product_like_any_other_on_any_shape_and_threads()
-> Result<(), rayon::ThreadPoolBuildError> {
    let shapes = [(1, 1), (3, 5), (4, 255), (577, 257), (130, 1153), (16, 4096), (61, 4099)];
    for (kept, (fan_in, fan_out)) in KEPT.into_iter().flat_map(|k| shapes.map(|s| (k, s))) {
        let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), kept);
        let wide = frozen.widened();
        let x = numbers(fan_in, 2);
        let run = |threads: usize, into| -> Result<Vec<f32>, rayon::ThreadPoolBuildError> {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let mut y = vec![1f32; fan_out];
            threads.install(|| frozen.forward_row(&x, &mut y, into));
            Ok(y)
        };
        let mut expected = plain(&x, (1, fan_in, fan_out), |k, n| wide[k * fan_out + n]);
        let (replaced, added) = (run(1, Into::Replace)?, run(1, Into::Add)?);
        let off = error(&replaced, &expected);
        // The row is not rounded, so that int8 is as exact as its codes.
        assert!(off <= 1e-6, "{kept:?} {fan_in} {fan_out}: {off}");
        expected.iter_mut().for_each(|sum| *sum += 1.0);
        let off = error(&added, &expected);
        assert!(off <= 1e-6, "{kept:?} {fan_in} {fan_out}, added: {off}");
        assert!(run(3, Into::Replace)? == replaced && run(2, Into::Add)? == added, "{kept:?}");
    }
    Ok(())
}

/// Goal: a matrix that shares its numbers, turned, is that matrix. Oracle: one of its own.
#[test]
fn a_turned_matrix_has_the_products_of_its_own_numbers() {
    let pool = Pool::default();
    for (kept, (rows, fan_in, fan_out)) in KEPT.into_iter().flat_map(|k| SHAPES.map(|s| (k, s))) {
        let stored = Frozen::new(numbers(fan_in * fan_out, 1), (fan_out, fan_in), kept);
        let turned = stored.turned();
        assert_eq!(turned.fans(), (fan_in, fan_out));
        let wide = turned.widened();
        assert!(fan_in > 1 || fan_out > 1 || wide == stored.widened());
        let x = numbers(rows * fan_in, 2);
        let mut y = vec![f32::NAN; rows * fan_out];
        turned.forward(View::dense(&x, rows, fan_in), (&mut y, fan_out, Into::Replace), &pool);
        let expected = plain(&x, (rows, fan_in, fan_out), |k, n| wide[k * fan_out + n]);
        let off = error(&y, &expected);
        assert!(off <= allowed(kept), "{kept:?} {rows} {fan_in} {fan_out} forward: {off}");
        let mut y = vec![f32::NAN; fan_out];
        turned.forward_row(&x[..fan_in], &mut y, Into::Replace);
        let off = error(&y, &expected[..fan_out]);
        assert!(off <= 1e-6, "{kept:?} {fan_in} {fan_out}, one row: {off}");

        let dy = numbers(rows * fan_out, 3);
        let mut dx = vec![f32::NAN; rows * fan_in];
        turned.backward_finely(View::dense(&dy, rows, fan_out), &mut dx, &pool);
        let expected = plain(&dy, (rows, fan_out, fan_in), |k, n| wide[n * fan_out + k]);
        let off = error(&dx, &expected);
        assert!(off <= allowed(kept), "{kept:?} {rows} {fan_in} {fan_out} backward: {off}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_gives_the_products_of_avx_512() {
    if !panel::available() {
        return;
    }
    for (kept, (rows, fan_in, fan_out)) in KEPT.into_iter().flat_map(|k| SHAPES.map(|s| (k, s))) {
        let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), kept);
        for side in [Side::Straight, Side::Turned] {
            let (depth, columns) = match side {
                Side::Straight => (fan_in, fan_out),
                Side::Turned => (fan_out, fan_in),
            };
            let x = numbers(rows * depth, 2);
            let run = |avx2: bool| {
                let mut y = vec![1f32; rows * columns];
                let out = Out { numbers: &mut y, stride: columns, into: Into::Add };
                let sides =
                    Float::new(View::dense(&x, rows, depth), frozen.floats(), fan_out, side);
                let sides = if avx2 { sides.with_avx2() } else { sides };
                sides.product(columns, out, Threads::All);
                y
            };
            assert!(run(true) == run(false), "{kept:?} {rows} {fan_in} {fan_out}");
        }
    }
}

/// Goal: what reads W as it lies gives the bits of what packs it. Oracle: the packed product.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_few_rows_have_the_bits_of_many() {
    const ROWS: [usize; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 23, 32, 63, 64];
    let (gap, halves) = (3, |x: &f32| f16::from_f32(*x).to_f32());
    for (fan_in, fan_out) in [(1, 1), (4, 48), (577, 47), (3, 49), (260, 97), (1153, 200)] {
        let weights = numbers(fan_in * fan_out, 1);
        let narrow: Vec<f32> = weights.iter().map(halves).collect();
        let kept = [
            (weights.clone(), HeadWeights::F32),
            (weights, HeadWeights::Bf16),
            (narrow, HeadWeights::Auto),
        ];
        for (rows, (weights, kept)) in
            ROWS.into_iter().flat_map(|rows| kept.clone().map(|k| (rows, k)))
        {
            let frozen = Frozen::new(weights, (fan_in, fan_out), highest(kept));
            let x = numbers(rows * fan_in, 2);
            let left = View::dense(&x, rows, fan_in);
            let Some(few) = Few::new(left, frozen.floats()) else { return };
            for into in [Into::Replace, Into::Add] {
                let mut all =
                    [vec![1f32; rows * (fan_out + gap)], vec![1f32; rows * (fan_out + gap)]];
                let [a, b] = all.each_mut().map(|numbers| {
                    let stride = fan_out + gap;
                    Out { numbers, stride, into }
                });
                few.product(fan_out, a);
                let many = Float::new(left, frozen.floats(), fan_out, Side::Straight);
                many.product(fan_out, b, Threads::All);
                assert!(all[0] == all[1], "{kept:?} {rows} {fan_in} {fan_out}");
            }
        }
    }
    let x = numbers(65, 2);
    assert!(Few::new(View::dense(&x, 65, 1), Floats::F32(&[1.0])).is_none());
}

/// Goal: both instructions give the same numbers. On a processor without SMMLA it is SDOT twice.
#[cfg(target_arch = "aarch64")]
#[test]
fn sdot_gives_the_products_of_smmla() {
    if !panel::whole_available() {
        return;
    }
    let pool = Pool::default();
    for (rows, fan_in, fan_out) in SHAPES {
        let weights = numbers(fan_in * fan_out, 1);
        let frozen = Frozen::new(weights, (fan_in, fan_out), highest(HeadWeights::Int8));
        let Numbers::Int8 { codes, scales } = &*frozen.numbers else { return };
        for (side, rounding) in [Side::Straight, Side::Turned]
            .into_iter()
            .flat_map(|side| [Rounding::Once, Rounding::Twice].map(|rounding| (side, rounding)))
        {
            let (depth, columns, factors) = match side {
                Side::Straight => (fan_in, fan_out, &scales.ins),
                Side::Turned => (fan_out, fan_in, &scales.outs),
            };
            let mut x = numbers(rows * depth, 2);
            // Kept apart where the row is long: in every place of eight.
            x.chunks_exact_mut(depth).enumerate().for_each(|(i, row)| row[11 * i % depth] = 100.0);
            let left = Quantised::new(View::dense(&x, rows, depth), factors, rounding, &pool);
            let run = |dot: bool| {
                let mut numbers = vec![1f32; rows * columns];
                let out = Out { numbers: &mut numbers, stride: columns, into: Into::Add };
                let sides = Integer::new(&left, codes, scales, side);
                if dot { sides.with_dot() } else { sides }.product(columns, out);
                numbers
            };
            assert!(run(true) == run(false), "{rows} {fan_in} {fan_out}");
        }
    }
}

/// Goal: products have the same bits on every processor that our kernels serve: sums are fused and
/// in one order. Oracle: what AVX-512 gave on 2026-11-27, as a hash (FNV-1a) of all bits.
#[test]
fn products_have_the_bits_of_every_other_processor() {
    let (pool, (rows, fan_in, fan_out)) = (Pool::default(), (11, 700, 197));
    let weights = numbers(fan_in * fan_out, 1);
    let halves = weights.iter().map(|x| f16::from_f32(*x).to_f32()).collect();
    let (mut x, dy) = (numbers(rows * fan_in, 2), numbers(rows * fan_out, 3));
    x.chunks_exact_mut(fan_in).step_by(2).for_each(|row| row[5] = 300.0);
    let hash = |(weights, kept): (Vec<f32>, HeadWeights)| {
        let frozen = Frozen::new(weights, (fan_in, fan_out), highest(kept));
        let mut y = vec![0.5f32; rows * fan_out];
        frozen.forward(View::dense(&x, rows, fan_in), (&mut y, fan_out, Into::Add), &pool);
        let (mut dx, mut fine) = (vec![0f32; rows * fan_in], vec![0f32; rows * fan_in]);
        let dy = View::dense(&dy, rows, fan_out);
        frozen.backward(dy, (&mut dx, Into::Replace), &pool);
        frozen.backward_finely(dy, &mut fine, &pool);
        let mut one = vec![0f32; fan_out];
        frozen.forward_row(&x[..fan_in], &mut one, Into::Replace);
        let bytes = [y, dx, fine, one].concat().into_iter().flat_map(|x| x.to_bits().to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:x}")
    };
    if crate::products::one_order() {
        let kept = [
            (weights.clone(), HeadWeights::F32),
            (halves, HeadWeights::Auto),
            (weights.clone(), HeadWeights::Bf16),
        ];
        assert_eq!(kept.map(hash), ["37e2505f09db6c9b", "a630619cdd1b7545", "ead9d15ee39a742a"]);
    }
    if whole() {
        assert_eq!(hash((weights, HeadWeights::Int8)), "fc7125e00daae1e1");
    }
}

#[test]
fn slopes_of_logits_keep_their_small_numbers() {
    let (rows, fan_in, fan_out) = (9, 40, 1000);
    // One large number in a row and many small ones of one sign, as softmax leaves them.
    let small: Vec<f32> = numbers(rows * fan_out, 5).iter().map(|x| (x + 0.5) * 1e-3).collect();
    let slopes: Vec<f32> =
        small.iter().enumerate().map(|(i, &x)| if i % fan_out == 77 { -1.0 } else { x }).collect();
    for kept in KEPT {
        let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), kept);
        let wide = frozen.widened();
        let mut dx = vec![f32::NAN; rows * fan_in];
        frozen.backward_finely(View::dense(&slopes, rows, fan_out), &mut dx, &Pool::default());
        let mut expected = plain(&slopes, (rows, fan_out, fan_in), |k, n| wide[n * fan_out + k]);
        // The large number alone is easy: what is compared is the sum of the small ones.
        for (sum, at) in expected.iter_mut().zip(0..) {
            let (row, n) = (at / fan_in, at % fan_in);
            let large = wide[n * fan_out + 77] * slopes[row * fan_out + 77];
            *sum -= f64::from(large);
            dx[at] -= large;
        }
        let off = error(&dx, &expected);
        // 16 bits of 1 are steps of 3e-5 beside numbers of 5e-4; f32 loses 6e-8 of 1.
        assert!(off <= if whole() { 0.02 } else { 1e-4 }, "{kept:?}: {off}");
    }
}

/// Goal: channels a thousand times larger than the others, as trained models have them, cost the
/// others no more than rounding costs anyway. Oracle: f64, without the terms of those channels.
#[test]
fn a_channel_a_thousand_times_larger_leaves_the_others_exact() {
    let (rows, fan_in, fan_out) = (9, 600, 500);
    let large = [(3, 1000.0), (140, 60.0), (333, -1000.0), (334, 300.0), (499, 1000.0)];
    for kept in KEPT {
        let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), kept);
        let wide = frozen.widened();
        for side in [Side::Straight, Side::Turned] {
            let (depth, columns) = match side {
                Side::Straight => (fan_in, fan_out),
                Side::Turned => (fan_out, fan_in),
            };
            let at = |k: usize, n: usize| match side {
                Side::Straight => wide[k * fan_out + n],
                Side::Turned => wide[n * fan_out + k],
            };
            let mut x = numbers(rows * depth, 2);
            for row in x.chunks_exact_mut(depth) {
                large.iter().for_each(|(k, times)| row[*k] = 0.4 * times);
            }
            let (view, mut y) = (View::dense(&x, rows, depth), vec![f32::NAN; rows * columns]);
            match side {
                Side::Straight => {
                    frozen.forward(view, (&mut y, columns, Into::Replace), &Pool::default());
                }
                Side::Turned => {
                    frozen.backward(view, (&mut y, Into::Replace), &Pool::default());
                }
            }
            let mut got = y.iter().map(|y| f64::from(*y)).collect::<Vec<_>>();
            for (i, got) in got.iter_mut().enumerate() {
                let terms = large.map(|(k, _)| (x[i / columns * depth + k], at(k, i % columns)));
                *got -= terms.iter().map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
            }
            let got: Vec<f32> = got.into_iter().map(|y| y as f32).collect();
            for row in x.chunks_exact_mut(depth) {
                large.iter().for_each(|(k, _)| row[*k] = 0.0);
            }
            let off = error(&got, &plain(&x, (rows, depth, columns), at));
            // f32 holds the sums, of some 500 beside the others' 2, to 6e-8 of 500 a step.
            let allowed = allowed(kept).max(2e-4);
            assert!(off <= allowed, "{kept:?} {depth} x {columns}: {off}");
        }
    }
}

#[test]
fn rows_with_gaps_on_both_sides_leave_the_gaps_alone() {
    let (rows, fan_in, fan_out, gap) = (11, 37, 53, 5);
    for kept in KEPT {
        let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), kept);
        let wide = frozen.widened();
        let x = numbers(rows * (fan_in + gap), 2);
        let mut y = vec![7f32; rows * (fan_out + gap)];
        let view = View::new(&x, rows, fan_in, fan_in + gap);
        frozen.forward(view, (&mut y, fan_out + gap, Into::Replace), &Pool::default());
        let dense: Vec<f32> =
            x.chunks_exact(fan_in + gap).flat_map(|row| &row[..fan_in]).copied().collect();
        let expected = plain(&dense, (rows, fan_in, fan_out), |k, n| wide[k * fan_out + n]);
        let got: Vec<f32> =
            y.chunks_exact(fan_out + gap).flat_map(|row| &row[..fan_out]).copied().collect();
        assert!(error(&got, &expected) <= allowed(kept), "{kept:?}");
        assert!(y.chunks_exact(fan_out + gap).all(|row| row[fan_out..] == [7.0; 5]), "{kept:?}");
    }
}

#[test]
fn threads_and_rows_beside_it_change_no_bit_of_a_row() -> Result<(), rayon::ThreadPoolBuildError> {
    let (rows, fan_in, fan_out) = (70, 600, 500);
    let mut x = numbers(rows * fan_in, 2);
    // Every other row has numbers that are kept apart.
    x.chunks_exact_mut(fan_in).step_by(2).for_each(|row| row[5] = 300.0);
    for kept in KEPT {
        let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), kept);
        let run = |threads: usize, rows| -> Result<Vec<f32>, rayon::ThreadPoolBuildError> {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let mut y = vec![0f32; rows * fan_out];
            let view = View::dense(&x, rows, fan_in);
            let out = (&mut y[..], fan_out, Into::Replace);
            threads.install(|| frozen.forward(view, out, &Pool::default()));
            Ok(y)
        };
        // f32 by the `gemm` crate, on other processors, makes no such promise.
        if crate::products::one_order() {
            let all = run(1, rows)?;
            assert!(all == run(2, rows)? && all == run(3, rows)?, "{kept:?}");
            assert!(all[..fan_out] == run(1, 1)?, "{kept:?}: a row beside others and alone");
        }
    }
    Ok(())
}

#[test]
fn auto_keeps_the_narrowest_form_that_loses_nothing() {
    if !crate::products::one_order() {
        return;
    }
    let kept = |numbers: &[f32]| {
        let frozen = Frozen::new(numbers.to_vec(), (1, numbers.len()), highest(HeadWeights::Auto));
        assert!(frozen.widened() == numbers);
        match *frozen.numbers {
            Numbers::Bf16(_) => "bf16",
            Numbers::F16(_) => "f16",
            _ => "f32",
        }
    };
    let large = bf16::MAX.to_f32();
    assert_eq!(kept(&[1.0, -0.0, large, 1.0 + 1.0 / 128.0]), "bf16");
    assert_eq!(kept(&[1.0, 1.0 + 1.0 / 1024.0]), "f16");
    assert_eq!(kept(&[1.0 + 1.0 / 1024.0, large]), "f32");
    assert_eq!(kept(&[1.0, 0.1]), "f32");
}

#[test]
fn an_int8_weight_is_off_by_half_a_step_at_most() {
    let (fan_in, fan_out) = (50, 30);
    let exact = numbers(fan_in * fan_out, 4);
    let frozen = Frozen::new(exact.clone(), (fan_in, fan_out), highest(HeadWeights::Int8));
    assert!(matches!(&*frozen.numbers, Numbers::Int8 { .. }));
    if let Numbers::Int8 { scales, .. } = &*frozen.numbers {
        for (at, (exact, wide)) in exact.iter().zip(frozen.widened()).enumerate() {
            let step = scales.ins[at / fan_out] * scales.outs[at % fan_out];
            // A thousandth more: the scales themselves are rounded.
            assert!((exact - wide).abs() <= 0.5001 * step, "{exact} {wide} of {step}");
        }
    }
}

/// Goal: the other inputs keep most of their digits. With a scale for each output alone they would
/// be rounded to steps of the large one's, 30 times their own; its root is left of that.
#[test]
fn an_input_of_large_weights_costs_the_others_only_the_root_of_it() {
    let (fan_in, fan_out, times) = (64, 40, 30.0);
    let mut exact = numbers(fan_in * fan_out, 4);
    exact[..fan_out].iter_mut().for_each(|weight| *weight *= times);
    let frozen = Frozen::new(exact.clone(), (fan_in, fan_out), highest(HeadWeights::Int8));
    let others: Vec<f64> = exact[fan_out..].iter().map(|weight| f64::from(*weight)).collect();
    let off = error(&frozen.widened()[fan_out..], &others);
    // A step of 1/127 of the largest, evenly spread: 1/127 of the root mean square, 0.46 %.
    assert!(off < 0.0046 * f64::from(times).sqrt() * 1.3, "{off}");
}

#[test]
fn what_is_not_a_number_reaches_the_output_of_every_kept_form() {
    let (rows, fan_in, fan_out) = (3, 300, 60);
    for (kept, poison) in KEPT.into_iter().flat_map(|k| [f32::NAN, f32::INFINITY].map(|p| (k, p))) {
        let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), kept);
        let mut x = numbers(rows * fan_in, 2);
        x[fan_in + 7] = poison;
        let mut y = vec![0f32; rows * fan_out];
        let out = (&mut y[..], fan_out, Into::Replace);
        frozen.forward(View::dense(&x, rows, fan_in), out, &Pool::default());
        assert!(y[fan_out..2 * fan_out].iter().all(|number| !number.is_finite()), "{kept:?}");
        assert!(y[..fan_out].iter().all(|number| number.is_finite()), "{kept:?}");
    }
}
