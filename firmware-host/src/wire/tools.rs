//! Functions that a conversation may call: `tools`, `tool_choice`, and calls that were made before.
//!
//! - In: fields of a body. Out: the tools as a chat template is shown them, and what an answer may or must
//!   call; every part is followed or refused by name.
//! - An answer has one call, unless the request says `parallel_tool_calls: true`.

use super::fields::{Fields, Range, counted, field, unsupported};
use super::form::only;
use super::{Calls, Function, TOOLS_MAX, WireError};
use sapwood::constrain::{Schema, SchemaError};
use sapwood::intake::{Json, Object};
use serde_json::{Map, Value, json};

/// The fields that this file reads.
pub(super) const FIELDS: [&str; 2] = ["tools", "tool_choice"];

/// Characters of a function's name.
const NAME_CHARS_MAX: usize = 64;
const CHOICE: Range =
    "none, auto, required, or an object of type function with a function of tools";

/// The tools of a request.
#[derive(Default)]
pub(super) struct Tools {
    /// What the template is shown.
    pub(super) shown: Option<Json>,
    /// What an answer may or must call.
    pub(super) calls: Option<Calls>,
}

/// Whom an answer calls.
enum Choice<'a> {
    Nobody,
    Anybody { is_forced: bool },
    One(&'a str),
}

pub(super) fn tools(fields: &Fields) -> Result<Tools, WireError> {
    let list = match fields.get("tools") {
        None => &[],
        Some(Value::Array(list)) => &list[..],
        Some(value) => return Err(field("tools", "a list of at most 64 functions", value)),
    };
    if list.len() > TOOLS_MAX {
        return Err(counted("tools", "at most 64 functions", list.len()));
    }
    let chosen = fields.get("tool_choice");
    if list.is_empty() {
        // Without tools a model that may choose has nothing to choose from.
        return match chosen {
            Some(value) if value != "none" && value != "auto" => {
                Err(unsupported("tool_choice", value))
            }
            _ => Ok(Tools::default()),
        };
    }
    let mut functions: Vec<Function> = Vec::new();
    for (at, tool) in list.iter().enumerate() {
        let function = function(&format!("tools[{at}]"), tool)?;
        if functions.iter().any(|other| other.name == function.name) {
            let at = format!("tools[{at}].function.name");
            return Err(field(&at, "a name that no other function has", &json!(function.name)));
        }
        functions.push(function);
    }
    let shown = serde_json::from_value(Value::from(list));
    let shown =
        Some(shown.map_err(|_| counted("tools", "numbers that a double holds", list.len()))?);
    let is_forced = match choice(chosen)? {
        Choice::Nobody => return Ok(Tools { shown, calls: None }),
        Choice::Anybody { is_forced } => is_forced,
        Choice::One(name) => {
            functions.retain(|function| function.name == name);
            true
        }
    };
    let several = match fields.get("parallel_tool_calls") {
        None => false,
        Some(Value::Bool(several)) => *several,
        Some(value) => return Err(field("parallel_tool_calls", "true or false", value)),
    };
    if functions.is_empty() {
        return Err(field("tool_choice", CHOICE, chosen.unwrap_or(&Value::Null)));
    }
    let all: Vec<_> = functions.iter().map(|one| (one.name.as_str(), &one.arguments)).collect();
    Schema::call(&all, "arguments").map_err(|source| refused("tools", source))?;
    Ok(Tools { shown, calls: Some(Calls { functions, is_forced, several }) })
}

fn choice(chosen: Option<&Value>) -> Result<Choice<'_>, WireError> {
    let Some(value) = chosen else { return Ok(Choice::Anybody { is_forced: false }) };
    match value {
        Value::String(word) => match word.as_str() {
            "none" => Ok(Choice::Nobody),
            "auto" => Ok(Choice::Anybody { is_forced: false }),
            "required" => Ok(Choice::Anybody { is_forced: true }),
            _ => Err(field("tool_choice", CHOICE, value)),
        },
        Value::Object(parts) if parts.get("type").is_some_and(|kind| kind == "function") => {
            only("tool_choice", parts, &["type", "function"])?;
            let name = parts.get("function").and_then(|function| function.get("name"));
            let name = name.and_then(Value::as_str);
            name.map(Choice::One).ok_or_else(|| field("tool_choice", CHOICE, value))
        }
        _ => Err(field("tool_choice", CHOICE, value)),
    }
}

