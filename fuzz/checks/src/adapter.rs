//! Adapter folders in PEFT's layout: configuration, meta and tensors, against a small base.
//!
//! - In: the three files with a mark between them; an empty meta is a missing one.
//! - Promises: an adapter that is read is finite and as large as its spec; what is written reads back
//!   equal, bit for bit.

use crate::Seed;
use crate::cursor::{joined, parts};
use sapwood::adapter::compare::{diff, inspect};
use sapwood::adapter::peft::{Files, Meta, Role, read, write};
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::base::Config;
use std::sync::LazyLock;

const HASH: [u8; 32] = [7; 32];
const META: Meta = Meta {
    base_hash: HASH,
    generation: 4,
    steps: 1234,
    role: Role::Slow,
    retain: 0.99,
    global: None,
};

static BASE: LazyLock<Config> = LazyLock::new(|| {
    let json = r#"{"model_type": "llama", "hidden_size": 4, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2,
        "intermediate_size": 6, "vocab_size": 8}"#;
    Config::parse(json, None).unwrap()
});

/// Reads the parts as an adapter's folder.
pub fn check(bytes: &[u8]) {
    let [config, meta, tensors] = parts(bytes);
    let files = Files { config, tensors, meta: (!meta.is_empty()).then_some(meta) };
    let own = read(files, &BASE, Some(HASH));
    let Ok((adapter, meta)) = read(files, &BASE, None) else {
        return assert!(own.is_err(), "refused unless its base is asked for");
    };
    let is_own = meta.is_none_or(|meta| meta.base_hash == HASH);
    assert_eq!(own.is_ok(), is_own);
    assert_eq!(adapter.values.len(), adapter.spec.len());
    assert!(adapter.values.iter().all(|value| value.is_finite()));
    assert!(adapter.spec.modules.iter().all(|module| module.scale.is_finite() && module.rank > 0));
    let summary = inspect(&adapter).unwrap();
    assert_eq!(summary.parameters, adapter.values.len());
    assert_eq!(diff(&adapter, &adapter).unwrap().modules.len(), adapter.spec.modules.len());
    reads_back(&adapter, &meta.unwrap_or(META));
}

fn reads_back(adapter: &Adapter, meta: &Meta) {
    let written = write(adapter, meta, "base").unwrap();
    let [config, tensors, facts] = [0, 1, 2].map(|file| written[file].1.as_slice());
    let again = read(Files { config, tensors, meta: Some(facts) }, &BASE, None).unwrap();
    assert_eq!(again.0.spec, adapter.spec);
    let bits = |adapter: &Adapter| -> Vec<u32> {
        adapter.values.iter().map(|value| value.to_bits()).collect()
    };
    assert_eq!(bits(&again.0), bits(adapter));
    assert_eq!(again.1.as_ref(), Some(meta));
}

/// Adapters of our own, and the settings that PEFT users write.
pub fn seeds() -> Vec<Seed> {
    let strength = Strength { rank: 1, alpha: 4.0 };
    let spec = Spec::uniform(&BASE, 1..2, &[Target::Q, Target::V], strength);
    let values = (0..spec.len()).map(|at| at as f32 / 16.0).collect();
    let files = write(&Adapter { spec, values }, &META, "base").unwrap();
    let [config, tensors, meta] = [0, 1, 2].map(|file| files[file].1.clone());
    let with = |text: &str| joined(&[text.as_bytes(), b"", &tensors]);
    let pattern = r#"{"peft_type":"LORA","r":2,"target_modules":".*layers\\.1.*\\.(q|v)_proj",
        "rank_pattern":{"(q|v)_proj":1},"alpha_pattern":{".*\\.v_p[a-z]*$":3.5},"use_rslora":true}"#;
    let layers = r#"{"peft_type":"LORA","r":1,"lora_alpha":2,"bias":"none",
        "target_modules":["q_proj","self_attn.v_proj"],"layers_to_transform":[1],
        "layers_pattern":"layers","task_type":"CAUSAL_LM"}"#;
    let all = r#"{"peft_type":"LORA","r":1,"target_modules":"all-linear","modules_to_save":null,
        "exclude_modules":["k_proj","o_proj"],"init_lora_weights":"eva"}"#;
    vec![
        ("own", joined(&[&config, &meta, &tensors])),
        ("pattern", with(pattern)),
        ("layers", with(layers)),
        ("all", with(all)),
    ]
}
