//! How the tokens of a text are chosen: the fields of OpenAI, and those that llama.cpp and vLLM added.

use super::fields::{Fields, counted, field};
use super::{Form, How, PUSHES_MAX, WireError, form};
use serde_json::Value;

/// The fields that this file reads.
pub(super) const FIELDS: [&str; 11] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
    "response_format",
    "cache_prompt",
];

/// How the tokens of a request's texts are chosen.
pub(super) fn how(fields: &Fields) -> Result<How, WireError> {
    let part = |number: f32| (0.0..=1.0).contains(&number);
    let penalty = |number: f32| (-2.0..=2.0).contains(&number);
    let factor = |number: f32| number.is_normal() && number > 0.0 && number <= 10.0;
    let heat = |number: f32| (0.0..=2.0).contains(&number);
    let mut temperature = fields.number("temperature", 1.0, heat, "a number from 0 to 2")?;
    let mut top_p = fields.number("top_p", 1.0, part, "a number from 0 to 1")?;
    if top_p == 0.0 {
        // No more than the likeliest token reaches nothing.
        (temperature, top_p) = (0.0, 1.0);
    }
    let from_minus_2_to_2 = "a number from -2 to 2";
    Ok(How {
        temperature,
        top_k: top_k(fields)?,
        top_p,
        min_p: fields.number("min_p", 0.0, part, "a number from 0 to 1")?,
        frequency: fields.number("frequency_penalty", 0.0, penalty, from_minus_2_to_2)?,
        presence: fields.number("presence_penalty", 0.0, penalty, from_minus_2_to_2)?,
        repetition: fields.number(
            "repetition_penalty",
            1.0,
            factor,
            "a number above 0, at most 10",
        )?,
        pushes: pushes(fields)?,
        seed: seed(fields)?,
        form: form::form(fields)?.map(Form::Json),
        caches: fields.get("cache_prompt").is_none() || fields.flag("cache_prompt")?,
    })
}

/// 0 and -1 are how others say all.
fn top_k(fields: &Fields) -> Result<usize, WireError> {
    match fields.get("top_k") {
        Some(value) if value.as_i64() == Some(-1) => Ok(0),
        _ => {
            let expected = "a number of tokens; 0 or -1 for all";
            Ok(fields.count("top_k", 0, expected)?.unwrap_or(0))
        }
    }
}

fn seed(fields: &Fields) -> Result<Option<u64>, WireError> {
    let Some(value) = fields.get("seed") else { return Ok(None) };
    match (value.as_u64(), value.as_i64()) {
        (Some(seed), _) => Ok(Some(seed)),
        // Any 64 bits are a seed.
        (None, Some(seed)) => Ok(Some(seed.cast_unsigned())),
        (None, None) => Err(field("seed", "an integer of 64 bits", value)),
    }
}

/// Token ids to what is added to their logits, in the order of the ids.
fn pushes(fields: &Fields) -> Result<Vec<(u32, f32)>, WireError> {
    let expected = "an object of up to 1024 token ids, each with a number from -100 to 100";
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let all = value.as_object().ok_or_else(|| field("logit_bias", expected, value))?;
    if all.len() > PUSHES_MAX {
        return Err(counted("logit_bias", expected, all.len()));
    }
    let one = |(id, push): (&String, &Value)| {
        let name = || format!("logit_bias.{id}");
        let id: Option<u32> = id.parse().ok();
        let push = push.as_f64().filter(|push| (-100.0..=100.0).contains(push));
        match (id, push) {
            (Some(id), Some(push)) => Ok((id, push as f32)),
            _ => Err(field(&name(), expected, value)),
        }
    };
    let mut pushes: Vec<_> = all.iter().map(one).collect::<Result<_, _>>()?;
    pushes.sort_by_key(|(id, _)| *id);
    // `7` and `07` are one token.
    match pushes.windows(2).find(|two| two[0].0 == two[1].0) {
        Some(two) => Err(field(&format!("logit_bias.{}", two[0].0), "each token once", value)),
        None => Ok(pushes),
    }
}
