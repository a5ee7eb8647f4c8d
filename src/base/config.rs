//! The configuration of a Llama-family decoder, from Hugging Face's `config.json`.
//!
//! Every number the graph and the learner need, checked against each other, so that later stages
//! multiply sizes without a second thought.
//! - In: the text of `config.json` and of `generation_config.json`. Out: [`Config`].
//! - A missing key takes the default of its family in transformers; a value that would change the
//!   arithmetic and that we do not compute is an error that names the field.
//! - Never here: files.
//! - Invariant: every size is in `1..=SIZE_MAX`, `kv_heads` divides `heads`, `head_dim` is even.
//!
//! Source: transformers 5, `LlamaConfig`, `MistralConfig`, `Qwen2Config`, `Qwen3Config`, `Phi3Config`.

use super::BaseError;
use super::family::{self, Defaults, Family};
use super::fields::Fields;
use super::rope::Rope;

/// Largest width, vocabulary or length that a config may name; products of two fit a `usize`.
pub const SIZE_MAX: usize = 1 << 24;
/// Widest head that a config may name: its RoPE tables are made before any weight is read.
pub const HEAD_MAX: usize = 1 << 12;
/// Most decoder layers that a config may name.
pub const LAYERS_MAX: usize = 4096;
/// Most positions that a RoPE table is made for, whatever context the model claims.
pub use sapwood_protocol::limits::POSITIONS_MAX;

/// The shape of a Llama-family decoder and how it ends a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The kind of decoder.
    pub family: Family,
    /// Hidden width D.
    pub hidden: usize,
    /// Decoder layers L.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head, even; `heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Vocabulary size V.
    pub vocab: usize,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f32,
    /// How positions rotate queries and keys.
    pub rope: Rope,
    /// Whether the output layer is the embedding, transposed.
    pub tied: bool,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether each head of q and k goes through a norm before it is rotated.
    pub qk_norm: bool,
    /// Whether the attention's output has one.
    pub o_bias: bool,
    /// Whether the three layers of the MLP have one.
    pub mlp_bias: bool,
    /// Longest sequence the model was made for, in tokens.
    pub context: usize,
    /// Attention reaches back this many tokens; none when it reaches all of them.
    pub sliding_window: Option<usize>,
    /// The token that begins a text, if the model has one.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
}

impl Config {
    /// Reads the text of `config.json`, and of `generation_config.json` for the end of a text.
    /// # Errors
    /// [`BaseError::Config`] names the field, what was expected and what it holds.
    pub fn parse(config_json: &str, generation_config: Option<&str>) -> Result<Self, BaseError> {
        let fields = Fields::parse("config.json", config_json)?;
        let defaults = family::defaults(&fields)?;
        refuse_other_arithmetic(&fields)?;
        let hidden = fields.size("hidden_size", defaults.hidden)?;
        let heads = fields.size("num_attention_heads", 32)?;
        // A `null` means one key head per query head; only a missing key means the family's number.
        let kv_default = defaults.kv_heads.filter(|_| !fields.has("num_key_value_heads"));
        let head_dim = defaults.head_dim.filter(|_| !fields.has("head_dim"));
        let context = fields.size("max_position_embeddings", defaults.context)?;
        let attention_bias = matches!(defaults.family, Family::Llama | Family::Qwen3)
            && fields.flag("attention_bias", false)?;
        let mut config = Self {
            family: defaults.family,
            hidden,
            layers: fields.size("num_hidden_layers", 32)?,
            heads,
            kv_heads: fields.size("num_key_value_heads", kv_default.unwrap_or(heads))?,
            head_dim: fields.size("head_dim", head_dim.unwrap_or((hidden / heads).max(1)))?,
            ffn: fields.size("intermediate_size", defaults.ffn)?,
            vocab: fields.size("vocab_size", defaults.vocab)?,
            norm_eps: fields.positive("rms_norm_eps", defaults.norm_eps)? as f32,
            rope: Rope::parse(&fields, context)?,
            tied: fields.flag("tie_word_embeddings", false)?,
            qkv_bias: defaults.family == Family::Qwen2 || attention_bias,
            qk_norm: defaults.family == Family::Qwen3,
            o_bias: attention_bias,
            mlp_bias: defaults.family == Family::Llama && fields.flag("mlp_bias", false)?,
            context,
            sliding_window: sliding_window(&fields, defaults.family)?,
            bos: None,
            eos: Vec::new(),
        };
        config.check(&fields)?;
        config.read_ends(&fields, generation_config, &defaults)?;
        Ok(config)
    }

