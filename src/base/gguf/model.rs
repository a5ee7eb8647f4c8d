//! The model of a GGUF file in the words of Hugging Face: `config.json` and the names of its weights.
//!
//! - In: a header. Out: the text of `config.json`, [`Config`], and for each weight the tensor that has it.
//! - Only what is known to compute what [`Config`] says is taken: an architecture, a key of it or a tensor
//!   that is not known here is refused by its name.
//!
//! Source: llama.cpp, `llama-model.cpp`, `models/llama.cpp`, `models/qwen2.cpp`, `models/qwen3.cpp`, `convert_hf_to_gguf.py`.

use super::super::{BaseError, Config, Family};
use super::facts::Facts;
use super::rope;
use super::vocabulary::Specials;
use serde_json::json;
use std::collections::BTreeMap;

/// The tensor with a divisor for each frequency of rope.
pub(super) const DIVISORS: &str = "rope_freqs.weight";
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// Keys of an architecture that are read here, or that only describe.
const KNOWN: [&str; 19] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
];
/// Keys that change what is computed unless they have one of these values.
const NEUTRAL: [(&str, &[f64]); 18] = [
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attention.scale", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("expert_count", &[0.0]),
    ("expert_feed_forward_length", &[0.0]),
    ("expert_shared_count", &[0.0]),
    ("expert_used_count", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("leading_dense_block_count", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("nextn_predict_layers", &[0.0]),
    ("pooling_type", &[0.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("rope.scaling.attn_factor", &[1.0]),
    ("rope.scaling.yarn_log_multiplier", &[0.0]),
];
/// Flags that change what is computed unless they are this.
const FLAGS: [(&str, bool); 3] =
    [("attention.causal", true), ("swin_norm", false), ("use_parallel_residual", false)];

/// A model that we compute.
pub(super) struct Model {
    /// The text of `config.json`.
    pub(super) json: String,
    pub(super) config: Config,
    /// The tensor of each weight.
    pub(super) tensors: BTreeMap<String, String>,
}

impl Model {
    /// - `divisors`: those of [`DIVISORS`], if it is there. `generation`: the text of
    ///   `generation_config.json`.
    pub(super) fn new(
        facts: &Facts<'_>,
        divisors: Option<&[f32]>,
        specials: &Specials,
        generation: &str,
    ) -> Result<Self, BaseError> {
        let architecture = architecture(facts)?;
        known_keys(facts, architecture)?;
        let json = config_json(facts, architecture, divisors, specials)?;
        let config = Config::parse(&json, Some(generation)).map_err(|error| match error {
            // There is no such file yet, and nothing else says where the number comes from.
            BaseError::Config { field, expected, got, .. } => {
                facts.other(format!("its metadata gives `{field}` {got}, expected {expected}"))
            }
            other => other,
        })?;
        let tensors = tensors(facts, &config)?;
        Ok(Self { json, config, tensors })
    }
}

fn architecture<'a>(facts: &Facts<'a>) -> Result<&'a str, BaseError> {
    if let Some(kind) = facts.text("general.type")?.filter(|kind| *kind != "model") {
        return Err(facts.other(format!("it holds no model, but by `general.type` {kind:?}")));
    }
    if facts.whole("split.count")?.is_some_and(|count| count > 1) {
        return Err(facts.wrong("split.count", "one file (llama-gguf-split --merge makes one)"));
    }
    match facts.text("general.architecture")? {
        Some(name @ ("llama" | "qwen2" | "qwen3")) => Ok(name),
        _ => Err(facts.wrong("general.architecture", "\"llama\", \"qwen2\" or \"qwen3\"")),
    }
}

/// Every key of the architecture is known, and none says that something else is computed.
fn known_keys(facts: &Facts<'_>, architecture: &str) -> Result<(), BaseError> {
    let own = facts
        .header
        .values
        .keys()
        .filter_map(|key| Some((key, key.strip_prefix(architecture)?.strip_prefix('.')?)));
    for (key, name) in own {
        if KNOWN.contains(&name) {
            continue;
        }
        if let Some((_, allowed)) = NEUTRAL.iter().find(|(neutral, _)| *neutral == name) {
            if facts.number(key)?.is_none_or(|number| !allowed.contains(&number)) {
                return Err(facts.wrong(key, allowed[0].to_string()));
            }
        } else if let Some((_, expected)) = FLAGS.iter().find(|(flag, _)| *flag == name) {
            if facts.flag(key)? != Some(*expected) {
                return Err(facts.wrong(key, expected.to_string()));
            }
        } else {
            return Err(facts.wrong(key, "absent: what it changes is not known here"));
        }
    }
    Ok(())
}

fn config_json(
    facts: &Facts<'_>,
    architecture: &str,
    divisors: Option<&[f32]>,
    specials: &Specials,
) -> Result<String, BaseError> {
    let key = |name: &str| format!("{architecture}.{name}");
    let [hidden, heads] =
        [facts.size(&key("embedding_length"))?, facts.size(&key("attention.head_count"))?];
    let kv_heads = facts.whole(&key("attention.head_count_kv"))?.unwrap_or(heads);
    let context = facts.size(&key("context_length"))?;
    let head_dim = head_dim(facts, architecture, hidden, heads)?;
    if let Some(window) = facts.whole(&key("attention.sliding_window"))?
        && (1..context).contains(&window)
    {
        return Err(facts.wrong(&key("attention.sliding_window"), format!("none below {context}")));
    }
    let vocab = vocab(facts)?;
    let mut config = json!({
        "architectures": [match architecture {
            "qwen2" => "Qwen2ForCausalLM",
            "qwen3" => "Qwen3ForCausalLM",
            _ => "LlamaForCausalLM",
        }],
        "attention_dropout": 0.0,
        "bos_token_id": specials.bos,
        "eos_token_id": specials.eos,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": facts.size(&key("feed_forward_length"))?,
        "max_position_embeddings": context,
        "model_type": architecture,
        "num_attention_heads": heads,
        "num_hidden_layers": facts.size(&key("block_count"))?,
        "num_key_value_heads": kv_heads,
        "pad_token_id": specials.pad,
        "rms_norm_eps": facts.number(&key("attention.layer_norm_rms_epsilon"))?.ok_or_else(|| {
            facts.wrong(&key("attention.layer_norm_rms_epsilon"), "a number")
        })?,
        "rope_parameters": rope::parameters(facts, architecture, head_dim as usize, divisors)?,
        "tie_word_embeddings": !facts.header.tensors.contains_key(OUTPUT),
        "use_cache": true,
        "vocab_size": vocab,
    });
    let no = json!(false);
    let more = match architecture {
        "qwen2" => vec![("use_sliding_window", no)],
        "qwen3" => vec![("attention_bias", no.clone()), ("use_sliding_window", no)],
        _ => vec![("attention_bias", no.clone()), ("mlp_bias", no), ("pretraining_tp", json!(1))],
    };
    for (name, value) in more.into_iter().chain([("head_dim", json!(head_dim))]) {
        config[name] = value;
    }
    Ok(format!("{config:#}\n"))
}

/// Width of a head: of keys, of values and of what rope turns.
fn head_dim(
    facts: &Facts<'_>,
    architecture: &str,
    hidden: u32,
    heads: u32,
) -> Result<u32, BaseError> {
    let key = |name: &str| format!("{architecture}.{name}");
    let shared = hidden.checked_div(heads).unwrap_or_default();
    let width = facts.whole(&key("attention.key_length"))?.unwrap_or(shared);
    for name in ["attention.value_length", "rope.dimension_count"] {
        let other = facts.whole(&key(name))?.unwrap_or(match name {
            "attention.value_length" => shared,
            _ => width,
        });
        if other != width {
            return Err(facts.wrong(&key(name), format!("{width}, the width of a head")));
        }
    }
    Ok(width)
}

/// Rows of the embedding, at least one for each token.
fn vocab(facts: &Facts<'_>) -> Result<usize, BaseError> {
    let Some(embedding) = facts.header.tensors.get(EMBEDDING) else {
        return Err(facts.other(format!("it has no tensor {EMBEDDING:?}")));
    };
    let rows = embedding.shape.get(1).copied().unwrap_or(1);
    let tokens = facts.texts("tokenizer.ggml.tokens")?.len();
    match tokens > rows {
        true => Err(facts.other(format!("{tokens} tokens for an embedding of {rows} rows"))),
        false => Ok(rows),
    }
}

/// The tensor of each weight of the config, each with its shape; no other tensor is there.
fn tensors(facts: &Facts<'_>, config: &Config) -> Result<BTreeMap<String, String>, BaseError> {
    let present = &facts.header.tensors;
    let mut tensors = BTreeMap::new();
    for (name, ours) in config.weights() {
        let tied = config.tied && name == "lm_head.weight";
        let theirs = if tied { EMBEDDING.to_owned() } else { theirs(&name) };
        let mut expected = ours;
        // Our linear weights lie `[in, out]`, and GGUF names the inner axis first.
        if name == "model.embed_tokens.weight" {
            expected.reverse();
        }
        match present.get(&theirs) {
            Some(tensor) if tensor.shape == expected => {}
            Some(tensor) => {
                let got = &tensor.shape;
                let what = format!("tensor {theirs:?} has shape {got:?}, expected {expected:?}");
                return Err(facts.other(what));
            }
            None => return Err(facts.other(format!("it has no tensor {theirs:?}"))),
        }
        tensors.insert(name, theirs);
    }
    let rope = |name: &str| name == DIVISORS && config.family == Family::Llama;
    let used: std::collections::BTreeSet<&String> = tensors.values().collect();
    match present.keys().find(|name| !used.contains(name) && !rope(name)) {
        Some(name) => Err(facts.other(format!("tensor {name:?} has no place in the decoder"))),
        None => Ok(tensors),
    }
}

/// The tensor of a weight.
fn theirs(name: &str) -> String {
    let (module, end) = name.rsplit_once('.').unwrap_or((name, ""));
    let (layer, module) =
        match module.strip_prefix("model.layers.").map(|rest| rest.split_once('.')) {
            Some(Some((layer, module))) => (format!("blk.{layer}."), module),
            _ => (String::new(), module),
        };
    let theirs = match module {
        "model.embed_tokens" => "token_embd",
        "model.norm" => "output_norm",
        "lm_head" => "output",
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => other,
    };
    format!("{layer}{theirs}.{end}")
}
