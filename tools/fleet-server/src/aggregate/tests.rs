//! Tests of the merge: against numpy, against the dense matrix, and for the same bytes.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::dense::{qr, svd};
use super::walk::norm_on;
use super::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use safetensors::SafeTensors;
use sapwood::adapter::{Strength, Target};
use serde_json::Value;
use std::path::Path;

const TARGETS: [(Target, usize, usize); 3] =
    [(Target::Q, 96, 80), (Target::K, 96, 40), (Target::Down, 64, 72)];

pub(super) struct Updates(pub(super) Vec<Adapter>);

impl Source for Updates {
    type Error = AggregateError;

    fn read(&mut self, at: usize) -> Result<&Adapter, AggregateError> {
        Ok(&self.0[at])
    }
}

pub(super) fn spec_of(places: &[(Target, usize, usize)], rank: usize, scale: f32) -> Spec {
    Spec::placed(0..1, |_, target| {
        let (_, fan_in, fan_out) = places.iter().find(|(one, ..)| *one == target)?;
        let alpha = scale * rank as f32;
        Some((Strength { rank, alpha }, (*fan_in, *fan_out)))
    })
}

pub(super) fn spec(rank: usize) -> Spec {
    spec_of(&TARGETS, rank, 1.0)
}

/// Noise whose products are about as large whatever the rank.
pub(super) fn random(rank: usize, size: f32, seed: u64) -> Adapter {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let spec = spec(rank);
    let factor = (size / (rank as f32).sqrt()).sqrt();
    let mut normal =
        || (0..12).map(|_| chance.next_u32() as f32 / u32::MAX as f32).sum::<f32>() - 6.0;
    Adapter { values: (0..spec.len()).map(|_| factor * normal()).collect(), spec }
}

/// `sum` of two adapters of equal spec, factor by factor.
fn near(common: &Adapter, size: f32, seed: u64) -> Adapter {
    let own = random(common.spec.modules[0].rank, size, seed);
    let values = common.values.iter().zip(&own.values).map(|(one, two)| one + two).collect();
    Adapter { spec: own.spec, values }
}

pub(super) fn facts(updates: &Updates) -> Vec<Facts> {
    let facts = |(at, update): (usize, &Adapter)| Facts {
        at,
        hash: *blake3::hash(
            &update.values.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>(),
        )
        .as_bytes(),
        norm: norm(update).unwrap(),
        rank: update.spec.modules[0].rank,
        weight: 1.0 + (update.values[0].abs() * 3.0).min(2.0) as f64,
    };
    updates.0.iter().enumerate().map(facts).collect()
}

/// A merge's parts by both ways: exact, sketched.
fn both(from: Option<&Adapter>, updates: &mut Updates, rank: usize) -> [Vec<Truncated>; 2] {
    let shares = shares(&facts(updates), Clip::Median, 1.0).unwrap();
    let spec = spec(rank);
    let plan = Plan { spec: &spec, from, shares: &shares, seed: [3; 32] };
    let processor = Processor::widest();
    let exact = exact::merge(processor, updates, &plan).unwrap();
    [exact, sketch::merge(processor, updates, &plan).unwrap()]
}

/// `left^T right` written out, `[fan_out, fan_in]`.
fn dense(left: &Rows, right: &Rows) -> Vec<f64> {
    let mut product = vec![0.0; left.width * right.width];
    for rank in 0..left.len() {
        for (row, factor) in product.chunks_exact_mut(right.width).zip(left.row(rank)) {
            row.iter_mut().zip(right.row(rank)).for_each(|(sum, number)| *sum += factor * number);
        }
    }
    product
}

