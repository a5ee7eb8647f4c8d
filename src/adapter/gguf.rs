//! A LoRA adapter as the GGUF file that llama.cpp loads beside its base.
//!
//! - In: an [`Adapter`] and the [`Config`] of its base. Out: the bytes of the file.
//! - llama.cpp multiplies by one alpha over the rank of each tensor; a module of another alpha has its B
//!   scaled by the quotient. Ranks may differ.
//! - The rows of B of q and k stand in the order in which llama.cpp stores these weights for `llama`: its
//!   RoPE rotates neighbours, Hugging Face's the two halves of a head.
//! - Never here: the disk, reading.
//!
//! Source: GGUF version 3, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; llama.cpp's
//! `convert_lora_to_gguf.py` and `llama-adapter.cpp`.

use super::{Adapter, AdapterError, Module, Target};
use crate::base::{Config, Family, Precision};
use half::f16;

/// Every tensor begins at a multiple of this.
const ALIGNMENT: usize = 32;
/// GGUF's number of a value that is an f32.
const VALUE_F32: u32 = 6;
/// GGUF's number of a value that is a string.
const VALUE_STRING: u32 = 8;

/// The file's bytes, numbers as `precision` says.
/// # Errors
/// [`AdapterError::Empty`], [`AdapterError::Length`], [`AdapterError::NotFinite`]; and
/// [`AdapterError::Range`] for a number that an f16 cannot hold.
pub fn write(
    adapter: &Adapter,
    config: &Config,
    precision: Precision,
) -> Result<Vec<u8>, AdapterError> {
    let (expected, got) = (adapter.spec.len(), adapter.values.len());
    if expected != got {
        return Err(AdapterError::Length { expected, got });
    }
    super::has_names_elsewhere(config)?;
    let alpha = alpha(adapter)?;
    let mut tensors = Vec::new();
    for module in &adapter.spec.modules {
        let name = format!("blk.{}.{}.weight", module.layer, weight(module.target));
        let (rank, fan_in, fan_out) = (module.rank, module.fan_in, module.fan_out);
        tensors.push((format!("{name}.lora_a"), [fan_in, rank], adapter.a(module).to_vec()));
        tensors.push((
            format!("{name}.lora_b"),
            [rank, fan_out],
            b(adapter, module, config, alpha),
        ));
    }
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(4u64.to_le_bytes());
    for (key, value) in [
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", architecture(config.family)),
    ] {
        string(&mut file, key);
        file.extend(VALUE_STRING.to_le_bytes());
        string(&mut file, value);
    }
    string(&mut file, "adapter.lora.alpha");
    file.extend(VALUE_F32.to_le_bytes());
    file.extend(alpha.to_le_bytes());
    let mut data = Vec::new();
    for (name, shape, numbers) in &tensors {
        data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        string(&mut file, name);
        file.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|&width| file.extend((width as u64).to_le_bytes()));
        file.extend(u32::from(precision == Precision::F16).to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        encode(name, numbers, precision, &mut data)?;
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
    file.extend(data);
    Ok(file)
}

/// The alpha that most of the file's modules need nothing for: the first one's. llama.cpp takes 0 for 1.
fn alpha(adapter: &Adapter) -> Result<f32, AdapterError> {
    let first = adapter.spec.modules.first().ok_or(AdapterError::Empty)?;
    let alpha = first.scale * first.rank as f32;
    Ok(if alpha == 0.0 { 1.0 } else { alpha })
}

/// B of a module, its rows as llama.cpp has them and scaled for the file's `alpha`.
fn b(adapter: &Adapter, module: &Module, config: &Config, alpha: f32) -> Vec<f32> {
    let (rank, head) = (module.rank, config.head_dim);
    let factor = module.scale * rank as f32 / alpha;
    let turned = matches!(module.target, Target::Q | Target::K)
        && matches!(config.family, Family::Llama | Family::Mistral);
    let row = |at: usize| match turned {
        true => at / head * head + at % 2 * (head / 2) + at % head / 2,
        false => at,
    };
    let b = adapter.b(module);
    let rows = (0..module.fan_out).flat_map(|at| &b[row(at) * rank..(row(at) + 1) * rank]);
    rows.map(|number| number * factor).collect()
}

/// What llama.cpp calls the architecture.
fn architecture(family: Family) -> &'static str {
    match family {
        Family::Llama | Family::Mistral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Phi3 => "phi3",
    }
}

