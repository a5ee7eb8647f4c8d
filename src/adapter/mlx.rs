//! A LoRA adapter as mlx-lm keeps it, as bytes: written so that mlx-lm loads it, read as a stranger.
//!
//! - In: an [`Adapter`] and the [`Config`] of its base; or the two files' bytes. Out: the other.
//! - `lora_a` is `[in, r]` and `lora_b` `[r, out]`, both transposed to ours, and one `scale` is multiplied
//!   as it is, over no rank. A module of another scale has its `lora_b` multiplied by the quotient; one of
//!   a lower rank is filled up with zeros.
//! - mlx-lm adapts the same modules in each of the last `num_layers` layers; what a file does not hold of
//!   them stays without effect.
//! - DoRA and fully tuned weights are refused by name.
//! - Never here: the disk.
//!
//! Source: mlx-lm, `mlx_lm/tuner/lora.py` and `load_adapters` of `mlx_lm/tuner/utils.py`.

use super::peft::{finite, widen};
use super::{Adapter, AdapterError, Module, Spec, Strength, Target};
use crate::base::Config;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// mlx-lm's configuration; PEFT's has the same name.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// mlx-lm's tensors.
pub const TENSORS_FILE: &str = "adapters.safetensors";

/// Whether a configuration is mlx-lm's and not PEFT's.
pub fn is_config(bytes: &[u8]) -> bool {
    let known = |value: Value| {
        let has = |field| value.get(field).is_some();
        !has("peft_type") && (has("fine_tune_type") || has("lora_parameters"))
    };
    serde_json::from_slice(bytes).is_ok_and(known)
}

/// The files of an adapter folder: name and bytes of each, tensors in f32.
/// # Errors
/// [`AdapterError::Empty`], [`AdapterError::Length`], [`AdapterError::NotFinite`].
pub fn write(
    adapter: &Adapter,
    config: &Config,
    base_name: &str,
) -> Result<Vec<(&'static str, Vec<u8>)>, AdapterError> {
    let modules = &adapter.spec.modules;
    let (expected, got) = (adapter.spec.len(), adapter.values.len());
    if expected != got {
        return Err(AdapterError::Length { expected, got });
    }
    super::has_names_elsewhere(config)?;
    let first = modules.first().ok_or(AdapterError::Empty)?;
    let scale = if first.scale == 0.0 { 1.0 } else { first.scale };
    let rank = modules.iter().map(|module| module.rank).max().unwrap_or(1);
    let keys: BTreeSet<Target> = modules.iter().map(|module| module.target).collect();
    let about = json!({
        "fine_tune_type": "lora",
        "model": base_name,
        "num_layers": config.layers - first.layer,
        "lora_parameters": {
            "rank": rank,
            "scale": scale,
            "dropout": 0.0,
            "keys": keys.into_iter().map(Target::module).collect::<Vec<_>>(),
        },
    });
    let mut tensors = Vec::new();
    for module in modules {
        let (a, b) = (adapter.a(module), adapter.b(module));
        let (fan_in, fan_out) = (module.fan_in, module.fan_out);
        let factor = module.scale / scale;
        let mut turned = [vec![0.0; fan_in * rank], vec![0.0; rank * fan_out]];
        for of in 0..module.rank {
            (0..fan_in).for_each(|at| turned[0][at * rank + of] = a[of * fan_in + at]);
            let b = |at: usize| b[at * module.rank + of] * factor;
            (0..fan_out).for_each(|at| turned[1][of * fan_out + at] = b(at));
        }
        for ((factor, shape), numbers) in
            [("a", [fan_in, rank]), ("b", [rank, fan_out])].into_iter().zip(turned)
        {
            let name = tensor_name(module.layer, module.target, factor);
            finite(&name, &numbers)?;
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            tensors.push((name, shape, bytes));
        }
    }
    let mut views = Vec::new();
    for (name, shape, bytes) in &tensors {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        views.push((name, view.map_err(AdapterError::Tensors)?));
    }
    let facts = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
    let tensors = safetensors::serialize(views, Some(facts)).map_err(AdapterError::Tensors)?;
    let about = serde_json::to_vec_pretty(&about).map_err(AdapterError::Config)?;
    Ok(vec![(CONFIG_FILE, about), (TENSORS_FILE, tensors)])
}

