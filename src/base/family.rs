//! The families of decoders that are read, and what transformers assumes where `config.json` is silent.
//!
//! - In: the fields of `config.json`. Out: [`Family`] with its defaults, or a refusal that names those known.
//! - Never here: the shape of one decoder (`config`).
//!
//! Source: transformers 5, `LlamaConfig`, `MistralConfig`, `Qwen2Config`, `Qwen3Config`, `Phi3Config`.

use super::BaseError;
use super::fields::Fields;

/// The kind of decoder, which decides its defaults and where it has biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2, TinyLlama.
    Llama,
    /// Mistral: a sliding window may bound attention.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: a norm on each head of q and k.
    Qwen3,
    /// Phi-3 without longrope: q, k and v stored as one, gate and up too.
    Phi3,
}

/// What transformers assumes of a family when `config.json` is silent.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub(super) family: Family,
    pub(super) hidden: usize,
    /// None where it follows from the width and the heads.
    pub(super) head_dim: Option<usize>,
    pub(super) ffn: usize,
    pub(super) vocab: usize,
    pub(super) kv_heads: Option<usize>,
    pub(super) context: usize,
    pub(super) norm_eps: f64,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

const LLAMA: Defaults = Defaults {
    family: Family::Llama,
    hidden: 4096,
    head_dim: None,
    ffn: 11008,
    vocab: 32000,
    kv_heads: None,
    context: 2048,
    norm_eps: 1e-6,
    bos: Some(1),
    eos: Some(2),
};
const MISTRAL: Defaults = Defaults {
    family: Family::Mistral,
    ffn: 14336,
    kv_heads: Some(8),
    context: 4096 * 32,
    ..LLAMA
};
const QWEN2: Defaults = Defaults {
    family: Family::Qwen2,
    ffn: 22016,
    vocab: 151_936,
    kv_heads: Some(32),
    context: 32768,
    bos: None,
    eos: None,
    ..LLAMA
};
const QWEN3: Defaults = Defaults { family: Family::Qwen3, head_dim: Some(128), ..QWEN2 };
const PHI3: Defaults = Defaults {
    family: Family::Phi3,
    hidden: 3072,
    ffn: 8192,
    vocab: 32064,
    context: 4096,
    norm_eps: 1e-5,
    eos: Some(32000),
    ..LLAMA
};

/// The families by their name in `model_type`.
const FAMILIES: [(&str, Defaults); 5] =
    [("llama", LLAMA), ("mistral", MISTRAL), ("qwen2", QWEN2), ("qwen3", QWEN3), ("phi3", PHI3)];

/// The family by `model_type`, else by the first of `architectures`.
pub(super) fn defaults(fields: &Fields) -> Result<Defaults, BaseError> {
    let known = FAMILIES.map(|(name, _)| format!("\"{name}\"")).join(" or ");
    let architecture = fields.first_text("architectures")?;
    if architecture.as_ref().is_some_and(|name| !name.ends_with("ForCausalLM")) {
        return Err(fields.wrong("architectures", "a ...ForCausalLM"));
    }
    if !fields.has("model_type") && architecture.is_none() {
        return Err(fields.wrong("model_type", known));
    }
    let family = match fields.text("model_type")? {
        Some(name) => name,
        None => architecture.unwrap_or_default().replace("ForCausalLM", "").to_lowercase(),
    };
    match FAMILIES.into_iter().find(|(name, _)| *name == family) {
        Some((_, defaults)) => Ok(defaults),
        None if fields.has("model_type") => Err(fields.wrong("model_type", known)),
        None => {
            let expected = format!("the ...ForCausalLM of a model_type that is {known}");
            Err(fields.wrong("architectures", expected))
        }
    }
}