/// What llama.cpp calls a linear layer inside a block.
fn weight(target: Target) -> &'static str {
    match target {
        Target::Q => "attn_q",
        Target::K => "attn_k",
        Target::V => "attn_v",
        Target::O => "attn_output",
        Target::Gate => "ffn_gate",
        Target::Up => "ffn_up",
        Target::Down => "ffn_down",
    }
}

fn string(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn encode(
    name: &str,
    numbers: &[f32],
    precision: Precision,
    data: &mut Vec<u8>,
) -> Result<(), AdapterError> {
    super::peft::finite(name, numbers)?;
    if precision == Precision::F32 {
        data.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        return Ok(());
    }
    for &value in numbers {
        let half = f16::from_f32(value);
        if half.is_infinite() {
            return Err(AdapterError::Range { name: name.to_owned(), value });
        }
        data.extend(half.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::adapter::{Spec, Strength};

    fn config(family: &str) -> Config {
        let json = r#"{"model_type": "FAMILY", "hidden_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
            "intermediate_size": 20, "vocab_size": 96}"#;
        Config::parse(&json.replace("FAMILY", family), None).unwrap()
    }

    /// k of rank 1 and alpha 3, v of rank 2 and alpha 12; the numbers count up from 1.
    fn adapter(config: &Config) -> Adapter {
        let spec = Spec::from_fn(config, 0..1, |_, target| match target {
            Target::K => Some(Strength { rank: 1, alpha: 3.0 }),
            Target::V => Some(Strength { rank: 2, alpha: 12.0 }),
            _ => None,
        });
        let values = (1..=spec.len()).map(|number| number as f32).collect();
        Adapter { spec, values }
    }

    /// Goal: B of k in llama.cpp's order for llama and as it is for qwen2 and qwen3, B of v scaled to the file's alpha.
    /// Oracle: halves of a head taken by turns; `tools/golden/check_gguf_adapter.py` asks llama.cpp itself.
    #[test]
    fn b_is_ordered_and_scaled_as_the_architecture_wants() {
        let plain = [0, 1, 2, 3, 4, 5];
        let families = [("llama", [0, 3, 1, 4, 2, 5]), ("qwen2", plain), ("qwen3", plain)];
        for (family, order) in families {
            let config = config(family);
            let adapter = adapter(&config);
            let file = write(&adapter, &config, Precision::F32).unwrap();
            let [k, v] = [0, 1].map(|module| &adapter.spec.modules[module]);
            let rows = [0, 6].into_iter().flat_map(|head| order.map(|row| head + row));
            let numbers = rows.map(|row| adapter.b(k)[row]);
            let k: Vec<u8> = numbers.flat_map(|number| number.to_le_bytes()).collect();
            let numbers = adapter.b(v).iter().map(|number| number * 4.0);
            let v: Vec<u8> = numbers.flat_map(|number| number.to_le_bytes()).collect();
            let holds = |bytes: &[u8]| file.chunks(32).any(|chunk| bytes.starts_with(chunk));
            assert!(holds(&k) && holds(&v), "{family}");
            assert!(file.windows(family.len()).any(|bytes| bytes == family.as_bytes()));
        }
    }

    #[test]
    fn a_family_that_llama_cpp_packs_is_refused_by_name() {
        let config = config("phi3");
        let error = write(&adapter(&config), &config, Precision::F32).unwrap_err().to_string();
        assert!(error.contains("phi3") && error.contains("sapwood fuse"), "{error}");
    }

    #[test]
    fn a_number_beyond_f16_is_refused() {
        let config = config("llama");
        let mut adapter = adapter(&config);
        adapter.values[0] = 70000.0;
        let error = write(&adapter, &config, Precision::F16).unwrap_err().to_string();
        assert!(error.contains("`blk.0.attn_k.weight.lora_a` holds 70000"), "{error}");
    }
}
