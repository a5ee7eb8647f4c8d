//! Bodies of requests to what they ask for, field by field.

use super::fields::{Fields, counted, field, unsupported};
use super::{
    Ask, COMPLETION_TOKENS, Form, Kind, LIKELIEST_MAX, Prompt, STOP_BYTES_MAX, STOPS_MAX, Sending,
    TEXTS_MAX, WireError, form, how, models::named, tools, turns,
};
use serde_json::Value;

/// Fields that describe the caller, or how the server is to work, and leave the answer as it is.
const HARMLESS: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];
const SHARED: [&str; 7] = ["model", "stop", "stream", "stream_options", "n", "best_of", "logprobs"];

/// The body of `/v1/completions`.
///
/// # Errors
/// [`WireError`] names the field.
pub fn completion(body: &[u8]) -> Result<Ask, WireError> {
    let fields = Fields::read(body)?;
    only(&fields, &["prompt", "max_tokens", "echo"])?;
    let most = match fields.count("max_tokens", 0, TOKENS)? {
        Some(most) => most,
        None => COMPLETION_TOKENS,
    };
    let prompts = turns::prompts(&fields)?;
    ask(&fields, Kind::Completion, prompts, Some(most), fields.flag("echo")?)
}

/// The body of `/v1/chat/completions`.
///
/// # Errors
/// [`WireError`] names the field.
pub fn chat(body: &[u8]) -> Result<Ask, WireError> {
    let fields = Fields::read(body)?;
    let own = ["messages", "max_tokens", "max_completion_tokens", "top_logprobs"];
    only(&fields, &[&own[..], &tools::FIELDS].concat())?;
    let newer = fields.count("max_completion_tokens", 1, TOKENS)?;
    let most = newer.or(fields.count("max_tokens", 1, TOKENS)?);
    let mut talk = turns::messages(&fields)?;
    let tools = tools::tools(&fields)?;
    talk.tools = tools.shown;
    let mut ask = ask(&fields, Kind::Chat, vec![Prompt::Messages(talk)], most, false)?;
    match (tools.calls, &ask.how.form) {
        (None, _) => {}
        (Some(calls), None) => ask.how.form = Some(Form::Calls(calls)),
        (Some(_), Some(_)) => {
            let got = fields.get(form::FIELD).unwrap_or(&Value::Null);
            return Err(field(form::FIELD, "text, where tools may be called", got));
        }
    }
    Ok(ask)
}

const TOKENS: &str = "a number of tokens, at least 1";

/// Refuses the first field that is not known and would change the answer.
fn only(fields: &Fields, own: &[&str]) -> Result<(), WireError> {
    let passes = |name: &str, value: &Value| {
        [own, &SHARED, &HARMLESS, &how::FIELDS].iter().any(|known| known.contains(&name))
            || changes_nothing(name, value)
    };
    match fields.0.iter().find(|(name, value)| !passes(name, value)) {
        Some((name, value)) => Err(unsupported(name, value)),
        None => Ok(()),
    }
}

fn ask(
    fields: &Fields,
    kind: Kind,
    prompts: Vec<Prompt>,
    tokens_max: Option<usize>,
    echo: bool,
) -> Result<Ask, WireError> {
    let each = each(fields, prompts.len())?;
    Ok(Ask {
        kind,
        model: model(fields)?,
        prompts,
        each,
        tokens_max,
        how: how::how(fields)?,
        stops: stops(fields)?,
        echo,
        likeliest: match kind {
            Kind::Completion => completion_scores(fields)?,
            Kind::Chat => chat_scores(fields)?,
        },
        sending: sending(fields)?,
    })
}

fn model(fields: &Fields) -> Result<Option<String>, WireError> {
    fields.get("model").map(|value| named("model", value)).transpose()
}

/// Texts after each prompt.
fn each(fields: &Fields, prompts: usize) -> Result<usize, WireError> {
    let expected = "a number of texts, at least 1, at most 64 together with those of other prompts";
    let each = fields.count("n", 1, expected)?.unwrap_or(1);
    if each.saturating_mul(prompts) > TEXTS_MAX {
        return Err(counted("n", expected, each.saturating_mul(prompts)));
    }
    match fields.get("best_of") {
        // As many written as told: nothing is chosen among them.
        Some(value) if value.as_u64() != Some(each as u64) => Err(unsupported("best_of", value)),
        _ => Ok(each),
    }
}

/// A number of tokens, as completions have it.
fn completion_scores(fields: &Fields) -> Result<Option<usize>, WireError> {
    let expected = "a number of tokens from 0 to 20";
    match fields.get("logprobs") {
        Some(Value::Bool(false)) => Ok(None),
        _ => match fields.count("logprobs", 0, expected)? {
            Some(count) if count > LIKELIEST_MAX => Err(counted("logprobs", expected, count)),
            count => Ok(count),
        },
    }
}

/// A flag, and a number beside it, as conversations have it.
fn chat_scores(fields: &Fields) -> Result<Option<usize>, WireError> {
    let expected = "a number of tokens from 0 to 20, and only with logprobs";
    let count = fields.count("top_logprobs", 0, expected)?.unwrap_or(0);
    match (fields.flag("logprobs")?, count) {
        (false, 0) => Ok(None),
        (true, 0..=LIKELIEST_MAX) => Ok(Some(count)),
        _ => Err(counted("top_logprobs", expected, count)),
    }
}

fn stops(fields: &Fields) -> Result<Vec<String>, WireError> {
    let expected = "at most 4 strings, none empty, of at most 256 bytes each";
    let list = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().collect(),
        Some(value) => vec![value],
    };
    let one = |value: &&Value| match value.as_str() {
        Some(stop) if (1..=STOP_BYTES_MAX).contains(&stop.len()) => Ok(stop.to_owned()),
        _ => Err(field("stop", expected, value)),
    };
    if list.len() > STOPS_MAX {
        return Err(counted("stop", expected, list.len()));
    }
    list.iter().map(one).collect()
}

fn sending(fields: &Fields) -> Result<Sending, WireError> {
    let stream = fields.flag("stream")?;
    let Some(value) = fields.get("stream_options") else {
        return Ok(if stream { Sending::Events { usage: false } } else { Sending::Whole });
    };
    let Some(options) = value.as_object().filter(|_| stream) else {
        return Err(field("stream_options", "an object, and only with stream", value));
    };
    let options = Fields::of(options.clone());
    let obfuscation = "include_obfuscation";
    let other = |name: &&String| *name != "include_usage" && *name != obfuscation;
    if let Some((name, value)) = options.0.iter().find(|(name, _)| other(name)) {
        return Err(unsupported(&format!("stream_options.{name}"), value));
    }
    Ok(Sending::Events { usage: options.flag("include_usage")? })
}

/// Whether a field that is not honoured has the value that it has when left out.
fn changes_nothing(name: &str, value: &Value) -> bool {
    match name {
        "top_logprobs" => value.as_f64() == Some(0.0),
        "repeat_penalty" => value.as_f64() == Some(1.0),
        "tools" | "functions" => value.as_array().is_some_and(Vec::is_empty),
        // Without tools a model that may choose has nothing to choose from.
        "tool_choice" | "function_call" => value == "none" || value == "auto",
        "modalities" => value.as_array().is_some_and(|list| list.iter().all(|one| one == "text")),
        "suffix" => value == "",
        _ => false,
    }
}
