//! A conversation as a chat template is given it, from the layouts in which people keep them.
//!
//! - In: an object of OpenAI's `messages`, ShareGPT's `conversations` or Alpaca's `instruction`.
//!   Out: a [`Talk`], which has every field of every turn.
//! - Invariant: what a turn says is in the talk, or the object is refused.

use super::json::{Json, Object, field, string};
use super::{LineProblem, Message};
use std::borrow::Cow;

/// A conversation, and what its template is told beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Talk {
    /// In order; at least one.
    pub turns: Vec<Turn>,
    /// Tools that the assistant may call, as JSON schemas.
    pub tools: Option<Json>,
    /// Documents that it may look into.
    pub documents: Option<Json>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// `system`, `user`, `assistant`, `tool`, or what the chat template knows.
    pub role: String,
    /// All of its fields, the role among them, as the template gets them; none is null.
    pub fields: Object,
    /// Whether it is learned: `weight: 0` and `train: false` say no.
    pub is_learned: bool,
}

/// Fields that say how a turn is learned, and are no part of it.
const ABOUT_LEARNING: [&str; 2] = ["weight", "train"];
/// Speakers of ShareGPT and its kin, with their roles.
const SPEAKERS: [(&str, &str); 12] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bard", "assistant"),
    ("bing", "assistant"),
    ("model", "assistant"),
    ("assistant", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("observation", "tool"),
    ("function_response", "tool"),
];

impl Turn {
    /// A turn of plain text, which is learned.
    pub fn plain(role: &str, content: &str) -> Self {
        let pair = |key: &str, text: &str| (key.to_owned(), Json::String(text.to_owned()));
        let fields = Object(vec![pair("role", role), pair("content", content)]);
        Self { role: role.to_owned(), fields, is_learned: true }
    }

    /// What it says, where that is plain text.
    pub fn content(&self) -> Option<&str> {
        self.fields.get("content")?.as_str()
    }
}

impl From<&Message> for Turn {
    fn from(message: &Message) -> Self {
        Self::plain(&message.role, &message.content)
    }
}

impl From<&[Message]> for Talk {
    fn from(messages: &[Message]) -> Self {
        Self { turns: messages.iter().map(Turn::from).collect(), ..Self::default() }
    }
}

impl Talk {
    /// Its strings in a fixed order: role and content of each turn, then what there is beyond those.
    pub(super) fn parts(&self) -> Vec<Cow<'_, str>> {
        let mut parts: Vec<Cow<'_, str>> = Vec::new();
        for turn in &self.turns {
            parts.extend([turn.role.as_str(), turn.content().unwrap_or_default()].map(Cow::from));
        }
        for (at, turn) in self.turns.iter().enumerate() {
            if turn.fields.0.len() > 2 || turn.content().is_none() {
                parts.push(format!("{at} {}", Json::Object(turn.fields.clone())).into());
            }
            if !turn.is_learned {
                parts.push(format!("{at} is not learned").into());
            }
        }
        for (name, list) in [("tools", &self.tools), ("documents", &self.documents)] {
            parts.extend(list.iter().map(|list| Cow::from(format!("{name} {list}"))));
        }
        parts
    }
}

/// OpenAI's layout: `messages`, and `tools` beside them.
pub(super) fn messages(object: &Object) -> Result<Talk, LineProblem> {
    let expected = "a list of objects with role and content, at least one";
    let list = object.get("messages").and_then(Json::as_array).filter(|list| !list.is_empty());
    let Some(list) = list else { return Err(field(object, "messages", expected)) };
    let turn = |value: &Json| match value.as_object() {
        Some(message) => turn(message),
        None => Err(field(object, "messages", expected)),
    };
    talk(object, list.iter().map(turn).collect::<Result<_, _>>()?)
}

/// ShareGPT's layout: `conversations` of `from` and `value`, and `system` beside them.
pub(super) fn conversations(object: &Object) -> Result<Talk, LineProblem> {
    let expected = "a list of objects with from and value, at least one";
    let list = object.get("conversations").and_then(Json::as_array);
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Err(field(object, "conversations", expected));
    };
    let mut turns = system(object)?;
    for value in list {
        let Some(said) = value.as_object() else {
            return Err(field(object, "conversations", expected));
        };
        turns.push(if said.has("role") { turn(said)? } else { spoken(said)? });
    }
    talk(object, turns)
}

