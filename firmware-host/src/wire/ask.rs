//! Bodies of requests to what they ask for, field by field.

use super::{
    Ask, COMPLETION_TOKENS, Kind, PROMPTS_MAX, Prompt, STOP_BYTES_MAX, STOPS_MAX, Sending, Which,
    WireError, short,
};
use sapwood::intake::Message;
use serde_json::{Map, Value};

/// Fields that describe the caller and leave the answer as it is.
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
const SHARED: [&str; 7] =
    ["model", "temperature", "top_p", "seed", "stop", "stream", "stream_options"];

/// Samples as JSON lines: the text of a body.
///
/// # Errors
/// [`WireError::Utf8`] with the line.
pub fn lines(body: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(body).map_err(|error| {
        let before = body.get(..error.valid_up_to()).unwrap_or_default();
        WireError::Utf8 { line: 1 + before.iter().filter(|&&byte| byte == b'\n').count() }
    })
}

/// The body of `/v1/completions`.
///
/// # Errors
/// [`WireError`] names the field.
pub fn completion(body: &[u8]) -> Result<Ask, WireError> {
    let fields = Fields::read(body)?;
    fields.only(&["prompt", "max_tokens", "echo"])?;
    let most = match fields.tokens("max_tokens", 0)? {
        Some(most) => most,
        None => COMPLETION_TOKENS,
    };
    let prompts = prompts(&fields)?;
    fields.ask(Kind::Completion, prompts, Some(most), fields.flag("echo")?)
}

/// The body of `/v1/chat/completions`.
///
/// # Errors
/// [`WireError`] names the field.
pub fn chat(body: &[u8]) -> Result<Ask, WireError> {
    let fields = Fields::read(body)?;
    fields.only(&["messages", "max_tokens", "max_completion_tokens"])?;
    let newer = fields.tokens("max_completion_tokens", 1)?;
    let most = newer.or(fields.tokens("max_tokens", 1)?);
    let prompt = Prompt::Messages(messages(&fields)?);
    fields.ask(Kind::Chat, vec![prompt], most, false)
}

/// The fields of a body, those that say nothing left out.
struct Fields(Map<String, Value>);