/// Reads such a folder, in f32, f16 or bf16.
/// # Errors
/// An [`AdapterError`] that names the field or tensor.
pub fn read(about: &[u8], tensors: &[u8], config: &Config) -> Result<Adapter, AdapterError> {
    let about: Value = serde_json::from_slice(about).map_err(AdapterError::Config)?;
    let scale = scale(&about)?;
    let layers = match &about["num_layers"] {
        Value::Number(layers) => layers.as_i64().unwrap_or(-1).max(0) as usize,
        other => return Err(unsupported("num_layers", other, "a number")),
    };
    let tensors = SafeTensors::deserialize(tensors).map_err(AdapterError::Tensors)?;
    let mut places = BTreeMap::new();
    let mut views = tensors.tensors();
    views.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, view) in views {
        let Some((layer, target, factor)) = parse_name(&name) else {
            let expected = "names like `model.layers.0.self_attn.q_proj.lora_a`";
            return Err(AdapterError::Foreign { name: name.chars().take(200).collect(), expected });
        };
        // mlx-lm has no such module in its adapted model and refuses the tensor.
        if layer >= config.layers || layer < config.layers.saturating_sub(layers) {
            let expected = "a layer among the last `num_layers` of the base";
            return Err(AdapterError::Foreign { name, expected });
        }
        places.insert((layer, target, factor), (name, view));
    }
    let mut ranks = BTreeMap::new();
    for &(layer, target, _) in places.keys() {
        let [a, b] = ["a", "b"].map(|factor| places.get(&(layer, target, factor)));
        let (Some((name, a)), Some((other, b))) = (a, b) else {
            let name = tensor_name(layer, target, if a.is_none() { "a" } else { "b" });
            return Err(AdapterError::Foreign { name, expected: "both lora_a and lora_b" });
        };
        let (fan_in, fan_out) = target.fans(config);
        let rank = a.shape().last().copied().unwrap_or(0).max(1);
        for (name, view, expected) in [(name, a, [fan_in, rank]), (other, b, [rank, fan_out])] {
            if view.shape() != expected {
                let (name, got) = (name.clone(), view.shape().to_vec());
                return Err(AdapterError::Shape { name, expected, got });
            }
        }
        ranks.insert((layer, target), rank);
    }
    let mut spec = Spec::from_fn(config, 0..config.layers, |layer, target| {
        let rank = *ranks.get(&(layer, target))?;
        Some(Strength { rank, alpha: scale * rank as f32 })
    });
    // Multiplied and divided by the rank, it may be another number.
    spec.modules.iter_mut().for_each(|module| module.scale = scale);
    let mut values = Vec::with_capacity(spec.len());
    for Module { layer, target, .. } in &spec.modules {
        for factor in ["a", "b"] {
            let Some((name, view)) = places.get(&(*layer, *target, factor)) else { continue };
            let mut numbers = Vec::new();
            widen(name, view, &mut numbers)?;
            let (rows, columns) = (view.shape()[0], view.shape()[1]);
            let columns = (0..columns).flat_map(|column| {
                let numbers = &numbers;
                (0..rows).map(move |row| numbers[row * columns + column])
            });
            values.extend(columns);
        }
    }
    if values.is_empty() {
        return Err(AdapterError::Empty);
    }
    Ok(Adapter { spec, values })
}

/// What mlx-lm multiplies by, once the configuration is one of plain LoRA.
fn scale(about: &Value) -> Result<f32, AdapterError> {
    let kind = about.get("fine_tune_type").cloned().unwrap_or_else(|| "lora".into());
    if kind != "lora" {
        return Err(unsupported("fine_tune_type", &kind, "\"lora\""));
    }
    let scale = &about["lora_parameters"]["scale"];
    let number = scale.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
    number.ok_or_else(|| unsupported("lora_parameters.scale", scale, "a number within f32"))
}

fn unsupported(field: &str, got: &Value, expected: &'static str) -> AdapterError {
    let got = got.to_string().chars().take(100).collect();
    AdapterError::Unsupported { field: field.to_owned(), got, expected }
}

fn tensor_name(layer: usize, target: Target, factor: &str) -> String {
    format!("model.layers.{layer}.{}.lora_{factor}", target.module())
}