/// Alpaca's layout: `instruction`, `input` where there is one, `output`, and the rounds before in `history`.
pub(super) fn instruction(object: &Object) -> Result<Talk, LineProblem> {
    let mut turns = system(object)?;
    let rounds = "a list of pairs of strings";
    for round in match object.get("history") {
        None | Some(Json::Null) => &[],
        Some(list) => list.as_array().ok_or_else(|| field(object, "history", rounds))?,
    } {
        let [Json::String(asked), Json::String(answered)] = round.as_array().unwrap_or_default()
        else {
            return Err(field(object, "history", rounds));
        };
        turns.extend([Turn::plain("user", asked), Turn::plain("assistant", answered)]);
    }
    let asked = string(object, "instruction")?;
    let asked = match object.get("input") {
        None => asked,
        Some(input) if input.is_blank() => asked,
        Some(_) => format!("{asked}\n{}", string(object, "input")?),
    };
    turns.extend([
        Turn::plain("user", &asked),
        Turn::plain("assistant", &string(object, "output")?),
    ]);
    talk(object, turns)
}

/// The turns with what stands beside them.
fn talk(object: &Object, turns: Vec<Turn>) -> Result<Talk, LineProblem> {
    if object.get("functions").is_some_and(|list| !list.is_blank()) {
        return Err(field(object, "functions", "tools in its place"));
    }
    let list = |key: &'static str| match object.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Array(items)) if items.iter().all(|item| item.as_object().is_some()) => {
            Ok(Some(Json::Array(items.clone())))
        }
        Some(_) => Err(field(object, key, "a list of objects")),
    };
    Ok(Talk { turns, tools: list("tools")?, documents: list("documents")? })
}

/// The system's word that stands beside the turns.
fn system(object: &Object) -> Result<Vec<Turn>, LineProblem> {
    match object.get("system") {
        None => Ok(Vec::new()),
        Some(system) if system.is_blank() => Ok(Vec::new()),
        Some(_) => Ok(vec![Turn::plain("system", &string(object, "system")?)]),
    }
}

fn spoken(said: &Object) -> Result<Turn, LineProblem> {
    let (from, value) = (string(said, "from")?, string(said, "value")?);
    let known = SPEAKERS.iter().find(|(speaker, _)| *speaker == from);
    let Some((_, role)) = known else {
        return Err(field(said, "from", "human, gpt, system, tool or another of ShareGPT's"));
    };
    let mut turn = Turn::plain(role, &value);
    turn.is_learned = is_learned(said)?;
    Ok(turn)
}

/// A turn of OpenAI's layout. As transformers does, keys whose value is null are left away.
fn turn(message: &Object) -> Result<Turn, LineProblem> {
    let role = string(message, "role")?;
    check_content(message)?;
    let calls = "a list of objects, each with a function";
    if let Some(list) = message.get("tool_calls").filter(|list| !list.is_blank()) {
        let is_call = |call: &Json| call.as_object().is_some();
        if !list.as_array().is_some_and(|list| list.iter().all(is_call)) {
            return Err(field(message, "tool_calls", calls));
        }
    }
    if message.get("function_call").is_some_and(|call| !call.is_blank()) {
        return Err(field(message, "function_call", "tool_calls in its place"));
    }
    for key in ["audio", "refusal"] {
        if message.get(key).is_some_and(|value| !value.is_blank()) {
            return Err(field(message, key, "nothing: it cannot be learned"));
        }
    }
    let is_learned = is_learned(message)?;
    let kept = |(key, value): &&(String, Json)| {
        *value != Json::Null && !ABOUT_LEARNING.contains(&key.as_str())
    };
    let fields = Object(message.0.iter().filter(kept).cloned().collect());
    Ok(Turn { role, fields, is_learned })
}

/// Content is text, or a list of parts of text, or is missing beside calls of tools.
fn check_content(message: &Object) -> Result<(), LineProblem> {
    const EXPECTED: &str = "a string, a list of parts of text, or null beside tool_calls";
    let is_text = |part: &Json| {
        let part = part.as_object();
        let kind = part.and_then(|part| part.get("type")).and_then(Json::as_str);
        kind == Some("text") && part.and_then(|part| part.get("text")?.as_str()).is_some()
    };
    match message.get("content") {
        Some(Json::String(_)) => Ok(()),
        Some(Json::Array(parts)) if !parts.is_empty() && parts.iter().all(is_text) => Ok(()),
        None | Some(Json::Null)
            if message.get("tool_calls").is_some_and(|calls| !calls.is_blank()) =>
        {
            Ok(())
        }
        None => Err(field(message, "content", "a string")),
        Some(_) => Err(field(message, "content", EXPECTED)),
    }
}

