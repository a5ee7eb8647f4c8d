//! A base with an adapter folded in: every weight `W + scale B A`, one at a time.
//!
//! - In: where the weights are, and an [`Adapter`] of that base. Out: the same weights under the same names,
//!   those of adapted linear layers changed.
//! - A sum is made in f64 and rounded to f32 once; what is written may round it once more.
//! - Never here: files, other weights than those of linear layers: norms, biases, embedding and output
//!   layer are the base's.
//!
//! Source: LoRA, arXiv 2106.09685, section 4.1.

use super::{Adapter, Module, Target};
use crate::base::{BaseError, Source, Weight};

/// A base and what is folded in.
pub struct Fused<'a> {
    /// Where the base's weights are.
    pub base: &'a dyn Source,
    /// The change; its sizes are the base's.
    pub adapter: &'a Adapter,
}

impl Source for Fused<'_> {
    fn weight(&self, name: &str) -> Result<Weight, BaseError> {
        let mut weight = self.base.weight(name)?;
        if let Some(module) =
            place(name).and_then(|(at, target)| self.adapter.spec.module(at, target))
        {
            add(self.adapter, module, &mut weight.data);
        }
        Ok(weight)
    }
}

/// The layer and the target whose weight has that name.
fn place(name: &str) -> Option<(usize, Target)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let module = rest.strip_suffix(".weight")?;
    let target = Target::ALL.into_iter().find(|target| target.module() == module)?;
    Some((layer.parse().ok()?, target))
}

/// Adds `scale (B A)ᵀ` to a weight `[in, out]`.
fn add(adapter: &Adapter, module: &Module, weight: &mut [f32]) {
    let (rank, fan_in, fan_out) = (module.rank, module.fan_in, module.fan_out);
    let (a, b) = (adapter.a(module), adapter.b(module));
    let mut turned = vec![0.0; rank * fan_out];
    for (at, row) in b.chunks_exact(rank.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(of, &b)| turned[of * fan_out + at] = f64::from(b));
    }
    let mut sums = vec![0.0; fan_out];
    for (input, row) in weight.chunks_exact_mut(fan_out.max(1)).enumerate() {
        sums.fill(0.0);
        for (of, b) in turned.chunks_exact(fan_out.max(1)).enumerate() {
            let a = f64::from(a[of * fan_in + input]);
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
        let scale = f64::from(module.scale);
        for (weight, sum) in row.iter_mut().zip(&sums) {
            *weight = (f64::from(*weight) + scale * sum) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::adapter::{Spec, Strength};
    use crate::base::Config;

    /// Every weight is 0.5.
    struct Even(Config);

    impl Source for Even {
        fn weight(&self, name: &str) -> Result<Weight, BaseError> {
            let of = |(own, shape): (String, Vec<usize>)| (own == name).then_some(shape);
            let shape = self.0.weights().into_iter().find_map(of);
            let shape = shape.ok_or_else(|| BaseError::NoWeight { name: name.into() })?;
            let count = shape.iter().product();
            Ok(Weight { shape, data: vec![0.5; count] })
        }
    }

    /// Goal: only the adapted weights change, by `scale (B A)ᵀ`. Oracle: the sum, cell by cell.
    #[test]
    fn the_weights_of_adapted_layers_alone_change() {
        let json = r#"{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20,
            "vocab_size": 32}"#;
        let base = Even(Config::parse(json, None).unwrap());
        let spec = Spec::from_fn(&base.0, 0..2, |layer, target| match (layer, target) {
            (0, Target::V) => Some(Strength { rank: 2, alpha: 3.0 }),
            (1, Target::Down) => Some(Strength { rank: 3, alpha: -6.0 }),
            _ => None,
        });
        let values = (0..spec.len()).map(|at| (at as f32 * 0.7).sin()).collect();
        let adapter = Adapter { spec, values };
        let fused = Fused { base: &base, adapter: &adapter };
        for (name, shape) in base.0.weights() {
            let weight = fused.weight(&name).unwrap();
            assert_eq!(weight.shape, shape);
            let module = match name.as_str() {
                "model.layers.0.self_attn.v_proj.weight" => &adapter.spec.modules[0],
                "model.layers.1.mlp.down_proj.weight" => &adapter.spec.modules[1],
                _ => {
                    assert!(weight.data.iter().all(|&value| value == 0.5), "{name}");
                    continue;
                }
            };
            let (a, b, r) = (adapter.a(module), adapter.b(module), module.rank);
            for (at, &value) in weight.data.iter().enumerate() {
                let (input, output) = (at / module.fan_out, at % module.fan_out);
                let terms = (0..r).map(|of| b[output * r + of] * a[of * module.fan_in + input]);
                let expected = 0.5 + module.scale * terms.sum::<f32>();
                // A few roundings of f32.
                assert!((value - expected).abs() < 2e-6, "{name} {at}: {value}, {expected}");
            }
        }
    }
}
