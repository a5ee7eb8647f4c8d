//! The straight line between two adapters: between their factors, or between what they add to the weights.
//!
//! - `B G` and `G^-1 A` are the same product for any G: the line between products does not see G, the line
//!   between factors does, and means something only for adapters that were one once.
//! - Never here: what is found on the way.
//!
//! Source: linear mode connectivity, arXiv 1912.05671; of LoRA in continual learning, arXiv 2402.18865.

use super::StudyError;
use crate::adapter::Adapter;
use crate::adapter::stacked::stack;
use serde::{Deserialize, Serialize};

/// Where a line is straight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// In A and B, as slow follows fast.
    Factors,
    /// In `B A`, at both ranks together.
    Products,
}

impl Space {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Factors, Self::Products];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Factors => "factors",
            Self::Products => "products",
        }
    }
}

/// The adapter that lies `at` of the way from one to another; 0 and 1 are the two themselves.
///
/// # Errors
/// [`StudyError::Shapes`] of factors that differ in shape; [`StudyError::Adapter`] of products of other
/// layers or bases.
pub fn between(space: Space, from: &Adapter, to: &Adapter, at: f64) -> Result<Adapter, StudyError> {
    match space {
        Space::Factors if from.spec != to.spec => Err(StudyError::Shapes),
        Space::Factors => {
            let both = from.values.iter().zip(&to.values);
            let mix = |(from, to): (&f32, &f32)| {
                ((1.0 - at) * f64::from(*from) + at * f64::from(*to)) as f32
            };
            Ok(Adapter { spec: from.spec.clone(), values: both.map(mix).collect() })
        }
        Space::Products => Ok(stack(&times(from, 1.0 - at), &times(to, at))?),
    }
}

/// What an adapter adds to the weights, `factor` times.
fn times(adapter: &Adapter, factor: f64) -> Adapter {
    let mut scaled = adapter.clone();
    for module in &adapter.spec.modules {
        for value in &mut scaled.values[module.b.clone()] {
            *value = (factor * f64::from(*value)) as f32;
        }
    }
    scaled
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::adapter::compare::diff;
    use crate::adapter::{Spec, Strength, Target};
    use crate::base::Config;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    fn random(rank: usize, alpha: f32, seed: u64) -> Adapter {
        let json = r#"{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
            "intermediate_size": 20, "vocab_size": 96}"#;
        let config = Config::parse(json, None).unwrap();
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let spec = Spec::uniform(&config, 0..2, &Target::ALL, Strength { rank, alpha });
        let values = (0..spec.len()).map(|_| chance.next_u32() as f32 / 2e9 - 1.0).collect();
        Adapter { spec, values }
    }

    /// The same product by other factors: the ranks of every module swapped and one of them scaled.
    fn turned(adapter: &Adapter) -> Adapter {
        let mut turned = adapter.clone();
        for module in &adapter.spec.modules {
            let (rank, width) = (module.rank, module.fan_in);
            for at in 0..rank {
                let (other, factor) = ((at + 1) % rank, if at == 0 { 4.0 } else { 1.0 });
                for i in 0..width {
                    turned.values[module.a.start + other * width + i] =
                        adapter.values[module.a.start + at * width + i] / factor;
                }
                for row in 0..module.fan_out {
                    turned.values[module.b.start + row * rank + other] =
                        adapter.values[module.b.start + row * rank + at] * factor;
                }
            }
        }
        turned
    }

    fn distance(one: &Adapter, other: &Adapter) -> f64 {
        let distance = diff(one, other).unwrap().total;
        distance.difference / distance.first
    }

    #[test]
    fn a_line_ends_at_its_ends() {
        let (from, to) = (random(3, 6.0, 1), random(3, 6.0, 2));
        assert_eq!(between(Space::Factors, &from, &to, 0.0).unwrap(), from);
        assert_eq!(between(Space::Factors, &from, &to, 1.0).unwrap(), to);
        let other = random(2, 3.0, 3);
        for (at, end) in [(0.0, &from), (1.0, &other)] {
            let reached = between(Space::Products, &from, &other, at).unwrap();
            assert!(distance(end, &reached) < 1e-6, "{}", distance(end, &reached));
        }
    }

    #[test]
    fn a_line_of_products_is_as_long_as_the_way_and_straight() {
        let (from, to) = (random(3, 6.0, 1), random(2, 3.0, 2));
        let whole = diff(&from, &to).unwrap().total.difference;
        for at in [0.25, 0.5] {
            let reached = between(Space::Products, &from, &to, at).unwrap();
            let gone = diff(&from, &reached).unwrap().total.difference;
            assert!((gone / whole - at).abs() < 1e-5, "{gone} of {whole}");
        }
    }

    /// The gauge is of the factors alone.
    #[test]
    fn other_factors_of_the_same_product_change_the_line_between_factors_only() {
        let (from, to) = (random(3, 6.0, 1), random(3, 6.0, 2));
        let other = turned(&to);
        assert!(distance(&to, &other) < 1e-6);
        let gap = |space| {
            let [one, two] = [&to, &other].map(|end| between(space, &from, end, 0.5).unwrap());
            distance(&one, &two)
        };
        assert!(gap(Space::Products) < 1e-6, "{}", gap(Space::Products));
        assert!(gap(Space::Factors) > 0.1, "{}", gap(Space::Factors));
    }

    #[test]
    fn factors_of_other_shapes_have_no_line() {
        let refused = between(Space::Factors, &random(3, 6.0, 1), &random(2, 6.0, 2), 0.5);
        assert!(matches!(refused, Err(StudyError::Shapes)));
    }
}
