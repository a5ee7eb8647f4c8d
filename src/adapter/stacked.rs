//! Two adapters as one: another's ranks first, one's own after them.
//!
//! - `s [B_1 s_1 / s, B_2] [A_1; A_2] = s_1 B_1 A_1 + s B_2 A_2`, with the second's scale s: whoever runs,
//!   reads or writes the whole sees an ordinary adapter.
//! - Invariant: the second's numbers are in it as they are, and come out as they went in.
//! - Never here: which ranks learn (see `train`), files.

use super::{Adapter, AdapterError, Module, Spec, Strength};
use std::ops::Range;

/// `first` and `own`, which adapt the same linear layers of one base at any ranks and scales.
///
/// # Errors
/// [`AdapterError::Alone`] for a layer that one of them leaves out, [`AdapterError::Fans`] of two bases.
pub fn stack(first: &Adapter, own: &Adapter) -> Result<Adapter, AdapterError> {
    let lonely = |one: &Spec, other: &Spec| {
        one.modules.iter().find(|m| other.module(m.layer, m.target).is_none()).cloned()
    };
    let alone = lonely(&first.spec, &own.spec).or_else(|| lonely(&own.spec, &first.spec));
    if let Some(Module { layer, target, .. }) = alone {
        return Err(AdapterError::Alone { layer, target });
    }
    let mut ranks = Vec::new();
    for (one, two) in first.spec.modules.iter().zip(&own.spec.modules) {
        super::compare::check_fans(one, two)?;
        ranks.push(one.rank + two.rank);
    }
    let spec = own.spec.with_ranks(&ranks);
    let mut values = Vec::with_capacity(spec.len());
    for (one, two) in first.spec.modules.iter().zip(&own.spec.modules) {
        values.extend_from_slice(first.a(one));
        values.extend_from_slice(own.a(two));
        let factor = one.scale / two.scale;
        let rows = first.b(one).chunks_exact(one.rank).zip(own.b(two).chunks_exact(two.rank));
        for (row, own) in rows {
            values.extend(row.iter().map(|value| factor * value));
            values.extend_from_slice(own);
        }
    }
    Ok(Adapter { spec, values })
}

/// Some ranks of every module alone, at the same scale; modules that have none of them are left out.
pub fn part(whole: &Adapter, ranks: &Range<usize>) -> Adapter {
    let own = |module: &Module| ranks.start.min(module.rank)..ranks.end.min(module.rank);
    let lengths: Vec<usize> = whole.spec.modules.iter().map(|module| own(module).len()).collect();
    let spec = whole.spec.with_ranks(&lengths);
    let mut values = Vec::with_capacity(spec.len());
    for module in whole.spec.modules.iter().filter(|module| !own(module).is_empty()) {
        let (ranks, width) = (own(module), module.fan_in);
        values.extend_from_slice(&whole.a(module)[ranks.start * width..ranks.end * width]);
        let rows = whole.b(module).chunks_exact(module.rank);
        rows.for_each(|row| values.extend_from_slice(&row[ranks.clone()]));
    }
    Adapter { spec, values }
}

impl Spec {
    /// The same modules and scales with `ranks` of another's before their own.
    pub fn over(&self, ranks: usize) -> Self {
        let all: Vec<usize> = self.modules.iter().map(|module| ranks + module.rank).collect();
        self.with_ranks(&all)
    }

    /// The same modules and scales at other ranks, one for each; a module of rank 0 is left out.
    fn with_ranks(&self, ranks: &[usize]) -> Self {
        let Some((first, last)) = self.modules.first().zip(self.modules.last()) else {
            return self.clone();
        };
        let mut spec = Self::placed(first.layer..last.layer + 1, |layer, target| {
            let at = self.modules.iter().position(|m| (m.layer, m.target) == (layer, target))?;
            let (module, rank) = (&self.modules[at], *ranks.get(at)?);
            let strength = Strength { rank, alpha: module.scale * rank as f32 };
            (rank > 0).then_some((strength, (module.fan_in, module.fan_out)))
        });
        // A product and a quotient may round to another scale.
        for module in &mut spec.modules {
            let own = self.module(module.layer, module.target);
            module.scale = own.map_or(module.scale, |own| own.scale);
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::adapter::Target;
    use crate::adapter::compare::diff;
    use crate::base::Config;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    fn random(targets: &[Target], strength: Strength, seed: u64) -> Adapter {
        let json = r#"{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
            "intermediate_size": 20, "vocab_size": 96}"#;
        let config = Config::parse(json, None).unwrap();
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let spec = Spec::uniform(&config, 1..3, targets, strength);
        let values = (0..spec.len()).map(|_| chance.next_u32() as f32 / 2e9 - 1.0).collect();
        Adapter { spec, values }
    }

    const BOTH: [Target; 2] = [Target::Q, Target::Down];

    #[test]
    fn the_whole_is_the_sum_of_both_products() {
        let first = random(&BOTH, Strength { rank: 3, alpha: 7.0 }, 1);
        let own = random(&BOTH, Strength { rank: 2, alpha: 5.0 }, 2);
        let whole = stack(&first, &own).unwrap();
        assert!(whole.spec.modules.iter().all(|module| (module.rank, module.scale) == (5, 2.5)));
        assert_eq!(part(&whole, &(3..5)), own, "to the bit");
        let back = diff(&part(&whole, &(0..3)), &first).unwrap().total;
        // f32's rounding of a quotient and a product.
        assert!(back.relative.unwrap() < 1e-6, "{back:?}");
        // The difference of the whole and its own part is the first, whatever the gauge.
        let rest = diff(&whole, &own).unwrap().total;
        assert!((rest.difference / back.second - 1.0).abs() < 1e-6, "{rest:?} {back:?}");
        assert_eq!(part(&whole, &(0..9)), whole);
        assert!(part(&whole, &(5..9)).spec.is_empty());
    }

    /// Whoever comes to a shape on another way must find the same scale, to the bit.
    #[test]
    fn a_scale_survives_every_change_of_ranks() {
        for seed in 1..200 {
            let alpha = 1.0 + seed as f32 / 7.0;
            let own = random(&BOTH, Strength { rank: 3, alpha }, seed);
            let first = random(&BOTH, Strength { rank: 4, alpha: 4.0 }, seed);
            let whole = stack(&first, &own).unwrap();
            assert_eq!(whole.spec, own.spec.over(4));
            assert_eq!(part(&whole, &(4..7)), own);
        }
    }

    #[test]
    fn adapters_of_other_layers_are_not_stacked() {
        let strength = Strength { rank: 2, alpha: 2.0 };
        let (both, one) = (random(&BOTH, strength, 1), random(&BOTH[..1], strength, 1));
        for (first, own) in [(&both, &one), (&one, &both)] {
            let said = stack(first, own).unwrap_err().to_string();
            assert_eq!(said, "layer 1 Down is adapted by one of two adapters, expected both");
        }
    }
}
