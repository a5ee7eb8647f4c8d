//! What an adapter does to its base, in numbers, and how two adapters differ.
//!
//! - In: adapters. Out: for each linear layer, norms of its effective change `scale * B A`.
//! - Never here: the product `B A` itself, which is as large as the base. All follows from
//!   `r x r` products: `<B1 A1, B2 A2> = sum((B1^T B2) * (A1 A2^T))`, in f64.
//! - Invariant: two adapters that differ in A and B but not in `B A` do not differ here.

use super::{Adapter, AdapterError, Module, Target};
use std::collections::BTreeSet;

/// One adapted linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleSummary {
    /// Index of the decoder layer, from 0.
    pub layer: usize,
    /// Which linear layer of it.
    pub target: Target,
    /// Rank r.
    pub rank: usize,
    /// Factor on `B A`.
    pub scale: f32,
    /// Frobenius norm of `scale * B A`.
    pub norm: f64,
}

/// What an adapter changes and how strongly.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// By layer, then target.
    pub modules: Vec<ModuleSummary>,
    /// Numbers in all factors.
    pub parameters: usize,
    /// Frobenius norm of all changes together.
    pub norm: f64,
}

/// How the changes of two adapters to one linear layer, or to all, differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// Frobenius norm of the first's change; 0 where it has none.
    pub first: f64,
    /// Frobenius norm of the second's change.
    pub second: f64,
    /// Frobenius norm of the difference. Below about 1e-8 of the norms it is rounding.
    pub difference: f64,
    /// `difference / first`; none where the first changes nothing.
    pub relative: Option<f64>,
    /// Cosine of the angle between the changes; none where one of them is nothing.
    pub cosine: Option<f64>,
}

/// How two adapters of one base differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// Every linear layer that either of them adapts, by layer, then target.
    pub modules: Vec<(usize, Target, Distance)>,
    /// All layers together.
    pub total: Distance,
}

/// What `adapter` changes and how strongly.
///
/// # Errors
/// [`AdapterError::Length`] when spec and numbers disagree.
pub fn inspect(adapter: &Adapter) -> Result<Summary, AdapterError> {
    check_length(adapter)?;
    let summary = |module: &Module| ModuleSummary {
        layer: module.layer,
        target: module.target,
        rank: module.rank,
        scale: module.scale,
        norm: inner((adapter, module), (adapter, module)).max(0.0).sqrt(),
    };
    let modules: Vec<ModuleSummary> = adapter.spec.modules.iter().map(summary).collect();
    let norm = modules.iter().map(|module| module.norm * module.norm).sum::<f64>().sqrt();
    Ok(Summary { modules, parameters: adapter.spec.len(), norm })
}

/// How the changes of `first` and `second` differ; ranks, scales and targets may.
///
/// # Errors
/// [`AdapterError::Fans`] when they cannot be of one base, [`AdapterError::Length`].
pub fn diff(first: &Adapter, second: &Adapter) -> Result<Diff, AdapterError> {
    check_length(first)?;
    check_length(second)?;
    let modules = first.spec.modules.iter().chain(&second.spec.modules);
    let places: BTreeSet<(usize, Target)> =
        modules.map(|module| (module.layer, module.target)).collect();
    let (mut modules, mut sum) = (Vec::new(), Products::default());
    for (layer, target) in places {
        let left = first.spec.module(layer, target).map(|module| (first, module));
        let right = second.spec.module(layer, target).map(|module| (second, module));
        if let (Some((_, left)), Some((_, right))) = (left, right) {
            check_fans(left, right)?;
        }
        let squared =
            |side: Option<(&Adapter, &Module)>| side.map_or(0.0, |side| inner(side, side));
        let both = left.zip(right).map_or(0.0, |(left, right)| inner(left, right));
        let products = Products { first: squared(left), second: squared(right), both };
        sum.add(products);
        modules.push((layer, target, products.distance()));
    }
    Ok(Diff { modules, total: sum.distance() })
}

/// Inner products of two changes with themselves and each other.
#[derive(Clone, Copy, Default)]
struct Products {
    first: f64,
    second: f64,
    both: f64,
}

impl Products {
    fn add(&mut self, other: Self) {
        self.first += other.first;
        self.second += other.second;
        self.both += other.both;
    }

    fn distance(self) -> Distance {
        let (first, second) = (self.first.max(0.0).sqrt(), self.second.max(0.0).sqrt());
        let difference = (self.first + self.second - 2.0 * self.both).max(0.0).sqrt();
        let norms = first * second;
        Distance {
            first,
            second,
            difference,
            relative: (first > 0.0).then(|| difference / first),
            cosine: (norms > 0.0).then(|| (self.both / norms).clamp(-1.0, 1.0)),
        }
    }
}

/// `<s1 B1 A1, s2 B2 A2>` of two modules of equal fans.
fn inner(left: (&Adapter, &Module), right: (&Adapter, &Module)) -> f64 {
    let ((left, one), (right, two)) = (left, right);
    let (a1, a2) = (left.a(one), right.a(two));
    let (b1, b2) = (left.b(one), right.b(two));
    let mut sum = 0.0;
    for i in 0..one.rank {
        for j in 0..two.rank {
            let (row1, row2) = (&a1[i * one.fan_in..], &a2[j * two.fan_in..]);
            let rows: f64 = row1.iter().zip(row2).take(one.fan_in).map(product).sum();
            let column1 = b1.iter().skip(i).step_by(one.rank);
            let column2 = b2.iter().skip(j).step_by(two.rank);
            let columns: f64 = column1.zip(column2).map(product).sum();
            sum += rows * columns;
        }
    }
    f64::from(one.scale) * f64::from(two.scale) * sum
}

