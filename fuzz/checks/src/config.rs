//! Configurations: settings in TOML, and the `config.json` of a model with its `generation_config.json`.
//!
//! - Promises: what is read is in range; tables made from it stay within what one model may take.

use crate::Seed;
use crate::cursor::{joined, parts};
use sapwood::base::Config;
use sapwood::base::config::{POSITIONS_MAX, SIZE_MAX};
use sapwood::settings::Settings;

/// Most bytes of both RoPE tables: what a model of the widest head needs.
const TABLE_BYTES_MAX: usize = 1 << 26;

/// Reads the bytes as settings when they begin with `s`, else as a model's configuration.
pub fn check(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let [first, second] = parts(rest);
    let (Ok(first), Ok(second)) = (std::str::from_utf8(first), std::str::from_utf8(second)) else {
        return;
    };
    match kind {
        b's' => settings(first),
        _ => model(first, (!second.is_empty()).then_some(second)),
    }
}

fn settings(text: &str) {
    let Ok(settings) = Settings::from_toml(text) else { return };
    if settings.check().is_err() {
        return;
    }
    for step in [1, settings.warmup_steps(), settings.iters] {
        let rate = settings.learning_rate_at(step.max(1));
        assert!((0.0..=settings.learning_rate).contains(&rate), "step {step}: rate {rate}");
    }
    assert!(settings.fresh_blocks() > 0);
    let fits = |layers: usize| settings.layers_of(layers).is_ok_and(|top| top <= layers);
    assert!(fits(usize::MAX) || settings.num_layers < 1);
}

fn model(config: &str, generation: Option<&str>) {
    let Ok(config) = Config::parse(config, generation) else { return };
    let sizes = [config.hidden, config.layers, config.heads, config.head_dim, config.ffn];
    assert!(sizes.into_iter().all(|size| (1..=SIZE_MAX).contains(&size)));
    assert!(config.heads.is_multiple_of(config.kv_heads) && config.head_dim.is_multiple_of(2));
    assert!(config.norm_eps > 0.0 && config.norm_eps.is_finite());
    let mut ends = config.bos.iter().chain(&config.eos);
    assert!(ends.all(|&token| (token as usize) < config.vocab));
    let positions = config.positions();
    assert!((1..=POSITIONS_MAX).contains(&positions));
    assert!(config.check_length(positions + 1).is_err());
    let bytes = positions * config.head_dim * 4;
    assert!(bytes <= TABLE_BYTES_MAX, "RoPE tables of {bytes} bytes");
    // A few positions show as much as all of them.
    let (cosine, sine) = config.rope_tables(positions.min(3));
    assert_eq!(cosine.len(), positions.min(3) * config.head_dim / 2);
    let turns = cosine.iter().zip(&sine).all(|(c, s)| (c * c + s * s - 1.0).abs() < 1e-4);
    assert!(turns, "a rotation that stretches: {:?}", config.rope);
    if config.layers <= 64 {
        assert!(config.weights().iter().all(|(_, shape)| !shape.contains(&0)));
        assert!(config.parameters() > 0);
    }
}

/// Settings that change much, and a configuration with a stretched context.
pub fn seeds() -> Vec<Seed> {
    let settings = "siters = 20\nbatch-size = 2\nlearning-rate = 1e-4\nwarmup = 0.1\n\
                    target-modules = [\"q_proj\", \"v_proj\"]\nretain = 0.9\nnum-layers = 2\n\
                    device = \"cpu\"\nreplay-bytes = 1000000\n";
    let llama = br#"m{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20,
        "vocab_size": 96, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}"#;
    let qwen = br#"m{"architectures": ["Qwen2ForCausalLM"], "hidden_size": 8, "head_dim": 4,
        "use_sliding_window": true, "sliding_window": 32, "eos_token_id": [1, 2],
        "rope_scaling": {"type": "linear", "factor": 2}}"#;
    let generation = br#"{"eos_token_id": [3, 4], "bos_token_id": 1}"#;
    vec![
        ("settings", settings.into()),
        ("llama", joined(&[llama, generation])),
        ("qwen", qwen.to_vec()),
    ]
}