/// One of `tools`.
fn function(at: &str, tool: &Value) -> Result<Function, WireError> {
    let expected = "an object of type function, with a function";
    let parts = tool.as_object().ok_or_else(|| field(at, expected, tool))?;
    if parts.get("type").is_none_or(|kind| kind != "function") {
        return Err(field(&format!("{at}.type"), "function", &part(parts, "type")));
    }
    only(at, parts, &["type", "function"])?;
    let at = format!("{at}.function");
    let function = part(parts, "function");
    let expected = "an object with name, description and parameters";
    let parts = function.as_object().ok_or_else(|| field(&at, expected, &function))?;
    // Strict or not, a call fits.
    only(&at, parts, &["name", "description", "parameters", "strict"])?;
    let name = part(parts, "name");
    let is_known = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
    let fits =
        |name: &&str| (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(is_known);
    let Some(name) = name.as_str().filter(fits) else {
        return Err(field(&format!("{at}.name"), "1 to 64 letters, digits, _ or -", &name));
    };
    for (key, is_right, expected) in [
        ("description", Value::is_string as fn(&Value) -> bool, "a string" as Range),
        ("strict", Value::is_boolean, "true or false"),
    ] {
        if let Some(value) = parts.get(key).filter(|value| !value.is_null() && !is_right(value)) {
            return Err(field(&format!("{at}.{key}"), expected, value));
        }
    }
    let arguments = parameters(&format!("{at}.parameters"), &part(parts, "parameters"))?;
    Ok(Function { name: name.to_owned(), arguments })
}

/// The schema of a function's arguments; nothing said is no arguments.
fn parameters(at: &str, given: &Value) -> Result<Schema, WireError> {
    let none = json!({ "type": "object", "additionalProperties": false });
    let given = match given {
        Value::Null => &none,
        Value::Object(keywords) if keywords.is_empty() => &none,
        Value::Object(keywords) if keywords.get("type").is_some_and(|kind| kind == "object") => {
            given
        }
        Value::Object(keywords) => {
            let kind = part(keywords, "type");
            return Err(field(&format!("{at}.type"), "object", &kind));
        }
        _ => return Err(field(at, "a JSON schema of type object", given)),
    };
    Schema::read(given).map_err(|source| refused(at, source))
}

/// Calls that an earlier answer made, as a template gets them: arguments are objects, not their text.
/// `ids` learns how they are named.
pub(super) fn made(at: &str, calls: &Value, ids: &mut Vec<String>) -> Result<Json, WireError> {
    let expected = "a list of calls, each with an id, type function and a function";
    let list = calls.as_array().ok_or_else(|| field(at, expected, calls))?;
    if list.len() > TOOLS_MAX {
        return Err(counted(at, "at most 64 calls", list.len()));
    }
    let one = |(number, call): (usize, &Value)| {
        let at = format!("{at}[{number}]");
        let parts = call.as_object().ok_or_else(|| field(&at, expected, call))?;
        only(&at, parts, &["id", "type", "function", "index"])?;
        if parts.get("type").is_some_and(|kind| !kind.is_null() && kind != "function") {
            return Err(field(&format!("{at}.type"), "function", &part(parts, "type")));
        }
        let id = part(parts, "id");
        let id = id.as_str().ok_or_else(|| field(&format!("{at}.id"), "a string", &id))?;
        let function = part(parts, "function");
        let at = format!("{at}.function");
        let wrong = || field(&at, "an object with name and arguments", &function);
        let parts = function.as_object().ok_or_else(wrong)?;
        only(&at, parts, &["name", "arguments"])?;
        let name = parts.get("name").and_then(Value::as_str).ok_or_else(wrong)?;
        let arguments = arguments(&format!("{at}.arguments"), &part(parts, "arguments"))?;
        ids.push(id.to_owned());
        let function = object([("name", text(name)), ("arguments", arguments)]);
        Ok(object([("id", text(id)), ("type", text("function")), ("function", function)]))
    };
    Ok(Json::Array(list.iter().enumerate().map(one).collect::<Result<_, _>>()?))
}

/// The object that a string holds.
fn arguments(at: &str, given: &Value) -> Result<Json, WireError> {
    let wrong = || field(at, "a string that holds a JSON object", given);
    let written = given.as_str().ok_or_else(wrong)?;
    let read: Result<Object, _> = match written.trim() {
        "" => Ok(Object::default()),
        written => serde_json::from_str(written),
    };
    read.map(Json::Object).map_err(|_| wrong())
}

pub(super) fn object<const N: usize>(pairs: [(&str, Json); N]) -> Json {
    Json::Object(Object(pairs.map(|(key, value)| (key.to_owned(), value)).to_vec()))
}

pub(super) fn text(text: &str) -> Json {
    Json::String(text.to_owned())
}

fn part(parts: &Map<String, Value>, key: &str) -> Value {
    parts.get(key).cloned().unwrap_or_default()
}

fn refused(param: &str, source: SchemaError) -> WireError {
    WireError::Schema { param: param.to_owned(), source }
}