/// The place a tensor's name speaks of, if it is one that [`tensor_name`] gives.
fn parse_name(name: &str) -> Option<(usize, Target, &'static str)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = layer.parse().ok()?;
    let (module, factor) = rest.rsplit_once(".lora_")?;
    let target = Target::ALL.into_iter().find(|target| target.module() == module)?;
    let factor = ["a", "b"].into_iter().find(|known| *known == factor)?;
    (tensor_name(layer, target, factor) == name).then_some((layer, target, factor))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn config() -> Config {
        let json = r#"{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
            "intermediate_size": 20, "vocab_size": 96}"#;
        Config::parse(json, None).unwrap()
    }

    /// Two modules of other ranks and scales in the last two of three layers.
    fn uneven() -> Adapter {
        let spec = Spec::from_fn(&config(), 1..3, |layer, target| match (layer, target) {
            (1, Target::Q) => Some(Strength { rank: 2, alpha: 3.0 }),
            (2, Target::Down) => Some(Strength { rank: 3, alpha: 12.0 }),
            _ => None,
        });
        let values = (0..spec.len()).map(|at| (at as f32 * 0.7).sin()).collect();
        Adapter { spec, values }
    }

    /// `scale * B A` of a module, row-major.
    fn change(adapter: &Adapter, module: &Module) -> Vec<f32> {
        let (a, b) = (adapter.a(module), adapter.b(module));
        let cell = |row: usize, column: usize| {
            let terms = (0..module.rank)
                .map(|of| b[row * module.rank + of] * a[of * module.fan_in + column]);
            module.scale * terms.sum::<f32>()
        };
        let rows = (0..module.fan_out).flat_map(|row| (0..module.fan_in).map(move |at| (row, at)));
        rows.map(|(row, at)| cell(row, at)).collect()
    }

    /// Goal: mlx-lm's own arithmetic, `scale * lora_b.T @ lora_a.T`, gives our change. Oracle: the formula of
    /// `LoRALinear.fuse`, written out over the file's numbers.
    #[test]
    fn the_files_mean_the_same_change() {
        let adapter = uneven();
        let files = write(&adapter, &config(), "base").unwrap();
        let about: Value = serde_json::from_slice(&files[0].1).unwrap();
        assert_eq!(about["num_layers"], 2);
        let scale = about["lora_parameters"]["scale"].as_f64().unwrap() as f32;
        let tensors = SafeTensors::deserialize(&files[1].1).unwrap();
        for module in &adapter.spec.modules {
            let numbers = |factor| {
                let name = tensor_name(module.layer, module.target, factor);
                let (mut numbers, view) = (Vec::new(), tensors.tensor(&name).unwrap());
                widen(&name, &view, &mut numbers).unwrap();
                (numbers, view.shape().to_vec())
            };
            let ((a, of_a), (b, of_b)) = (numbers("a"), numbers("b"));
            assert_eq!((of_a[0], of_b[1], of_a[1]), (module.fan_in, module.fan_out, of_b[0]));
            for (at, expected) in change(&adapter, module).into_iter().enumerate() {
                let (row, column) = (at / module.fan_in, at % module.fan_in);
                let terms = (0..of_b[0]).map(|of| b[of * of_b[1] + row] * a[column * of_a[1] + of]);
                assert!((scale * terms.sum::<f32>() - expected).abs() < 1e-4, "{module:?} at {at}");
            }
        }
    }

    #[test]
    fn what_is_written_reads_back_as_the_same_change() {
        let adapter = uneven();
        let files = write(&adapter, &config(), "base").unwrap();
        assert!(is_config(&files[0].1));
        let read = read(&files[0].1, &files[1].1, &config()).unwrap();
        for (before, after) in adapter.spec.modules.iter().zip(&read.spec.modules) {
            let both = change(&adapter, before).into_iter().zip(change(&read, after));
            both.for_each(|(before, after)| assert!((before - after).abs() < 1e-4));
        }
    }

    #[test]
    fn what_is_no_plain_lora_is_refused_by_name() {
        let files = write(&uneven(), &config(), "base").unwrap();
        for (field, value, words) in [
            ("fine_tune_type", json!("dora"), "`fine_tune_type` is \"dora\""),
            ("fine_tune_type", json!("full"), "`fine_tune_type` is \"full\""),
            ("lora_parameters", json!({"rank": 8}), "`lora_parameters.scale`"),
            ("num_layers", json!(1), "model.layers.1.self_attn.q_proj.lora_a"),
        ] {
            let mut about: Value = serde_json::from_slice(&files[0].1).unwrap();
            about[field] = value;
            let error = read(about.to_string().as_bytes(), &files[1].1, &config()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
