//! Adapters of Phi-3, whose linear layers PEFT finds packed: q, k and v in one, gate and up in another.
//!
//! - In: the tensors of a folder. Out: the same as if each part had been adapted by itself: A is the same for
//!   all parts, the rows of B are theirs one after the other.
//! - Never here: writing; what is learned here has each part by itself.
//!
//! Source: transformers 5, `Phi3Attention`, `Phi3MLP`.

use super::config::short;
use super::{Factor, PREFIX, Places, Target, parse_name};
use crate::adapter::AdapterError;
use crate::base::{Config, Family};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;

/// The packed layers, their parts in the order of their rows.
const PACKED: [(&str, &[Target]); 2] = [
    ("self_attn.qkv_proj", &[Target::Q, Target::K, Target::V]),
    ("mlp.gate_up_proj", &[Target::Gate, Target::Up]),
];

/// The packed layer that a target is part of.
pub(super) fn module(target: Target) -> Option<&'static str> {
    PACKED.into_iter().find(|(_, parts)| parts.contains(&target)).map(|(module, _)| module)
}

/// Every tensor under its place in the base; none where no layer is packed, and for other bases.
/// # Errors
/// [`AdapterError::UnknownTensor`] for a part by itself beside packed ones, [`AdapterError::Shape`].
pub(super) fn by_place<'a>(
    tensors: &SafeTensors<'a>,
    config: &Config,
) -> Result<Option<Places<'a>>, AdapterError> {
    let is_packed = |name: &str| parse(name).is_some();
    if config.family != Family::Phi3 || !tensors.names().into_iter().any(is_packed) {
        return Ok(None);
    }
    let mut places = BTreeMap::new();
    for (name, view) in tensors.tensors() {
        if let Some((layer, parts, factor)) = parse(&name) {
            for (target, part) in split(&name, &view, parts, factor, config)? {
                places.insert((layer, target, factor), part);
            }
            continue;
        }
        match parse_name(&name).filter(|(_, target, _)| module(*target).is_none()) {
            Some(place) => {
                places.insert(place, view);
            }
            None => return Err(AdapterError::UnknownTensor { name: short(&name) }),
        }
    }
    Ok(Some(places))
}

/// The tensor as each part has it.
fn split<'a>(
    name: &str,
    view: &TensorView<'a>,
    parts: &[Target],
    factor: Factor,
    config: &Config,
) -> Result<Vec<(Target, TensorView<'a>)>, AdapterError> {
    if factor == Factor::A {
        return Ok(parts.iter().map(|target| (*target, view.clone())).collect());
    }
    let rows: usize = parts.iter().map(|target| target.fans(config).1).sum();
    let (data, rank) = match view.shape() {
        [found, rank] if *found == rows => (view.data(), *rank),
        shape => {
            let expected = [rows, shape.get(1).copied().unwrap_or(1)];
            return Err(AdapterError::Shape { name: short(name), expected, got: shape.to_vec() });
        }
    };
    let row_bytes = data.len() / rows;
    let mut at = 0;
    let part = |target: &Target| {
        let own = target.fans(config).1;
        let bytes = &data[at..at + own * row_bytes];
        at += own * row_bytes;
        let part = TensorView::new(view.dtype(), vec![own, rank], bytes);
        Ok((*target, part.map_err(AdapterError::Tensors)?))
    };
    parts.iter().map(part).collect()
}

