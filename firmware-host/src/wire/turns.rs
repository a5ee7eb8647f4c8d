//! What a text begins with: prompts of completions, turns of conversations.

use super::fields::{Fields, Range, counted, field, unsupported};
use super::{PROMPTS_MAX, Prompt, WireError, tools};
use sapwood::intake::{Object, Talk, Turn};
use serde_json::{Map, Value};

/// What answers have beside their content, and clients send back; this server says nothing by them.
const ECHOED: [&str; 6] =
    ["tool_calls", "function_call", "annotations", "refusal", "audio", "reasoning_content"];

/// The prompts of a completion.
pub(super) fn prompts(fields: &Fields) -> Result<Vec<Prompt>, WireError> {
    let expected = "a string, token ids, or a list of up to 64 of one of them, none empty";
    let refused = |value: &Value| field("prompt", expected, value);
    let Some(value) = fields.get("prompt") else { return Err(refused(&Value::Null)) };
    let list = match value {
        Value::String(text) if !text.is_empty() => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(list) if !list.is_empty() => list,
        _ => return Err(refused(value)),
    };
    if list.iter().all(Value::is_number) {
        return Ok(vec![Prompt::Ids(ids(list).ok_or_else(|| refused(value))?)]);
    }
    if list.len() > PROMPTS_MAX {
        return Err(counted("prompt", expected, list.len()));
    }
    let one = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Ok(Prompt::Text(text.clone())),
        Value::Array(list) if !list.is_empty() => {
            ids(list).map(Prompt::Ids).ok_or_else(|| refused(value))
        }
        _ => Err(refused(value)),
    };
    list.iter().map(one).collect()
}

fn ids(list: &[Value]) -> Option<Vec<u32>> {
    list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

/// The turns of a conversation.
pub(super) fn messages(fields: &Fields) -> Result<Talk, WireError> {
    let expected = "a list of objects with role and content, at least one";
    let refused = |value: &Value| field("messages", expected, value);
    let value = fields.get("messages").unwrap_or(&Value::Null);
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(|| refused(value))?;
    let mut calls = Vec::new();
    let one = |(at, value): (usize, &Value)| match value.as_object() {
        Some(turn) => message(&format!("messages[{at}]"), turn, &mut calls),
        None => Err(refused(value)),
    };
    let turns = list.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    Ok(Talk { turns, ..Talk::default() })
}

/// A turn as a template gets it; `calls` knows the calls of the turns before it.
fn message(
    at: &str,
    turn: &Map<String, Value>,
    calls: &mut Vec<String>,
) -> Result<Turn, WireError> {
    let role = turn.get("role").unwrap_or(&Value::Null);
    let role = match role.as_str() {
        // Templates know the older name.
        Some("developer") => "system",
        Some(known @ ("system" | "user" | "assistant" | "tool")) => known,
        _ => return Err(field(&format!("{at}.role"), "system, user, assistant or tool", role)),
    };
    let own: &[&str] = match role {
        "assistant" => &["tool_calls"],
        "tool" => &["tool_call_id"],
        _ => &[],
    };
    let known = |name: &str| ["role", "content", "name"].contains(&name) || own.contains(&name);
    let says_nothing =
        |name: &str, value: &Value| value.is_null() || (ECHOED.contains(&name) && is_empty(value));
    let mut others = turn.iter().filter(|(name, value)| !known(name) && !says_nothing(name, value));
    if let Some((name, value)) = others.next() {
        return Err(unsupported(&format!("{at}.{name}"), value));
    }
    let made = turn.get("tool_calls").filter(|calls| !says_nothing("tool_calls", calls));
    let mut fields = vec![("role", tools::text(role))];
    match turn.get("content").unwrap_or(&Value::Null) {
        // Templates ask whether there is any.
        Value::Null if made.is_some() => {}
        said => fields.push(("content", tools::text(&content(&format!("{at}.content"), said)?))),
    }
    if let Some(name) = turn.get("name").filter(|name| !name.is_null()) {
        let text = name.as_str().ok_or_else(|| field(&format!("{at}.name"), "a string", name))?;
        fields.push(("name", tools::text(text)));
    }
    if let Some(made) = made {
        fields.push(("tool_calls", tools::made(&format!("{at}.tool_calls"), made, calls)?));
    }
    if role == "tool" {
        let id = turn.get("tool_call_id").unwrap_or(&Value::Null);
        let known = id.as_str().filter(|id| calls.iter().any(|call| call == id));
        let expected = "the id of a call of an earlier turn";
        let id = known.ok_or_else(|| field(&format!("{at}.tool_call_id"), expected, id))?;
        fields.push(("tool_call_id", tools::text(id)));
    }
    let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(Turn { role: role.to_owned(), fields: Object(fields), is_learned: true })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A string, or parts of type text, one after the other.
fn content(at: &str, value: &Value) -> Result<String, WireError> {
    let expected: Range = "a string or a list of parts of type text";
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) if !parts.is_empty() => parts,
        _ => return Err(field(at, expected, value)),
    };
    let part = |part: &Value| {
        let is_text = part.get("type").is_some_and(|kind| kind == "text");
        let text = part.get("text").and_then(Value::as_str).filter(|_| is_text);
        text.map(str::to_owned).ok_or_else(|| field(at, expected, part))
    };
    parts.iter().map(part).collect()
}