impl Fields {
    fn read(body: &[u8]) -> Result<Self, WireError> {
        let text = lines(body)?;
        let mut fields: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| WireError::Json { problem: short(&error.to_string()) })?;
        fields.retain(|_, value| !value.is_null());
        Ok(Self(fields))
    }

    fn get(&self, param: &str) -> Option<&Value> {
        self.0.get(param)
    }

    /// Refuses the first field that is not known and would change the answer.
    fn only(&self, own: &[&str]) -> Result<(), WireError> {
        let passes = |name: &str, value: &Value| {
            [own, &SHARED, &HARMLESS].iter().any(|known| known.contains(&name))
                || changes_nothing(name, value)
        };
        match self.0.iter().find(|(name, value)| !passes(name, value)) {
            Some((name, value)) => Err(unsupported(name, value)),
            None => Ok(()),
        }
    }

    fn flag(&self, param: &str) -> Result<bool, WireError> {
        match self.get(param) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(field(param, "true or false", value)),
        }
    }

    fn tokens(&self, param: &str, least: u64) -> Result<Option<usize>, WireError> {
        let Some(value) = self.get(param) else { return Ok(None) };
        let number = value.as_u64().filter(|&number| number >= least);
        match number.and_then(|number| usize::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(field(param, "a number of tokens, at least 1", value)),
        }
    }

    fn number(&self, param: &str, fits: fn(f64) -> bool, range: Range) -> Result<f32, WireError> {
        match self.get(param) {
            None => Ok(1.0),
            Some(value) => match value.as_f64().filter(|&number| fits(number)) {
                Some(number) => Ok(number as f32),
                None => Err(field(param, range, value)),
            },
        }
    }

    fn ask(
        &self,
        kind: Kind,
        prompts: Vec<Prompt>,
        tokens_max: Option<usize>,
        echo: bool,
    ) -> Result<Ask, WireError> {
        let which = match self.get("model") {
            None => Which::InUse,
            Some(Value::String(id)) => Which::named(id)?,
            Some(value) => return Err(field("model", "`sapwood` or `base`", value)),
        };
        let temperature = |number: f64| (0.0..=2.0).contains(&number);
        // What is above 0 here must be so as an f32.
        let top_p = |number: f64| number as f32 > 0.0 && number <= 1.0;
        Ok(Ask {
            kind,
            which,
            prompts,
            tokens_max,
            temperature: self.number("temperature", temperature, "a number from 0 to 2")?,
            top_p: self.number("top_p", top_p, "a number above 0, at most 1")?,
            seed: self.seed()?,
            stops: self.stops()?,
            echo,
            sending: self.sending()?,
        })
    }

    fn seed(&self) -> Result<Option<u64>, WireError> {
        let Some(value) = self.get("seed") else { return Ok(None) };
        match (value.as_u64(), value.as_i64()) {
            (Some(seed), _) => Ok(Some(seed)),
            // Any 64 bits are a seed.
            (None, Some(seed)) => Ok(Some(seed.cast_unsigned())),
            (None, None) => Err(field("seed", "an integer of 64 bits", value)),
        }
    }

    fn stops(&self) -> Result<Vec<String>, WireError> {
        let expected = "at most 4 strings, none empty, of at most 256 bytes each";
        let list = match self.get("stop") {
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

    fn sending(&self) -> Result<Sending, WireError> {
        let stream = self.flag("stream")?;
        let Some(value) = self.get("stream_options") else {
            return Ok(if stream { Sending::Events { usage: false } } else { Sending::Whole });
        };
        let Some(options) = value.as_object().filter(|_| stream) else {
            return Err(field("stream_options", "an object, and only with stream", value));
        };
        let mut options = Self(options.clone());
        options.0.retain(|_, value| !value.is_null());
        let obfuscation = "include_obfuscation";
        let other = |name: &&String| *name != "include_usage" && *name != obfuscation;
        if let Some((name, value)) = options.0.iter().find(|(name, _)| other(name)) {
            return Err(unsupported(&format!("stream_options.{name}"), value));
        }
        Ok(Sending::Events { usage: options.flag("include_usage")? })
    }
}

/// What a value may be, for a message.
type Range = &'static str;

/// Whether a field that is not honoured has the value that it has when left out.
fn changes_nothing(name: &str, value: &Value) -> bool {
    match name {
        "n" | "best_of" => value.as_f64() == Some(1.0),
        "presence_penalty" | "frequency_penalty" | "top_logprobs" => value.as_f64() == Some(0.0),
        "logprobs" => *value == Value::Bool(false),
        "logit_bias" => value.as_object().is_some_and(Map::is_empty),
        "tools" | "functions" => value.as_array().is_some_and(Vec::is_empty),
        "tool_choice" | "function_call" => value == "none",
        "response_format" => value.get("type").is_some_and(|kind| kind == "text"),
        "modalities" => value.as_array().is_some_and(|list| list.iter().all(|one| one == "text")),
        "suffix" => value == "",
        _ => false,
    }
}

fn prompts(fields: &Fields) -> Result<Vec<Prompt>, WireError> {
    let expected = "a string, token ids, or a list of up to 16 of one of them, none empty";
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

fn messages(fields: &Fields) -> Result<Vec<Message>, WireError> {
    let expected = "a list of objects with role and content, at least one";
    let refused = |value: &Value| field("messages", expected, value);
    let value = fields.get("messages").unwrap_or(&Value::Null);
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(|| refused(value))?;
    let one = |(at, value): (usize, &Value)| match value.as_object() {
        Some(turn) => message(&format!("messages[{at}]"), turn),
        None => Err(refused(value)),
    };
    list.iter().enumerate().map(one).collect()
}

fn message(at: &str, turn: &Map<String, Value>) -> Result<Message, WireError> {
    let known = |name: &str| ["role", "content", "name"].contains(&name);
    let mut others = turn.iter().filter(|(name, value)| !known(name) && !value.is_null());
    if let Some((name, value)) = others.next() {
        return Err(unsupported(&format!("{at}.{name}"), value));
    }
    let role = turn.get("role").unwrap_or(&Value::Null);
    let role = match role.as_str() {
        // Templates know the older name.
        Some("developer") => "system",
        Some(known @ ("system" | "user" | "assistant")) => known,
        _ => return Err(field(&format!("{at}.role"), "system, user or assistant", role)),
    };
    let content = content(&format!("{at}.content"), turn.get("content").unwrap_or(&Value::Null))?;
    Ok(Message { role: role.to_owned(), content })
}

/// A string, or parts of type text, one after the other.
fn content(at: &str, value: &Value) -> Result<String, WireError> {
    let expected = "a string or a list of parts of type text";
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

fn field(param: &str, expected: Range, got: &Value) -> WireError {
    let got = if got.is_null() { "nothing".to_owned() } else { shown(got) };
    WireError::Field { param: param.to_owned(), expected, got }
}

fn counted(param: &str, expected: Range, count: usize) -> WireError {
    WireError::Field { param: param.to_owned(), expected, got: format!("{count} of them") }
}

fn unsupported(param: &str, got: &Value) -> WireError {
    WireError::Unsupported { param: short(param), got: shown(got) }
}

/// The beginning of a value; a long one is not written out first.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{}`", short(text)),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(fields) => format!("an object of {} fields", fields.len()),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use serde_json::json;

    fn asked(value: &Value) -> Result<Ask, WireError> {
        let body = value.to_string();
        if value.get("messages").is_some() {
            chat(body.as_bytes())
        } else {
            completion(body.as_bytes())
        }
    }

    fn refused(value: &Value) -> (String, String) {
        let error = asked(value).unwrap_err();
        (error.param().unwrap_or_default().to_owned(), error.to_string())
    }

    #[test]
    fn what_is_left_out_or_null_has_the_values_of_openai() {
        let ask = asked(&json!({"model": "sapwood", "prompt": "a", "stop": null})).unwrap();
        assert_eq!(ask.prompts, [Prompt::Text("a".into())]);
        assert_eq!((ask.temperature, ask.top_p, ask.tokens_max), (1.0, 1.0, Some(16)));
        assert_eq!((ask.which, ask.sending, ask.echo), (Which::InUse, Sending::Whole, false));
        let talk = asked(&json!({"messages": [{"role": "user", "content": "a"}]})).unwrap();
        assert_eq!((talk.kind, talk.tokens_max), (Kind::Chat, None));
    }

    #[test]
    fn a_prompt_is_text_or_ids_or_a_list_of_either() {
        let prompts = |prompt: Value| asked(&json!({"prompt": prompt})).map(|ask| ask.prompts);
        let (text, ids) = (Prompt::Text("a".into()), Prompt::Ids(vec![1, 2]));
        assert_eq!(prompts(json!("a")).unwrap()[0], text);
        assert_eq!(prompts(json!([1, 2])).unwrap()[0], ids);
        assert_eq!(prompts(json!(["a", [1, 2]])).unwrap(), [text, ids]);
        for wrong in [json!(""), json!([]), json!([""]), json!([[]]), json!(1), json!([-1])] {
            assert!(prompts(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(prompts(json!([u64::from(u32::MAX) + 1])).is_err());
        assert!(prompts(json!(vec!["a"; 17])).unwrap_err().to_string().contains("17 of them"));
    }

    #[test]
    fn a_conversation_may_come_in_parts_and_its_roles_are_known() {
        let talk = json!({"messages": [
            {"role": "developer", "content": "a", "name": "x"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        ], "max_tokens": 3, "max_completion_tokens": 5});
        let ask = asked(&talk).unwrap();
        let turn =
            |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        assert_eq!(ask.prompts, [Prompt::Messages(vec![turn("system", "a"), turn("user", "bc")])]);
        assert_eq!(ask.tokens_max, Some(5));
        let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
        for (turn, param) in [
            (json!({"role": "tool", "content": "a"}), "messages[0].role"),
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "user", "content": image}), "messages[0].content"),
            (
                json!({"role": "assistant", "content": "a", "tool_calls": []}),
                "messages[0].tool_calls",
            ),
            (json!("a"), "messages"),
        ] {
            assert_eq!(refused(&json!({"messages": [turn]})).0, param);
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name_unless_it_changes_nothing() {
        for (name, harmless, meaning) in [
            ("n", json!(1), json!(2)),
            ("best_of", json!(1), json!(3)),
            ("logprobs", json!(false), json!(0)),
            ("tools", json!([]), json!([{"type": "function"}])),
            ("tool_choice", json!("none"), json!("auto")),
            ("response_format", json!({"type": "text"}), json!({"type": "json_object"})),
            ("presence_penalty", json!(0), json!(0.5)),
            ("logit_bias", json!({}), json!({"5": 1})),
            ("suffix", json!(""), json!("end")),
            ("top_k", Value::Null, json!(40)),
        ] {
            assert!(asked(&json!({"prompt": "a", name: harmless})).is_ok(), "{name}");
            let (param, message) = refused(&json!({"prompt": "a", name: meaning}));
            assert_eq!(param, name);
            assert!(message.contains("not supported"), "{message}");
        }
        assert!(asked(&json!({"prompt": "a", "user": "u", "metadata": {"a": "b"}})).is_ok());
    }

    #[test]
    fn numbers_and_stops_have_their_range() {
        for (name, wrong) in [
            ("temperature", json!(-0.1)),
            ("temperature", json!(2.1)),
            ("temperature", json!("hot")),
            ("top_p", json!(0)),
            ("top_p", json!(1e-60)),
            ("max_tokens", json!(-1)),
            ("max_tokens", json!(1.5)),
            ("seed", json!(0.5)),
            ("stop", json!([""])),
            ("stop", json!(["a", "b", "c", "d", "e"])),
            ("stop", json!("a".repeat(257))),
            ("stream", json!("yes")),
            ("echo", json!(1)),
            ("model", json!(7)),
            ("stream_options", json!({"include_usage": true})),
        ] {
            assert_eq!(refused(&json!({"prompt": "a", name: wrong})).0, name, "{wrong}");
        }
        let seed = |seed: Value| asked(&json!({"prompt": "a", "seed": seed})).unwrap().seed;
        assert_eq!((seed(json!(-1)), seed(json!(7))), (Some(u64::MAX), Some(7)));
    }

    #[test]
    fn a_stream_may_count_its_tokens() {
        let sending = |options: Value| {
            asked(&json!({"prompt": "a", "stream": true, "stream_options": options}))
                .map(|ask| ask.sending)
        };
        assert_eq!(sending(Value::Null).unwrap(), Sending::Events { usage: false });
        let with = sending(json!({"include_usage": true})).unwrap();
        assert_eq!(with, Sending::Events { usage: true });
        assert!(sending(json!({"rate": 3})).is_err());
    }

    #[test]
    fn an_unknown_model_is_named() {
        let (param, message) = refused(&json!({"prompt": "a", "model": "gpt-5"}));
        assert_eq!(param, "model");
        assert!(message.contains("gpt-5") && message.contains("sapwood"), "{message}");
    }

    #[test]
    fn a_body_that_is_no_object_says_where_it_breaks() {
        for (body, part) in [
            (&b"{\"prompt\":"[..], "line 1 column 10"),
            (b"[1]", "not a JSON object"),
            (b"", "not a JSON object"),
            (b"{\n\"prompt\": \"\xff\"}", "line 2"),
        ] {
            let message = completion(body).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(lines(b"a\n\n\xff"), Err(WireError::Utf8 { line: 3 }));
    }

    #[test]
    fn a_message_about_a_long_value_is_short() {
        let long = "é".repeat(5_000);
        for value in [json!({"prompt": 1, "model": long}), json!({"prompt": "a", long: 1})] {
            assert!(refused(&value).1.len() < 300);
        }
    }
}