fn is_learned(turn: &Object) -> Result<bool, LineProblem> {
    let weight = match turn.get("weight") {
        None | Some(Json::Null) => true,
        Some(Json::Number(number)) if number.as_f64() == Some(0.0) => false,
        Some(Json::Number(number)) if number.as_f64() == Some(1.0) => true,
        Some(_) => return Err(field(turn, "weight", "0 or 1")),
    };
    match turn.get("train") {
        None | Some(Json::Null) => Ok(weight),
        Some(Json::Bool(train)) => Ok(weight && *train),
        Some(_) => Err(field(turn, "train", "true or false")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::intake::{Example, lines};

    fn told(line: &str) -> Talk {
        match lines(line, "a.jsonl").unwrap().pop().unwrap() {
            Example::Messages(talk) => talk,
            other => panic_of(&other),
        }
    }

    fn panic_of(other: &Example) -> Talk {
        assert!(matches!(other, Example::Messages(_)), "{other:?}");
        Talk::default()
    }

    fn refusal(line: &str) -> String {
        lines(line, "a.jsonl").map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
    }

    #[test]
    fn every_field_of_a_turn_stays_but_null_and_what_is_about_learning() {
        let talk = told(
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"}],"name":"ann"},
            {"content":null,"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":{"b":1,"a":2}}}],"weight":0,"refusal":null},
            {"role":"tool","content":"7","tool_call_id":"1"},{"role":"assistant","content":"b","reasoning_content":"c","train":true,"weight":1.0}],
            "tools":[{"type":"function","function":{"name":"f","parameters":{}}}]}"#
                .replace('\n', "")
                .as_str(),
        );
        let fields: Vec<String> =
            talk.turns.iter().map(|turn| Json::Object(turn.fields.clone()).to_string()).collect();
        assert_eq!(
            fields[0],
            r#"{"role":"user","content":[{"type":"text","text":"a"}],"name":"ann"}"#
        );
        assert_eq!(
            fields[1],
            r#"{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":{"b":1,"a":2}}}]}"#
        );
        assert_eq!(fields[2], r#"{"role":"tool","content":"7","tool_call_id":"1"}"#);
        assert_eq!(fields[3], r#"{"role":"assistant","content":"b","reasoning_content":"c"}"#);
        let learned: Vec<bool> = talk.turns.iter().map(|turn| turn.is_learned).collect();
        assert_eq!(learned, [true, false, true, true]);
        assert!(talk.tools.unwrap().to_string().starts_with(r#"[{"type":"function""#));
    }

    #[test]
    fn sharegpt_and_alpaca_become_turns() {
        let shared = told(
            r#"{"system":"s","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#,
        );
        let plain = |turns: &[(&str, &str)]| -> Vec<Turn> {
            turns.iter().map(|(role, content)| Turn::plain(role, content)).collect()
        };
        assert_eq!(shared.turns, plain(&[("system", "s"), ("user", "a"), ("assistant", "b")]));
        let alpaca = told(
            r#"{"instruction":"a","input":"b","output":"c","history":[["d","e"]],"system":""}"#,
        );
        let turns = [("user", "d"), ("assistant", "e"), ("user", "a\nb"), ("assistant", "c")];
        assert_eq!(alpaca.turns, plain(&turns));
        let short = told(r#"{"instruction":"a","input":"","output":"c"}"#);
        assert_eq!(short.turns, plain(&[("user", "a"), ("assistant", "c")]));
    }

    #[test]
    fn what_cannot_be_passed_on_is_refused_by_name() {
        let turn =
            |fields: &str| refusal(&format!(r#"{{"messages":[{{"role":"assistant",{fields}}}]}}"#));
        let cases = [
            (turn(r#""content":"a","weight":0.5"#), "weight: expected 0 or 1, got 0.5"),
            (turn(r#""content":"a","train":"no""#), "train: expected true or false"),
            (turn(r#""content":null"#), "content: expected a string, a list of parts of text"),
            (turn(r#""content":[{"type":"image_url","image_url":{}}]"#), "content: expected"),
            (
                turn(r#""content":"","function_call":{"name":"f"}"#),
                "function_call: expected tool_calls",
            ),
            (turn(r#""content":"","tool_calls":"f()""#), "tool_calls: expected a list"),
            (turn(r#""content":"","refusal":"I cannot""#), "refusal: expected nothing"),
            (
                refusal(r#"{"messages":[{"role":"user","content":"a"}],"tools":"[]"}"#),
                "tools: expected a list of objects",
            ),
            (
                refusal(r#"{"messages":[{"role":"user","content":"a"}],"functions":[{}]}"#),
                "functions: expected tools",
            ),
            (
                refusal(r#"{"conversations":[{"from":"nobody","value":"a"}]}"#),
                "from: expected human",
            ),
            (refusal(r#"{"instruction":"a","output":7}"#), "output: expected a string"),
            (refusal(r#"{"instruction":"a","output":"b","history":[["c"]]}"#), "history: expected"),
        ];
        for (got, part) in cases {
            assert!(got.contains("line 1") && got.contains(part), "{part}: {got}");
        }
    }
}