/// `scale B A` of a module written out.
fn product(adapter: &Adapter, at: usize) -> Vec<f64> {
    let module = &adapter.spec.modules[at];
    let (mut left, mut right) =
        (Rows::zeros(module.rank, module.fan_out), Rows::zeros(module.rank, module.fan_in));
    for (at, number) in adapter.b(module).iter().enumerate() {
        let place = (at % module.rank) * module.fan_out + at / module.rank;
        left.numbers[place] = f64::from(*number) * f64::from(module.scale);
    }
    right.numbers = adapter.a(module).iter().map(|number| f64::from(*number)).collect();
    dense(&left, &right)
}

fn size(numbers: &[f64]) -> f64 {
    numbers.iter().map(|number| number * number).sum::<f64>().sqrt()
}

/// `|one - two| / |two|`.
fn gap(one: &[f64], two: &[f64]) -> f64 {
    let difference: Vec<f64> = one.iter().zip(two).map(|(one, two)| one - two).collect();
    size(&difference) / size(two).max(f64::MIN_POSITIVE)
}

/// M of every module, written out.
fn sums(from: Option<&Adapter>, updates: &Updates, shares: &[Share]) -> Vec<Vec<f64>> {
    let module = |at: usize| {
        let module = &updates.0[0].spec.modules[at];
        let mut sum = vec![0.0; module.fan_in * module.fan_out];
        let terms = shares.iter().map(|share| (&updates.0[share.at], share.factor));
        for (adapter, factor) in terms.chain(from.map(|from| (from, 1.0))) {
            sum.iter_mut().zip(product(adapter, at)).for_each(|(sum, one)| *sum += factor * one);
        }
        sum
    };
    (0..updates.0[0].spec.modules.len()).map(module).collect()
}

/// The residual of the sketched way in parts of the best there is, both measured on the dense M; and
/// the residual's energy as the sketched way tells it, in parts of what it is.
fn beside_the_best(from: Option<&Adapter>, updates: &mut Updates, rank: usize) -> (f64, f64) {
    let [exact, sketched] = both(from, updates, rank);
    let shares = shares(&facts(updates), Clip::Median, 1.0).unwrap();
    let sums = sums(from, updates, &shares);
    let residual = |parts: &[Truncated]| -> f64 {
        let square = |(part, sum): (&Truncated, &Vec<f64>)| {
            let difference = dense(&part.left, &part.right).into_iter().zip(sum);
            difference.map(|(one, two)| (one - two) * (one - two)).sum::<f64>()
        };
        parts.iter().zip(&sums).map(square).sum()
    };
    let told: f64 = sketched.iter().map(|part| part.dropped).sum();
    ((residual(&sketched) / residual(&exact)).sqrt(), told / residual(&sketched))
}

