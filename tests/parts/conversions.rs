//! Adapters for llama.cpp and mlx-lm, beside files that those programs ran and gave PEFT's logits with.
//!
//! Oracle: `tools/golden/conversions.py` (peft 0.21, llama-cpp-python 0.3.36, mlx-lm 0.32).

use crate::common::{Golden, Surprise, Within, assert_close, exported, golden};
use ndarray::Array2;
use safetensors::SafeTensors;
use sapwood::adapter::peft::{self, Files};
use sapwood::adapter::{Adapter, gguf, mlx};
use sapwood::base::gguf::header::{Header, Tensor};
use sapwood::base::gguf::read_header;
use sapwood::base::{Base, Precision};
use sapwood::head::{Backend, Head, Keep};
use sapwood::trunk::Trunk;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const FAMILIES: [&str; 3] = ["smollm2", "qwen2", "qwen3"];
const F32: Within = Within { relative: 1e-4, because: "f32 sums in another order" };
const ONCE: Within = Within { relative: 1e-6, because: "a number is multiplied once or twice" };

/// Numbers by tensor.
type Tensors = BTreeMap<String, Vec<f32>>;

fn of_peft(folder: &Path, base: &Base) -> Result<Adapter, Surprise> {
    let config = fs::read(folder.join(peft::CONFIG_FILE))?;
    let tensors = fs::read(folder.join(peft::TENSORS_FILE))?;
    let files = Files { config: &config, tensors: &tensors, meta: None };
    Ok(peft::read(files, base.config(), None)?.0)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}

/// What a GGUF file of an adapter says, and its tensors; those of B times alpha.
fn of_gguf(path: &Path) -> Result<(Vec<String>, Tensors), Surprise> {
    let (header, bytes) = (read_header(path)?, fs::read(path)?);
    let Header { values, tensors } = header;
    let text = |key: &str| values.get(key).and_then(|value| value.text()).map(str::to_owned);
    let said = ["general.type", "adapter.type", "general.architecture"].iter();
    let said = said.map(|key| text(key).ok_or(*key)).collect::<Result<_, _>>()?;
    let alpha = values.get("adapter.lora.alpha").and_then(|value| value.float()).ok_or("alpha")?;
    let one = |(name, tensor): (String, Tensor)| {
        let Tensor { shape, offset, bytes: length, .. } = tensor;
        let mut numbers = floats(&bytes[offset as usize..][..length as usize]);
        if name.ends_with("lora_b") {
            numbers.iter_mut().for_each(|number| *number *= alpha as f32);
        }
        (format!("{name} {shape:?}"), numbers)
    };
    Ok((said, tensors.into_iter().map(one).collect()))
}

fn assert_same(family: &str, got: &Tensors, expected: &Tensors) {
    assert!(got.keys().eq(expected.keys()), "{family}: {:?}, {:?}", got.keys(), expected.keys());
    for (name, numbers) in got {
        assert_close(&format!("{family} {name}"), numbers, &expected[name], &ONCE);
    }
}

fn logits(base: &Base, adapter: &Adapter, expected: &Golden) -> Result<Vec<f32>, Surprise> {
    let shape = expected.shape("input_ids")?;
    let ids = expected.i64("input_ids")?.iter().map(|&id| id as u32).collect();
    let ids = Array2::from_shape_vec((shape[0], shape[1]), ids)?;
    let head = Head::load(base, 0, &Backend::cpu(), shape[1], Keep::default())?;
    let hidden = Trunk::load(base, 0, 1)?.hidden(&ids)?;
    Ok(head.logits(Some(adapter), &hidden)?.iter().copied().collect())
}

/// Goal: what is written for llama.cpp is the file that llama.cpp gave PEFT's logits with, of every architecture,
/// ranks and alphas of several kinds in it.
#[test]
fn an_adapter_for_llama_cpp_is_what_llama_cpp_ran() -> Result<(), Surprise> {
    for family in FAMILIES {
        let (_place, base) = exported(&format!("families/{family}"))?;
        let folder = golden(&format!("conversions/{family}"));
        let adapter = of_peft(&folder.join("uneven"), &base)?;
        let place = tempfile::tempdir()?;
        let written = place.path().join("adapter.gguf");
        fs::write(&written, gguf::write(&adapter, base.config(), Precision::F32)?)?;
        let (got, expected) = (of_gguf(&written)?, of_gguf(&folder.join("uneven.gguf"))?);
        assert_eq!(got.0, expected.0, "{family}");
        assert_same(family, &got.1, &expected.1);
        let expected = Golden::load(&format!("conversions/{family}/expected"))?;
        let got = logits(&base, &adapter, &expected)?;
        assert_close(family, &got, &expected.f32("uneven")?, &F32);
    }
    Ok(())
}

/// The configuration of mlx-lm's that counts, and its tensors; those of B times the scale.
fn of_mlx(about: &[u8], tensors: &[u8]) -> Result<(Value, Tensors), Surprise> {
    let mut about: Value = serde_json::from_slice(about)?;
    let scale = about["lora_parameters"]["scale"].as_f64().ok_or("scale")?;
    about["lora_parameters"]["keys"].as_array_mut().ok_or("keys")?.sort_by_key(Value::to_string);
    let mut all = Tensors::new();
    for (name, view) in SafeTensors::deserialize(tensors)?.tensors() {
        let mut numbers = floats(view.data());
        if name.ends_with("lora_b") {
            numbers.iter_mut().for_each(|number| *number *= scale as f32);
        }
        all.insert(format!("{name} {:?}", view.shape()), numbers);
    }
    about.as_object_mut().ok_or("no object")?.remove("model");
    Ok((about, all))
}

/// Goal: what mlx-lm saved reads as the adapter that it computed with, and what is written for mlx-lm is what it
/// would have saved.
#[test]
fn an_adapter_of_mlx_lm_gives_its_logits_and_is_written_as_it_writes() -> Result<(), Surprise> {
    for family in FAMILIES {
        let (_place, base) = exported(&format!("families/{family}"))?;
        let folder = golden(&format!("conversions/{family}"));
        let about = fs::read(folder.join("mlx").join(mlx::CONFIG_FILE))?;
        let tensors = fs::read(folder.join("mlx").join(mlx::TENSORS_FILE))?;
        let read = mlx::read(&about, &tensors, base.config())?;
        let expected = Golden::load(&format!("conversions/{family}/expected"))?;
        assert_close(family, &logits(&base, &read, &expected)?, &expected.f32("even")?, &F32);

        let adapter = of_peft(&folder.join("even"), &base)?;
        let written = mlx::write(&adapter, base.config(), "base")?;
        let file = |name: &str| {
            let found = written.iter().find(|(own, _)| *own == name);
            found.map(|(_, bytes)| bytes.as_slice()).ok_or("a file is missing")
        };
        let got = of_mlx(file(mlx::CONFIG_FILE)?, file(mlx::TENSORS_FILE)?)?;
        let expected = of_mlx(&about, &tensors)?;
        assert_eq!(got.0, expected.0, "{family}");
        assert_same(family, &got.1, &expected.1);
    }
    Ok(())
}
