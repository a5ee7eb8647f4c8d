//! How a GGUF file's positions rotate, in the words of `config.json`.
//!
//! llama.cpp keeps a divisor of each frequency where Hugging Face has the rule; the rule is found again
//! and held against every divisor.

use super::super::{BaseError, Rope, RopeScaling};
use super::facts::Facts;
use serde_json::{Value, json};

/// The numbers of every published Llama 3: waves longer than the old context are long, those that fit it
/// four times are short.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
/// Context of Llama 3's first training, in tokens.
const ORIGINAL: usize = 8192;
/// How far a frequency may be off: some roundings of f32.
const NEAR: f32 = 1e-5;

/// `rope_parameters` of the architecture; `divisors` are those of `rope_freqs.weight`, if it is there.
pub(super) fn parameters(
    facts: &Facts<'_>,
    architecture: &str,
    head_dim: usize,
    divisors: Option<&[f32]>,
) -> Result<Value, BaseError> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let theta = facts.number(&key("freq_base"))?.unwrap_or(10_000.0);
    let old = facts.number(&key("scale_linear"))?;
    let factor = facts.number(&key("scaling.factor"))?.or(old).unwrap_or(0.0);
    let linear = match facts.text(&key("scaling.type"))? {
        Some("none") => false,
        // llama.cpp takes silence for linear.
        None | Some("linear") => factor != 0.0 && factor != 1.0,
        Some(_) => return Err(facts.wrong(&key("scaling.type"), "\"none\" or \"linear\"")),
    };
    match divisors {
        None if linear => Ok(json!({"rope_type": "linear", "rope_theta": theta, "factor": factor})),
        Some(_) if linear => {
            Err(facts.other("rope is stretched twice, by `rope_freqs.weight` too"))
        }
        Some(divisors) if divisors.iter().any(|&divisor| divisor != 1.0) => {
            let original = facts.whole(&key("scaling.original_context_length"))?;
            llama3(theta, head_dim, divisors, original).ok_or_else(|| {
                facts.other("`rope_freqs.weight` stretches rope otherwise than Llama 3 does")
            })
        }
        _ => Ok(json!({"rope_type": "default", "rope_theta": theta})),
    }
}

/// The rule whose frequencies are the plain ones over these divisors.
fn llama3(theta: f64, head_dim: usize, divisors: &[f32], original: Option<u32>) -> Option<Value> {
    let plain = Rope { theta, scaling: RopeScaling::None }.frequencies(head_dim);
    if plain.len() != divisors.len()
        || !divisors.iter().all(|divisor| *divisor > 0.0 && divisor.is_finite())
    {
        return None;
    }
    let longest = *divisors.last()?;
    let factor = f64::from(if (longest - longest.round()).abs() < NEAR * longest {
        longest.round()
    } else {
        longest
    });
    let said = original.map(|tokens| tokens as usize).into_iter().chain([ORIGINAL]);
    // A frequency between short and long says how often its wave fits the old context.
    let between = plain.iter().zip(divisors).filter(|(_, divisor)| {
        f64::from(**divisor) > 1.001 && f64::from(**divisor) < factor * 0.999
    });
    let fits = between.map(|(&frequency, &divisor)| {
        let kept = (1.0 / f64::from(divisor) - 1.0 / factor) / (1.0 - 1.0 / factor);
        let wave = 2.0 * std::f64::consts::PI / f64::from(frequency);
        (wave * (LOW + kept * (HIGH - LOW))).round() as usize
    });
    let original = said.chain(fits).find(|&original| {
        let scaling = RopeScaling::Llama3 { factor, low: LOW, high: HIGH, original };
        let scaled = Rope { theta, scaling }.frequencies(head_dim);
        scaled.iter().zip(plain.iter().zip(divisors)).all(|(scaled, (frequency, divisor))| {
            (scaled - frequency / divisor).abs() <= NEAR * scaled
        })
    })?;
    Some(json!({
        "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": LOW,
        "high_freq_factor": HIGH, "original_max_position_embeddings": original,
    }))
}
