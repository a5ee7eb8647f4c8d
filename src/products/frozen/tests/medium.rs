//! Goal: medium precision rounds rows to bf16, multiplies what is kept in bf16, and changes nothing else.

use super::*;

/// Goal: rounding the rows is all that medium precision costs: rows that bf16 holds are multiplied as
/// exactly as in f32. Oracle: f64; the sums are f32's, so 1e-6 as for all others.
#[test]
fn rows_that_bf16_holds_lose_nothing_at_medium_precision() {
    let pool = Pool::default();
    for (rows, fan_in, fan_out) in SHAPES {
        let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), MEDIUM);
        let wide = frozen.widened();
        let held = |len, seed| -> Vec<f32> {
            numbers(len, seed).iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
        };
        let x = held(rows * fan_in, 2);
        let mut y = vec![f32::NAN; rows * fan_out];
        frozen.forward(View::dense(&x, rows, fan_in), (&mut y, fan_out, Into::Replace), &pool);
        let off = error(&y, &plain(&x, (rows, fan_in, fan_out), |k, n| wide[k * fan_out + n]));
        assert!(off <= 1e-6, "{rows} {fan_in} {fan_out} forward: {off}");

        let dy = held(rows * fan_out, 3);
        let mut dx = vec![f32::NAN; rows * fan_in];
        frozen.backward(View::dense(&dy, rows, fan_out), (&mut dx, Into::Replace), &pool);
        let off = error(&dx, &plain(&dy, (rows, fan_out, fan_in), |k, n| wide[n * fan_out + k]));
        assert!(off <= 1e-6, "{rows} {fan_in} {fan_out} backward: {off}");
    }
}

/// Goal: a row is rounded to the nearest bf16, to even between two. Oracle: the `half` crate, through
/// the identity; numbers below 2^-126 are zeros to the processor, and left out.
#[test]
fn a_row_is_rounded_to_the_nearest_bf16() {
    if !crate::products::in_bf16() {
        return;
    }
    let between = |bits: u32| f32::from_bits(0x3f80_8000 + bits);
    let mut x = vec![between(0), between(0x1_0000), between(1), -between(0x1_ffff), 0.0, -3e38];
    x.extend([f32::MIN_POSITIVE, 1e-37, 6.5e4, f32::MAX / 1.01]);
    x.extend(numbers(51, 4).iter().zip(0..).map(|(x, i)| x * 1.7f32.powi(i - 25)));
    let width = x.len();
    let identity = (0..width * width).map(|at| if at % (width + 1) == 0 { 1.0 } else { 0.0 });
    let frozen = Frozen::new(identity.collect(), (width, width), MEDIUM);
    let expected: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    let (mut y, mut dx) = (vec![f32::NAN; width], vec![f32::NAN; width]);
    let (view, pool) = (View::dense(&x, 1, width), Pool::default());
    frozen.forward(view, (&mut y, width, Into::Replace), &pool);
    frozen.backward(view, (&mut dx, Into::Replace), &pool);
    assert!(y == expected && dx == expected, "{y:?}, expected {expected:?}");
}

/// A sum and what a pair adds to it. AVX-512: the second product is added first, both are fused and rounded
/// to the nearest. BFMMLA: the products are added to one another, then to the sum; each sum is rounded
/// to odd (Arm Architecture Reference Manual, `BFMatMulAdd`).
fn added(sum: f32, halves: [f32; 2], weights: [f32; 2]) -> f32 {
    if cfg!(target_arch = "x86_64") {
        return halves[0].mul_add(weights[0], halves[1].mul_add(weights[1], sum));
    }
    // Exact in f64: a product has 16 digits, a sum 24, and none is far from the others.
    let odd = |exact: f64| {
        let near = exact as f32;
        let beyond = f64::from(near).abs() > exact.abs();
        let toward_zero = if beyond { f32::from_bits(near.to_bits() - 1) } else { near };
        let is_exact = f64::from(toward_zero) == exact;
        f32::from_bits(toward_zero.to_bits() | u32::from(!is_exact))
    };
    let [first, second] = [0, 1].map(|i| f64::from(halves[i]) * f64::from(weights[i]));
    odd(f64::from(sum) + f64::from(odd(first + second)))
}