/// The packed layer that a tensor's name speaks of.
fn parse(name: &str) -> Option<(usize, &'static [Target], Factor)> {
    let (layer, rest) =
        name.strip_prefix(PREFIX)?.strip_prefix("model.layers.")?.split_once('.')?;
    let number: usize = layer.parse().ok().filter(|number: &usize| number.to_string() == layer)?;
    PACKED.into_iter().find_map(|(module, parts)| match rest.strip_prefix(module)? {
        ".lora_A.weight" => Some((number, parts, Factor::A)),
        ".lora_B.weight" => Some((number, parts, Factor::B)),
        _ => None,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::super::{Files, read};
    use super::*;
    use crate::adapter::Adapter;
    use safetensors::Dtype;

    fn config(family: &str) -> Config {
        let json = format!(
            r#"{{"model_type": "{family}", "hidden_size": 8, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 6,
            "vocab_size": 32064, "pad_token_id": null}}"#
        );
        Config::parse(&json, None).unwrap()
    }

    /// A folder of rank 2 with these tensors, whose numbers count up.
    fn folder(family: &str, tensors: &[(&str, [usize; 2])]) -> Result<Adapter, String> {
        let numbers = |shape: &[usize; 2]| -> Vec<u8> {
            (0..shape[0] * shape[1]).flat_map(|at| (at as f32).to_le_bytes()).collect()
        };
        let named = tensors.iter().map(|(name, shape)| {
            (format!("{PREFIX}model.layers.1.{name}.weight"), *shape, numbers(shape))
        });
        let named: Vec<_> = named.collect();
        let views = named.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        let tensors = safetensors::serialize(views, None).unwrap();
        let settings = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "layers_to_transform": [1],
            "target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}"#;
        let files = Files { config: settings.as_bytes(), tensors: &tensors, meta: None };
        read(files, &config(family), None)
            .map(|(adapter, _)| adapter)
            .map_err(|error| error.to_string())
    }

    const WHOLE: [(&str, [usize; 2]); 6] = [
        ("self_attn.qkv_proj.lora_A", [2, 8]),
        ("self_attn.qkv_proj.lora_B", [16, 2]),
        ("mlp.gate_up_proj.lora_A", [2, 8]),
        ("mlp.gate_up_proj.lora_B", [12, 2]),
        ("mlp.down_proj.lora_A", [2, 6]),
        ("mlp.down_proj.lora_B", [8, 2]),
    ];

    #[test]
    fn each_part_has_the_whole_of_a_and_its_own_rows_of_b() {
        let adapter = folder("phi3", &WHOLE).unwrap();
        let of = |target| {
            let module = adapter.spec.module(1, target).unwrap();
            assert_eq!((module.rank, module.scale), (2, 2.0));
            let count = |from: usize, to: usize| (from..to).map(|at| at as f32).collect::<Vec<_>>();
            assert_eq!(adapter.a(module), count(0, 2 * module.fan_in));
            (adapter.b(module).to_vec(), count(0, 32))
        };
        for (target, from, to) in [
            (Target::Q, 0, 16),
            (Target::K, 16, 24),
            (Target::V, 24, 32),
            (Target::Gate, 0, 12),
            (Target::Up, 12, 24),
            (Target::Down, 0, 16),
        ] {
            let (b, counted) = of(target);
            assert_eq!(b, counted[from..to], "{target:?}");
        }
        assert_eq!(adapter.spec.modules.len(), 6);
    }

    #[test]
    fn what_is_not_packed_as_phi3_packs_is_refused_by_its_name() {
        let with = |at: usize, name: &'static str, shape| {
            let mut tensors = WHOLE;
            tensors[at] = (name, shape);
            tensors
        };
        for (family, tensors, words) in [
            (
                "phi3",
                with(1, "self_attn.qkv_proj.lora_B", [15, 2]),
                "qkv_proj.lora_B.weight`: expected shape [16, 2], got [15, 2]",
            ),
            ("phi3", with(1, "self_attn.qkv_proj.lora_B", [16, 3]), "qkv_proj.lora_B"),
            ("phi3", with(0, "self_attn.qkv_proj.lora_A", [2, 7]), "qkv_proj.lora_A"),
            ("phi3", with(4, "self_attn.q_proj.lora_A", [2, 8]), "q_proj"),
            ("phi3", with(5, "self_attn.o_proj.lora_B", [8, 2]), "o_proj.lora_B"),
            ("llama", WHOLE, "gate_up_proj"),
        ] {
            let error = folder(family, &tensors).unwrap_err();
            assert!(error.contains(words), "expected {words:?}: {error}");
        }
    }
}