fn product((x, y): (&f32, &f32)) -> f64 {
    f64::from(*x) * f64::from(*y)
}

fn check_length(adapter: &Adapter) -> Result<(), AdapterError> {
    let (expected, got) = (adapter.spec.len(), adapter.values.len());
    if expected == got { Ok(()) } else { Err(AdapterError::Length { expected, got }) }
}

pub(super) fn check_fans(first: &Module, second: &Module) -> Result<(), AdapterError> {
    let expected = (first.fan_in, first.fan_out);
    let got = (second.fan_in, second.fan_out);
    if expected == got {
        return Ok(());
    }
    Err(AdapterError::Fans { layer: first.layer, target: first.target, expected, got })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::adapter::{Spec, Strength};
    use crate::base::Config;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    fn config(hidden: usize) -> Config {
        let json = r#"{"model_type": "llama", "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
            "intermediate_size": 20, "vocab_size": 96}"#;
        Config { hidden, ..Config::parse(json, None).unwrap() }
    }

    fn random(config: &Config, targets: &[Target], strength: Strength, seed: u64) -> Adapter {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let spec = Spec::uniform(config, 0..2, targets, strength);
        let values = (0..spec.len()).map(|_| chance.next_u32() as f32 / 2e9 - 1.0).collect();
        Adapter { spec, values }
    }

    /// `scale * B A` written out.
    fn dense(adapter: &Adapter, layer: usize, target: Target) -> Option<Vec<f64>> {
        let module = adapter.spec.module(layer, target)?;
        let (a, b) = (adapter.a(module), adapter.b(module));
        let cell = |at: usize| {
            let (row, column) = (at / module.fan_in, at % module.fan_in);
            let terms = (0..module.rank).map(|k| {
                f64::from(b[row * module.rank + k]) * f64::from(a[k * module.fan_in + column])
            });
            f64::from(module.scale) * terms.sum::<f64>()
        };
        Some((0..module.fan_in * module.fan_out).map(cell).collect())
    }

    fn dot(x: &[f64], y: &[f64]) -> f64 {
        x.iter().zip(y).map(|(x, y)| x * y).sum()
    }

    /// f64 sums in another order: a few units in the last of 16 digits, over hundreds of terms.
    fn assert_near(got: f64, expected: f64) {
        assert!((got - expected).abs() <= 1e-11 * expected.abs().max(1.0), "{got} {expected}");
    }

    #[test]
    fn norms_equal_those_of_the_dense_product() {
        let adapter =
            random(&config(16), &[Target::Q, Target::Down], Strength { rank: 3, alpha: 7.0 }, 1);
        let summary = inspect(&adapter).unwrap();
        assert_eq!(summary.parameters, adapter.values.len());
        assert_eq!(summary.modules.len(), 4);
        let mut square = 0.0;
        for module in &summary.modules {
            let dense = dense(&adapter, module.layer, module.target).unwrap();
            assert_near(module.norm, dot(&dense, &dense).sqrt());
            square += dot(&dense, &dense);
        }
        assert_near(summary.norm, square.sqrt());
    }

    #[test]
    fn differences_equal_those_of_the_dense_products() {
        let config = config(16);
        let first = random(&config, &[Target::Q, Target::V], Strength { rank: 3, alpha: 7.0 }, 1);
        let second = random(&config, &[Target::V, Target::Up], Strength { rank: 2, alpha: 2.0 }, 2);
        let diff = diff(&first, &second).unwrap();
        assert_eq!(diff.modules.len(), 6);
        for (layer, target, distance) in diff.modules {
            let (fan_in, fan_out) = target.fans(&config);
            let nothing = vec![0.0; fan_in * fan_out];
            let one = dense(&first, layer, target).unwrap_or_else(|| nothing.clone());
            let two = dense(&second, layer, target).unwrap_or(nothing);
            let gap: Vec<f64> = one.iter().zip(&two).map(|(x, y)| x - y).collect();
            assert_near(distance.first, dot(&one, &one).sqrt());
            assert_near(distance.second, dot(&two, &two).sqrt());
            assert_near(distance.difference, dot(&gap, &gap).sqrt());
            match distance.cosine {
                None => assert!(target != Target::V),
                Some(cosine) => {
                    let norms = (dot(&one, &one) * dot(&two, &two)).sqrt();
                    assert_near(cosine, dot(&one, &two) / norms);
                }
            }
        }
    }

    #[test]
    fn factors_that_differ_with_an_equal_product_do_not_differ() {
        let first = random(&config(16), &[Target::K], Strength { rank: 4, alpha: 8.0 }, 3);
        let mut second = first.clone();
        for module in &second.spec.modules {
            second.values[module.a.clone()].iter_mut().for_each(|value| *value *= 2.0);
            second.values[module.b.clone()].iter_mut().for_each(|value| *value /= 2.0);
        }
        let total = diff(&first, &second).unwrap().total;
        // The root of f64's rounding, as the difference is the root of a difference.
        assert!(total.relative.unwrap() < 1e-7 && total.cosine.unwrap() > 1.0 - 1e-12);
        second.values[0] += 1.0;
        assert!(diff(&first, &second).unwrap().total.relative.unwrap() > 1e-3);
    }

    #[test]
    fn adapters_of_two_bases_are_not_compared() {
        let strength = Strength { rank: 2, alpha: 2.0 };
        let first = random(&config(16), &[Target::Q], strength, 1);
        let second = random(&config(12), &[Target::Q], strength, 1);
        assert!(matches!(
            diff(&first, &second),
            Err(AdapterError::Fans { expected: (16, 24), got: (12, 24), .. })
        ));
        let short = Adapter { values: vec![0.0; 3], ..first };
        assert!(matches!(inspect(&short), Err(AdapterError::Length { got: 3, .. })));
    }
}