    /// Where the sizes must fit each other.
    fn check(&self, fields: &Fields) -> Result<(), BaseError> {
        if self.layers > LAYERS_MAX {
            return Err(fields.wrong("num_hidden_layers", format!("at most {LAYERS_MAX}")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of num_attention_heads, {}", self.heads);
            return Err(fields.wrong("num_key_value_heads", expected));
        }
        let (heads, width) = (self.heads, self.head_dim);
        if !width.is_multiple_of(2) || width > HEAD_MAX || heads * width > SIZE_MAX {
            let what = format!(
                "an even head width of at most {HEAD_MAX}, with {heads} heads at most {SIZE_MAX}"
            );
            let field = if fields.has("head_dim") { "head_dim" } else { "hidden_size" };
            return Err(fields.wrong(field, what));
        }
        if !self.rope.is_finite(width) {
            return Err(fields.wrong("rope_theta", "a base whose angles, scaled, are finite"));
        }
        Ok(())
    }

    /// Begin and end of a text; what generation was configured with wins.
    fn read_ends(
        &mut self,
        fields: &Fields,
        generation: Option<&str>,
        defaults: &Defaults,
    ) -> Result<(), BaseError> {
        let generation =
            generation.map(|text| Fields::parse("generation_config.json", text)).transpose()?;
        let first = |field| match generation.as_ref().map(|fields| fields.tokens(field)) {
            Some(Ok(None)) | None => fields.tokens(field),
            Some(found) => found,
        };
        let or_default = |found: Option<Vec<u32>>, field, default: Option<u32>| match found {
            Some(tokens) => tokens,
            // An explicit null says that there is none.
            None if fields.has(field) => Vec::new(),
            None => default.into_iter().collect(),
        };
        let bos = or_default(first("bos_token_id")?, "bos_token_id", defaults.bos);
        let mut eos = or_default(first("eos_token_id")?, "eos_token_id", defaults.eos);
        // A token that the vocabulary does not have can never come.
        eos.retain(|&token| (token as usize) < self.vocab);
        self.bos = bos.first().copied().filter(|&token| (token as usize) < self.vocab);
        self.eos = eos;
        Ok(())
    }

    /// Positions that the RoPE tables of graph and head hold: `min(context, POSITIONS_MAX)`.
    pub fn positions(&self) -> usize {
        self.context.min(POSITIONS_MAX)
    }

    /// Cosine and sine of every position's angles, each `[positions, head_dim / 2]` row-major.
    ///
    /// The two halves of a head share one angle: `x1 cos - x2 sin, x2 cos + x1 sin`.
    pub fn rope_tables(&self, positions: usize) -> (Vec<f32>, Vec<f32>) {
        self.rope.tables(self.head_dim, positions)
    }

    /// What the arithmetic depends on, as a text that stays the same from version to version: part
    /// of the hash by which an adapter knows its base.
    pub(super) fn identity(&self) -> String {
        let Self { hidden, layers, heads, kv_heads, head_dim, ffn, vocab, tied, .. } = self;
        let Rope { theta, scaling } = self.rope;
        let (eps, window) = (self.norm_eps.to_bits(), self.sliding_window);
        format!(
            "sapwood base 1: {hidden} {layers} {heads} {kv_heads} {head_dim} {ffn} {vocab} {tied} \
             {eps:08x} {theta:?} {scaling:?} {window:?}\n"
        )
    }

    /// Numbers the model learned, a tied output layer counted once.
    pub fn parameters(&self) -> u64 {
        let shared = |name: &str| self.tied && name == "lm_head.weight";
        let size = |shape: &[usize]| shape.iter().map(|&width| width as u64).product::<u64>();
        self.weights().iter().filter(|(name, _)| !shared(name)).map(|(_, shape)| size(shape)).sum()
    }

    /// Whether a sequence of `length` tokens is computed as the model was trained.
    /// # Errors
    /// [`BaseError::Length`] names the limit: the RoPE tables or the sliding window.
    pub fn check_length(&self, length: usize) -> Result<(), BaseError> {
        let error = |limit, why| Err(BaseError::Length { length, limit, why });
        if length > self.positions() {
            return error(self.positions(), "the positions of the model's RoPE table");
        }
        match self.sliding_window {
            Some(window) if length > window => error(window, "the model's sliding_window"),
            _ => Ok(()),
        }
    }

    /// Every weight under its Hugging Face name with our shape, in the order of the graph: linear
    /// weights `[in, out]`, the embedding `[V, D]`, the output layer `[D, V]` even when tied.
    pub fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let mut weights = vec![("model.embed_tokens.weight".into(), vec![self.vocab, self.hidden])];
        for layer in 0..self.layers {
            weights.extend(self.layer_weights(layer));
        }
        weights.push(("model.norm.weight".into(), vec![self.hidden]));
        weights.push(("lm_head.weight".into(), vec![self.hidden, self.vocab]));
        weights
    }

    /// The weights of one decoder layer.
    pub fn layer_weights(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (d, q, kv) = (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut weights = Vec::new();
        let mut push = |name: &str, shape: &[usize]| {
            weights.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        push("input_layernorm.weight", &[d]);
        for (name, width) in [("q", q), ("k", kv), ("v", kv)] {
            push(&format!("self_attn.{name}_proj.weight"), &[d, width]);
            if self.qkv_bias {
                push(&format!("self_attn.{name}_proj.bias"), &[width]);
            }
            if self.qk_norm && name != "v" {
                push(&format!("self_attn.{name}_norm.weight"), &[self.head_dim]);
            }
        }
        push("self_attn.o_proj.weight", &[q, d]);
        if self.o_bias {
            push("self_attn.o_proj.bias", &[d]);
        }
        push("post_attention_layernorm.weight", &[d]);
        for (name, fans) in
            [("gate", [d, self.ffn]), ("up", [d, self.ffn]), ("down", [self.ffn, d])]
        {
            push(&format!("mlp.{name}_proj.weight"), &fans);
            if self.mlp_bias {
                push(&format!("mlp.{name}_proj.bias"), &fans[1..]);
            }
        }
        weights
    }
}

/// Fields that would make the forward pass another one than ours.
fn refuse_other_arithmetic(fields: &Fields) -> Result<(), BaseError> {
    if fields.text("hidden_act")?.is_some_and(|name| name != "silu") {
        return Err(fields.wrong("hidden_act", "\"silu\""));
    }
    if fields.has("quantization_config") && !fields.is_null("quantization_config") {
        return Err(fields.wrong("quantization_config", "none: f32, f16 or bf16 weights"));
    }
    Ok(())
}

/// How far back attention reaches, if it is bounded at all.
fn sliding_window(fields: &Fields, family: Family) -> Result<Option<usize>, BaseError> {
    let used = match family {
        Family::Llama => false,
        Family::Mistral => !fields.is_null("sliding_window"),
        Family::Phi3 => fields.has("sliding_window") && !fields.is_null("sliding_window"),
        Family::Qwen2 | Family::Qwen3 => {
            fields.flag("use_sliding_window", false)? && !fields.is_null("sliding_window")
        }
    };
    // transformers assumes this window when the key is missing, of Mistral and Qwen.
    used.then(|| fields.size("sliding_window", 4096)).transpose()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::base::RopeScaling;

    fn llama(more: &str) -> Result<Config, BaseError> {
        Config::parse(&format!(r#"{{"model_type": "llama"{more}}}"#), None)
    }

    fn refusal(json: &str) -> String {
        Config::parse(json, None).map(|config| format!("{config:?}")).unwrap_err().to_string()
    }

    #[test]
    fn missing_keys_take_the_defaults_of_llama() {
        let config = llama("").unwrap();
        assert_eq!(
            (config.hidden, config.layers, config.ffn, config.vocab),
            (4096, 32, 11008, 32000)
        );
        assert_eq!((config.heads, config.kv_heads, config.head_dim), (32, 32, 128));
        assert_eq!((config.context, config.norm_eps, config.tied), (2048, 1e-6, false));
        assert_eq!((config.bos, config.eos.clone()), (Some(1), vec![2]));
        // What Meta states of Llama 2 7B.
        assert_eq!(config.parameters(), 6_738_415_616);
    }

    #[test]
    fn mistral_and_qwen2_have_defaults_of_their_own() {
        let mistral = Config::parse(r#"{"model_type": "mistral"}"#, None).unwrap();
        assert_eq!((mistral.kv_heads, mistral.ffn), (8, 14336));
        assert_eq!(mistral.sliding_window, Some(4096));
        let qwen =
            Config::parse(r#"{"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8}"#, None)
                .unwrap();
        assert_eq!((qwen.qkv_bias, qwen.sliding_window, qwen.kv_heads), (true, None, 32));
    }

    #[test]
    fn qwen3_and_phi3_have_defaults_of_their_own() {
        let qwen =
            Config::parse(r#"{"model_type": "qwen3", "attention_bias": true}"#, None).unwrap();
        assert_eq!((qwen.head_dim, qwen.qk_norm, qwen.kv_heads), (128, true, 32));
        assert_eq!((qwen.qkv_bias, qwen.o_bias, qwen.mlp_bias), (true, true, false));
        let json = r#"{"model_type": "qwen3", "head_dim": null, "hidden_size": 64,
            "num_attention_heads": 2, "num_key_value_heads": 1}"#;
        assert_eq!(Config::parse(json, None).unwrap().head_dim, 32);
        let phi = Config::parse(r#"{"model_type": "phi3"}"#, None).unwrap();
        assert_eq!((phi.hidden, phi.ffn, phi.vocab, phi.head_dim), (3072, 8192, 32064, 96));
        assert_eq!((phi.norm_eps, phi.sliding_window, phi.eos.clone()), (1e-5, None, vec![32000]));
        // What Microsoft states of Phi-3-mini.
        assert_eq!(phi.parameters(), 3_821_079_552);
        let long = r#"{"model_type": "phi3", "rope_scaling": {"type": "longrope"}}"#;
        assert!(refusal(long).contains("longrope"), "{}", refusal(long));
        let part = r#"{"model_type": "phi3", "partial_rotary_factor": 0.75}"#;
        assert!(refusal(part).contains("partial_rotary_factor"), "{}", refusal(part));
    }

    #[test]
    fn a_null_number_of_key_heads_means_one_per_query_head() {
        let json = r#"{"model_type": "mistral", "num_key_value_heads": null}"#;
        assert_eq!(Config::parse(json, None).unwrap().kv_heads, 32);
    }

    #[test]
    fn a_window_and_the_rope_table_bound_the_length() {
        let json =
            r#"{"model_type": "mistral", "sliding_window": 16, "max_position_embeddings": 64}"#;
        let config = Config::parse(json, None).unwrap();
        assert!(config.check_length(16).is_ok());
        let error = config.check_length(17).unwrap_err().to_string();
        assert!(error.contains("17 tokens exceeds 16, the model's sliding_window"), "{error}");
        let config = llama(r#", "max_position_embeddings": 64"#).unwrap();
        assert!(config.check_length(64).is_ok() && config.check_length(65).is_err());
    }

    #[test]
    fn both_ways_to_write_rope_scaling_are_read() {
        let scaling = r#""rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192"#;
        let old = llama(&format!(r#", "rope_theta": 500000.0, "rope_scaling": {{{scaling}}}"#));
        let new = format!(r#", "rope_parameters": {{"rope_theta": 500000.0, {scaling}}}"#);
        let expected = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 };
        assert_eq!(old.unwrap().rope, Rope { theta: 5e5, scaling: expected });
        assert_eq!(llama(&new).unwrap().rope, Rope { theta: 5e5, scaling: expected });
    }

    #[test]
    fn what_generation_is_configured_with_ends_a_text() {
        let json = r#"{"model_type": "llama", "vocab_size": 100, "eos_token_id": 7}"#;
        let generation = r#"{"eos_token_id": [9, 8, 100], "bos_token_id": null}"#;
        let config = Config::parse(json, Some(generation)).unwrap();
        assert_eq!((config.eos, config.bos), (vec![9, 8], Some(1)));
    }

    #[test]
    fn a_refusal_names_the_field_and_the_value() {
        for (json, words) in [
            (r#"{"model_type": "gemma"}"#, "`model_type` must be"),
            (r#"{"model_type": "llama", "hidden_act": "gelu"}"#, "`hidden_act` must be \"silu\""),
            (r#"{"model_type": "llama", "attention_bias": 1}"#, "`attention_bias`"),
            (r#"{"model_type": "llama", "hidden_size": -4}"#, "`hidden_size` must be a whole"),
            (r#"{"model_type": "llama", "hidden_size": 1e400}"#, "not a JSON object"),
            (r#"{"model_type": "llama", "num_key_value_heads": 5}"#, "`num_key_value_heads`"),
            (r#"{"model_type": "llama", "head_dim": 7}"#, "`head_dim` must be an even"),
            (r#"{"model_type": "llama", "head_dim": 4098}"#, "`head_dim` must be an even"),
            (r#"{"model_type": "llama", "rope_theta": 1e-44}"#, "`rope_theta` must be a base"),
            (
                r#"{"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 1e-44}}"#,
                "`rope_theta` must be a base whose angles, scaled",
            ),
            (r#"{"model_type": "llama", "rms_norm_eps": 0}"#, "`rms_norm_eps`"),
            (r#"{"model_type": "llama", "rope_scaling": {"type": "yarn"}}"#, "`rope_scaling.type`"),
            (r#"{"model_type": "llama", "rope_scaling": {"type": "linear"}}"#, "factor` must be"),
            (r#"{"model_type": "llama", "quantization_config": {"bits": 4}}"#, "quantization"),
            (r#"{"architectures": ["LlamaModel"]}"#, "`architectures`"),
            (r#"{}"#, "`model_type`"),
            ("[]", "not a JSON object"),
        ] {
            let error = refusal(json);
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