pub(super) fn bytes(adapter: &Adapter) -> Vec<u8> {
    adapter.values.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Many updates of mixed ranks about a common part.
pub(super) fn crowd() -> Updates {
    let common: Vec<Adapter> = [4, 8, 16].map(|rank| random(rank, 1.0, rank as u64)).into();
    Updates((0..24).map(|at| near(&common[at % 3], 0.5, 100 + at as u64)).collect())
}

pub(super) fn numbers(view: &safetensors::tensor::TensorView<'_>) -> Vec<f64> {
    match view.dtype() {
        safetensors::Dtype::F64 => {
            view.data().as_chunks().0.iter().map(|word| f64::from_le_bytes(*word)).collect()
        }
        _ => {
            let words = view.data().as_chunks().0.iter();
            words.map(|word| f64::from(f32::from_le_bytes(*word))).collect()
        }
    }
}

/// Goal: mixed ranks, weights, clip, eta and truncation equal numpy's on the dense matrix. Oracle:
/// `tools/golden/merge.py`. Both ways where a sketch holds all there is; 1e-12 is f64 in another order.
#[test]
fn a_merge_equals_the_dense_one_of_numpy() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fleet");
    let told: Value =
        serde_json::from_slice(&std::fs::read(folder.join("merge.json")).unwrap()).unwrap();
    let file = std::fs::read(folder.join("merge.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let places = [(Target::Q, 48, 40), (Target::V, 48, 20), (Target::Down, 64, 48)];
    let names = ["q", "v", "down"];
    let adapter = |who: &str, rank: usize, scale: f32| {
        let spec = spec_of(&places, rank, scale);
        let factors = names.iter().flat_map(|name| ["a", "b"].map(|side| (name, side)));
        let tensor = |(name, side)| numbers(&file.tensor(&format!("{who}.{name}.{side}")).unwrap());
        let values = factors.flat_map(tensor).map(|number| number as f32).collect();
        Adapter { spec, values }
    };
    let number = |name: &str, at: usize| told[name][at].as_f64().unwrap();
    let from = adapter("global", 16, 1.0);
    let updates = (0..3).map(|at| {
        adapter(&at.to_string(), number("ranks", at) as usize, number("scales", at) as f32)
    });
    let mut updates = Updates(updates.collect());
    let learned: Vec<(u64, u32)> =
        (0..3).map(|at| (number("tokens", at) as u64, number("behind", at) as u32)).collect();
    let weights = by_tokens(&learned);
    let mut facts = facts(&updates);
    for (at, one) in facts.iter_mut().enumerate() {
        assert!((one.norm / number("norms", at) - 1.0).abs() < 1e-12);
        one.weight = weights[at];
    }
    let eta = told["eta"].as_f64().unwrap();
    let shares = shares(&facts, Clip::Median, eta).unwrap();
    for share in &shares {
        let expected = eta * number("weights", share.at) * number("clips", share.at);
        assert!((share.factor / expected - 1.0).abs() < 1e-12);
    }
    let spec = spec_of(&places, 16, 1.0);
    let plan = Plan { spec: &spec, from: Some(&from), shares: &shares, seed: [0; 32] };
    assert!(plan.exact());
    let processor = Processor::widest();
    let parts = exact::merge(processor, &mut updates, &plan).unwrap();
    for (part, name) in parts.iter().zip(names) {
        let expected = numbers(&file.tensor(&format!("merged.{name}")).unwrap());
        let off = gap(&dense(&part.left, &part.right), &expected);
        assert!(off < 1e-12, "{name}: {off:e}");
        let values = numbers(&file.tensor(&format!("values.{name}")).unwrap());
        assert!(gap(&part.values, &values[..16]) < 1e-12, "{name}: {:?}", part.values);
    }
    // V has 20 outputs, fewer than the sketch has columns: there it is exact too.
    let sketched = sketch::merge(processor, &mut updates, &plan).unwrap();
    let expected = numbers(&file.tensor("merged.v").unwrap());
    assert!(gap(&dense(&sketched[1].left, &sketched[1].right), &expected) < 1e-12);
    let merged = merge(&mut updates, &plan).unwrap();
    assert!((merged.dropped / told["dropped"].as_f64().unwrap() - 1.0).abs() < 1e-11);
    for (at, name) in names.iter().enumerate() {
        let expected = numbers(&file.tensor(&format!("merged.{name}")).unwrap());
        let off = gap(&product(&merged.adapter, at), &expected);
        // Two factors of 24 bits, 16 terms: the last bit of f32.
        assert!(off < 1.2e-7, "{name}: {off:e}");
    }
}

#[test]
fn a_sketch_is_nearly_the_best_of_its_rank() {
    let (cold, told) = beside_the_best(None, &mut crowd(), 16);
    assert!((1.0 - 1e-12..1.01).contains(&cold), "started from chance: {cold}");
    assert!((told - 1.0).abs() < 0.05, "{told}");
    let from = random(16, 1.0, 1);
    let (steep, _) = beside_the_best(Some(&from), &mut crowd(), 16);
    assert!((1.0 - 1e-12..1.03).contains(&steep), "a step as large as G: {steep}");
    let mut updates = crowd();
    // The mean of the crowd is about as large as G.
    updates.0.iter_mut().flat_map(|one| &mut one.spec.modules).for_each(|one| one.scale /= 3.0);
    let (warm, told) = beside_the_best(Some(&from), &mut updates, 16);
    assert!((1.0 - 1e-12..1.001).contains(&warm), "a third of G: {warm}");
    assert!((told - 1.0).abs() < 0.05, "{told}");
}

#[test]
fn order_and_processor_change_no_byte() {
    let from = random(16, 1.0, 1);
    for (count, from) in [(24, Some(&from)), (24, None), (3, Some(&from))] {
        let mut updates = crowd();
        updates.0.truncate(count);
        let spec = spec(16);
        let mut merged = |facts: &[Facts], processor| {
            let shares = shares(facts, Clip::Median, 0.5).unwrap();
            let plan = Plan { spec: &spec, from, shares: &shares, seed: [9; 32] };
            assert_eq!(plan.exact(), count == 3);
            let merged = merge_on(processor, &mut updates, &plan).unwrap();
            (bytes(&merged.adapter), merged.dropped.to_bits())
        };
        let mut facts = facts(&Updates(crowd().0.into_iter().take(count).collect()));
        let expected = merged(&facts, Processor::widest());
        assert!(expected == merged(&facts, Processor::plain()), "{count}: the processors differ");
        facts.reverse();
        facts.swap(0, 2);
        assert!(expected == merged(&facts, Processor::widest()), "{count}: the order matters");
    }
    let one = random(8, 1.0, 5);
    let [wide, plain] = [Processor::widest(), Processor::plain()]
        .map(|processor| norm_on(processor, &one).unwrap());
    assert_eq!(wide.to_bits(), plain.to_bits());
    let known = sapwood::adapter::compare::inspect(&one).unwrap().norm;
    assert!((wide / known - 1.0).abs() < 1e-12, "{wide} {known}");
}

/// A replica of another kind, system or year must find the same: the bytes are pinned.
#[test]
fn the_bytes_are_those_of_every_machine() {
    let from = random(16, 1.0, 1);
    let mut updates = crowd();
    let shares = shares(&facts(&updates), Clip::Median, 1.0).unwrap();
    let spec = spec(16);
    let plan = Plan { spec: &spec, from: Some(&from), shares: &shares, seed: [1; 32] };
    let merged = merge(&mut updates, &plan).unwrap();
    let hash = blake3::hash(&bytes(&merged.adapter)).to_hex();
    assert_eq!(hash.as_str(), "8b752b7a55a9d3e3b19555146a73c82b70b3eb43c4d58e6d78f01bbe0139525e");
}

#[test]
fn how_a_device_splits_its_product_does_not_matter() {
    let mut updates = crowd();
    let facts = facts(&updates);
    let shares = shares(&facts, Clip::Median, 1.0).unwrap();
    let spec = spec(16);
    let plan = Plan { spec: &spec, from: None, shares: &shares, seed: [1; 32] };
    let plain = merge(&mut updates, &plan).unwrap();
    for update in &mut updates.0 {
        for module in update.spec.modules.clone() {
            // Row 0 gets three times row 1; column 1 loses three times column 0. Then powers of two.
            let (first, second) = update.values[module.a.clone()].split_at_mut(module.fan_in);
            first.iter_mut().zip(&*second).for_each(|(one, two)| *one = (*one + 3.0 * two) * 4.0);
            for row in update.values[module.b.clone()].chunks_exact_mut(module.rank) {
                row[1] -= 3.0 * row[0];
                row[0] /= 4.0;
            }
        }
    }
    let turned = merge(&mut updates, &plan).unwrap();
    for at in 0..TARGETS.len() {
        let off = gap(&product(&turned.adapter, at), &product(&plain.adapter, at));
        // The factors were rounded to f32 again, up to thirteen times as large.
        assert!(off < 2e-6, "{off:e}");
    }
}

#[test]
fn one_to_three_updates_are_their_mean() {
    for count in 1..4 {
        let mut updates = Updates((0..count).map(|at| random(8, 1.0, at as u64)).collect());
        let shares = shares(&facts(&updates), Clip::None, 1.0).unwrap();
        let spec = spec(8 * count);
        let plan = Plan { spec: &spec, from: None, shares: &shares, seed: [0; 32] };
        let expected = sums(None, &updates, &shares);
        let merged = merge(&mut updates, &plan).unwrap();
        assert!(merged.dropped < 1e-20, "{}", merged.dropped);
        for (at, expected) in expected.iter().enumerate() {
            let off = gap(&product(&merged.adapter, at), expected);
            assert!(off < 1.2e-7, "{count}: {off:e}");
        }
    }
}

#[test]
fn ranks_beyond_what_was_learned_can_still_learn() {
    let mut zeros = random(4, 1.0, 1);
    for module in zeros.spec.modules.clone() {
        zeros.values[module.b.clone()].fill(0.0);
    }
    // 50 of rank 4: sketched. 90: more than K's 40 outputs have.
    for (update, count, rank) in [
        (zeros.clone(), 1, 16),
        (zeros, 50, 16),
        (random(4, 1.0, 2), 1, 90),
        (random(4, 1.0, 2), 90, 90),
    ] {
        let mut updates = Updates(vec![update; count]);
        let shares = shares(&facts(&updates), Clip::Median, 1.0).unwrap();
        let spec = spec(rank);
        let plan = Plan { spec: &spec, from: None, shares: &shares, seed: [0; 32] };
        let expected = sums(None, &updates, &shares);
        let merged = merge(&mut updates, &plan).unwrap();
        assert!(merged.dropped < 1e-20, "{}", merged.dropped);
        for (at, module) in merged.adapter.spec.modules.iter().enumerate() {
            let difference = gap(&product(&merged.adapter, at), &expected[at]);
            assert!(difference < 1.2e-7, "{count} {rank}: {difference:e}");
            let rows = merged.adapter.a(module).chunks_exact(module.fan_in);
            let alive = rows.filter(|row| row.iter().any(|number| *number != 0.0)).count();
            let most = if plan.exact() { module.fan_in } else { module.fan_in.min(module.fan_out) };
            assert_eq!(alive, rank.min(most), "{count} {rank}");
        }
    }
}

#[test]
fn what_is_no_number_is_refused() {
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut updates = crowd();
        let facts = facts(&updates);
        updates.0[7].values[3] = number;
        assert_eq!(norm(&updates.0[7]), Err(AggregateError::NotFinite));
        for count in [2, 24] {
            let mut facts = facts.clone();
            facts.truncate(7 + count);
            facts.drain(..7.min(facts.len() - count));
            let shares = shares(&facts, Clip::Median, 1.0).unwrap();
            let spec = spec(16);
            let plan = Plan { spec: &spec, from: None, shares: &shares, seed: [0; 32] };
            assert!(merge(&mut updates, &plan).is_err(), "{count} {number}");
        }
    }
    // Finite, but A and B of the sum are not in f32.
    let mut updates = Updates(vec![random(8, 1.0, 1); 9]);
    updates.0.iter_mut().flat_map(|one| &mut one.values).for_each(|number| *number *= 1e38);
    let mut facts = facts(&updates);
    facts.iter_mut().for_each(|one| one.weight = 1.0);
    let shares = shares(&facts, Clip::None, 1e9).unwrap();
    let spec = spec(8);
    let plan = Plan { spec: &spec, from: None, shares: &shares, seed: [0; 32] };
    assert_eq!(merge(&mut updates, &plan), Err(AggregateError::NotFinite));
}

#[test]
fn an_update_of_other_modules_is_refused() {
    let narrow = spec_of(&[(Target::Q, 95, 80), TARGETS[1], TARGETS[2]], 8, 1.0);
    for other in [narrow, spec_of(&TARGETS[..2], 8, 1.0)] {
        let values = vec![0.5; other.len()];
        let mut updates = Updates(vec![random(8, 1.0, 1), Adapter { spec: other, values }]);
        let shares = shares(&facts(&updates), Clip::None, 1.0).unwrap();
        let spec = spec(8);
        let plan = Plan { spec: &spec, from: None, shares: &shares, seed: [0; 32] };
        assert_eq!(merge(&mut updates, &plan), Err(AggregateError::Modules));
    }
}

/// Goal: values and vectors of matrices on which other programs err: of ones, of zeros, of ranks below
/// their size, of sizes far apart. Oracle: the matrix itself, and what ones must have.
#[test]
fn decompositions_give_back_what_they_took() {
    let processor = Processor::widest();
    let mut chance = ChaCha8Rng::seed_from_u64(4);
    let mut matrix = |rows: usize, width: usize, rank: usize| {
        let mut draw = |rows, width| {
            let mut drawn = Rows::zeros(rows, width);
            drawn
                .numbers
                .iter_mut()
                .for_each(|number| *number = f64::from(chance.next_u32()) / 2e9 - 1.0);
            drawn
        };
        let (mut left, right) = (draw(rank, rows), draw(rank, width));
        for at in 0..rank {
            let factor = 10.0_f64.powi(-(at as i32) % 9);
            left.numbers[at * rows..(at + 1) * rows]
                .iter_mut()
                .for_each(|number| *number *= factor);
        }
        Rows { numbers: dense(&left, &right), width }
    };
    let ones = |rows: usize, width: usize| Rows { numbers: vec![1.0; rows * width], width };
    let mut cases = vec![ones(3, 5), ones(6, 21), ones(30, 7), Rows::zeros(4, 6)];
    let (one, mut alike) = (matrix(1, 40, 1), matrix(40, 40, 40));
    alike.numbers.chunks_exact_mut(80).for_each(|two| two[..40].copy_from_slice(&one.numbers));
    cases.push(alike);
    for (rows, width, rank) in [
        (1, 1, 1),
        (1, 9, 1),
        (9, 1, 1),
        (32, 32, 32),
        (32, 32, 5),
        (40, 12, 12),
        (12, 40, 3),
        (64, 64, 40),
    ] {
        cases.push(matrix(rows, width, rank));
    }
    for case in cases {
        let (rows, width) = (case.len(), case.width);
        let decomposed = qr(processor, case.clone());
        let back = dense(&decomposed.triangle, &decomposed.orthonormal);
        assert!(gap(&back, &case.numbers) < 1e-14, "{rows} {width}");
        assert_orthonormal(&decomposed.orthonormal);
        let parts = svd(processor, case.clone()).unwrap();
        let back = dense(&parts.turned, &parts.scaled);
        assert!(gap(&back, &case.numbers) < 1e-13, "{rows} {width}");
        assert_orthonormal(&parts.turned);
        let (first, all) = (parts.values[0], size(&case.numbers));
        assert!((size(&parts.values) - all).abs() <= 1e-13 * all);
        let alike = case.numbers.iter().all(|number| *number == 1.0);
        assert!(!alike || (first - ((rows * width) as f64).sqrt()).abs() < 1e-13, "{first}");
    }
    let broken = Rows { numbers: vec![1.0, f64::NAN, 2.0, 1.0], width: 2 };
    assert!(svd(processor, broken).is_none());
}

fn assert_orthonormal(rows: &Rows) {
    for one in 0..rows.len() {
        for two in 0..=one {
            let inner: f64 =
                rows.row(one).iter().zip(rows.row(two)).map(|(one, two)| one * two).sum();
            let expected = f64::from(one == two);
            assert!(
                (inner - expected).abs() < 1e-14 * rows.width.max(16) as f64,
                "{one} {two} {inner}"
            );
        }
    }
}