/// Goal: every bit of a product is what the instruction is documented to give.
/// Oracle: [`added`], over a depth that is summed in one piece and does not come out even.
#[test]
fn a_product_in_bf16_has_the_bits_of_its_pairs_added_in_order() {
    if !crate::products::in_bf16() {
        return;
    }
    let (rows, fan_in, fan_out) = (9, 131, 97);
    let frozen = Frozen::new(numbers(fan_in * fan_out, 1), (fan_in, fan_out), MEDIUM);
    let wide = frozen.widened();
    let sum = |row: &[f32], weight: &dyn Fn(usize) -> f32| {
        let halves: Vec<f32> = row.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        let weights = (0..row.len()).map(weight).chain([0.0]).collect::<Vec<_>>();
        let halves = halves.into_iter().chain([0.0]).collect::<Vec<_>>();
        let pairs = halves.as_chunks().0.iter().zip(weights.as_chunks().0);
        pairs.fold(0f32, |sum, (halves, weights)| added(sum, *halves, *weights))
    };
    let (x, dy) = (numbers(rows * fan_in, 2), numbers(rows * fan_out, 3));
    let (mut y, mut dx) = (vec![f32::NAN; rows * fan_out], vec![f32::NAN; rows * fan_in]);
    let pool = Pool::default();
    frozen.forward(View::dense(&x, rows, fan_in), (&mut y, fan_out, Into::Replace), &pool);
    frozen.backward(View::dense(&dy, rows, fan_out), (&mut dx, Into::Replace), &pool);
    for row in 0..rows {
        let (x, dy) = (&x[row * fan_in..][..fan_in], &dy[row * fan_out..][..fan_out]);
        for n in 0..fan_out {
            assert_eq!(y[row * fan_out + n], sum(x, &|k| wide[k * fan_out + n]), "{row} {n}");
        }
        for k in 0..fan_in {
            assert_eq!(dx[row * fan_in + k], sum(dy, &|n| wide[k * fan_out + n]), "{row} {k}");
        }
    }
}

/// Goal: what is not kept in bf16 is multiplied at medium precision as at highest, bit for bit, and a
/// matrix says which of both it is.
#[test]
fn medium_precision_is_highest_where_weights_are_not_kept_in_bf16() {
    let (rows, fan_in, fan_out) = (9, 130, 97);
    let exact = numbers(fan_in * fan_out, 1);
    let halves: Vec<f32> = exact.iter().map(|x| f16::from_f32(*x).to_f32()).collect();
    let x = numbers(rows * fan_in, 2);
    let product = |numbers: &[f32], weights, precision| {
        let frozen = Frozen::new(numbers.to_vec(), (fan_in, fan_out), Form { weights, precision });
        let mut y = vec![f32::NAN; rows * fan_out];
        let view = View::dense(&x, rows, fan_in);
        frozen.forward(view, (&mut y, fan_out, Into::Replace), &Pool::default());
        (y, frozen.is_multiplied_in_bf16())
    };
    let ways = [
        (&exact, HeadWeights::F32),
        (&exact, HeadWeights::Auto),
        (&halves, HeadWeights::Auto),
        (&exact, HeadWeights::Int8),
    ];
    for (numbers, weights) in ways {
        let (medium, is_bf16) = product(numbers, weights, MatmulPrecision::Medium);
        assert!(!is_bf16 && medium == product(numbers, weights, MatmulPrecision::Highest).0);
    }
    let (medium, is_bf16) = product(&exact, HeadWeights::Bf16, MatmulPrecision::Medium);
    assert_eq!(is_bf16, crate::products::in_bf16());
    let (highest, never) = product(&exact, HeadWeights::Bf16, MatmulPrecision::Highest);
    assert!(!never && (medium == highest) != is_bf16);
}
