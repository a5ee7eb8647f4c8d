//! Bodies of answers: whole, in server-sent events, and refusals in OpenAI's shape.

use super::Kind;
use crate::config::{BASE, IN_USE};
use serde_json::{Value, json};

/// What ends a stream of events.
pub const DONE: &str = "data: [DONE]\n\n";

/// Why a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or one of the request's strings did.
    Stop,
    /// It has as many tokens, or took as long, as it may.
    Length,
    /// It called a function.
    Calls,
}

impl Finish {
    fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Calls => "tool_calls",
        }
    }
}

/// What all parts of an answer say of it.
#[derive(Clone, Debug)]
pub struct Meta {
    /// Where the request came in.
    pub kind: Kind,
    /// Name of the answer, the same in all its parts.
    pub id: String,
    /// Seconds since 1970.
    pub created: i64,
    /// The model that answers, by its own name.
    pub model: String,
    /// The generation whose adapter is used; none for the bare base.
    pub generation: Option<u64>,
    /// Whether every event says `usage`, as it must when the last one counts.
    pub counts: bool,
}

/// What a token stands for, and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Likely {
    /// Its bytes; of a mark that is no text its name.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability; none for the first token of a prompt, which follows nothing.
    pub log: Option<f32>,
}

impl Likely {
    fn name(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn json(&self) -> Value {
        json!({ "token": self.name(), "logprob": self.log, "bytes": self.bytes })
    }
}

/// A token of an answer, and the likeliest ones in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The token.
    pub token: Likely,
    /// The likeliest, the likeliest first; as many as were asked for.
    pub likeliest: Vec<Likely>,
    /// Characters of the text that began before it.
    pub offset: usize,
}

/// Tokens as the interface of `kind` tells them.
fn told(kind: Kind, scored: &[Scored]) -> Value {
    match kind {
        Kind::Chat => {
            let one = |one: &Scored| {
                let mut token = one.token.json();
                token["top_logprobs"] = one.likeliest.iter().map(Likely::json).collect();
                token
            };
            json!({ "content": scored.iter().map(one).collect::<Vec<_>>(), "refusal": null })
        }
        Kind::Completion => {
            let of = |one: fn(&Scored) -> Value| scored.iter().map(one).collect::<Vec<_>>();
            json!({
                "tokens": of(|one| one.token.name().into()),
                "token_logprobs": of(|one| json!(one.token.log)),
                "top_logprobs": of(|one| match one.token.log {
                    Some(_) => named(&one.likeliest),
                    None => Value::Null,
                }),
                "text_offset": of(|one| one.offset.into()),
            })
        }
    }
}

/// By name; of two tokens of one name the likelier.
fn named(likeliest: &[Likely]) -> Value {
    let all = likeliest.iter().rev().map(|one| (one.name(), json!(one.log)));
    Value::Object(all.collect())
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name, by which its result comes back.
    pub id: String,
    /// The function's.
    pub name: String,
    /// JSON, or the beginning of it where the text was cut.
    pub arguments: String,
}

impl Call {
    fn json(&self) -> Value {
        let Self { id, name, arguments } = self;
        json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
    }
}

/// One text of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What was written.
    pub text: String,
    /// What it calls, in order.
    pub calls: Vec<Call>,
    /// Its tokens, where they were asked for.
    pub scored: Option<Vec<Scored>>,
    /// Why it ends.
    pub finish: Finish,
}

/// Tokens of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of all prompts.
    pub prompt: usize,
    /// Of all texts written, those of a string that ended one included.
    pub written: usize,
    /// Tokens of prompts that were known from earlier texts.
    pub cached: usize,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt.saturating_add(self.written),
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}

impl Meta {
    /// Names the weights that answer: a client sees by it that another generation is in use.
    fn fingerprint(&self) -> String {
        match self.generation {
            Some(number) => format!("generation-{number}"),
            // What is in use on a device that has learned nothing.
            None if self.model == IN_USE => BASE.to_owned(),
            None => self.model.clone(),
        }
    }

    fn body(&self, object: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint(),
            "choices": choices,
        })
    }

    /// One event of a stream.
    fn part(&self, choices: &[Value], usage: Value) -> Value {
        let object = match self.kind {
            Kind::Completion => "text_completion",
            Kind::Chat => "chat.completion.chunk",
        };
        let mut body = self.body(object, choices);
        if self.counts {
            body["usage"] = usage;
        }
        body
    }

    fn choice(
        &self,
        index: usize,
        text: &str,
        scored: Option<&[Scored]>,
        finish: Option<Finish>,
    ) -> Value {
        let finish = finish.map(Finish::name);
        let told = scored.map(|scored| told(self.kind, scored));
        match self.kind {
            Kind::Completion => {
                json!({ "index": index, "text": text, "logprobs": told, "finish_reason": finish })
            }
            Kind::Chat => {
                let delta = if text.is_empty() { json!({}) } else { json!({ "content": text }) };
                json!({ "index": index, "delta": delta, "logprobs": told, "finish_reason": finish })
            }
        }
    }

    /// An event with a part of call `number` of text `index`.
    fn called(
        &self,
        (index, number): (usize, usize),
        mut part: Value,
        scored: Option<&[Scored]>,
    ) -> Value {
        part["index"] = number.into();
        let told = scored.map(|scored| told(self.kind, scored));
        let delta = json!({ "tool_calls": [part] });
        let choice =
            json!({ "index": index, "delta": delta, "logprobs": told, "finish_reason": null });
        self.part(&[choice], Value::Null)
    }
}

/// The whole answer.
pub fn whole(meta: &Meta, answers: &[Answer], usage: Usage) -> Value {
    let choice = |(index, answer): (usize, &Answer)| match meta.kind {
        Kind::Completion => {
            meta.choice(index, &answer.text, answer.scored.as_deref(), Some(answer.finish))
        }
        Kind::Chat => json!({
            "index": index,
            "message": message(answer),
            "logprobs": answer.scored.as_ref().map(|scored| told(meta.kind, scored)),
            "finish_reason": answer.finish.name(),
        }),
    };
    let object = match meta.kind {
        Kind::Completion => "text_completion",
        Kind::Chat => "chat.completion",
    };
    let mut body = meta.body(object, &answers.iter().enumerate().map(choice).collect::<Vec<_>>());
    body["usage"] = usage.json();
    body
}

fn message(answer: &Answer) -> Value {
    let Answer { text, calls, .. } = answer;
    if calls.is_empty() {
        return json!({ "role": "assistant", "content": text, "refusal": null });
    }
    let content = if text.trim().is_empty() { Value::Null } else { text.as_str().into() };
    let calls: Vec<Value> = calls.iter().map(Call::json).collect();
    json!({ "role": "assistant", "content": content, "refusal": null, "tool_calls": calls })
}

/// The first event of text `index` of a conversation: who speaks. A completion has none.
pub fn opening(meta: &Meta, index: usize) -> Option<Value> {
    let delta = json!({ "role": "assistant", "content": "", "refusal": null });
    let choice = json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null });
    (meta.kind == Kind::Chat).then(|| meta.part(&[choice], Value::Null))
}

/// An event with a piece of text `index`, and its tokens where they were asked for.
pub fn piece(meta: &Meta, index: usize, text: &str, scored: Option<&[Scored]>) -> Value {
    meta.part(&[meta.choice(index, text, scored, None)], Value::Null)
}

/// An event with the beginning of a call, by the numbers of the text and of the call in it: whom it calls.
pub fn call(meta: &Meta, at: (usize, usize), call: &Call, scored: Option<&[Scored]>) -> Value {
    meta.called(at, call.json(), scored)
}

/// An event with a piece of its arguments.
pub fn arguments(meta: &Meta, at: (usize, usize), piece: &str, scored: Option<&[Scored]>) -> Value {
    meta.called(at, json!({ "function": { "arguments": piece } }), scored)
}

/// The event that ends text `index`, with tokens that completed no piece of it.
pub fn end(meta: &Meta, index: usize, scored: Option<&[Scored]>, finish: Finish) -> Value {
    meta.part(&[meta.choice(index, "", scored, Some(finish))], Value::Null)
}

/// The event that counts the tokens.
pub fn totals(meta: &Meta, usage: Usage) -> Value {
    meta.part(&[], usage.json())
}

/// A body as a server-sent event.
pub fn event(body: &Value) -> String {
    // JSON has no line ends of its own, so one line holds it.
    format!("data: {body}\n\n")
}

/// A refusal or a failure.
pub fn refusal(kind: &str, message: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(kind: Kind, counts: bool) -> Meta {
        let (id, model) = ("x-1".to_owned(), "sapwood".to_owned());
        Meta { kind, id, created: 7, model, generation: Some(3), counts }
    }

    #[test]
    fn an_answer_names_model_and_generation_and_counts_tokens() {
        let answers =
            [Answer { text: "a".into(), calls: Vec::new(), scored: None, finish: Finish::Length }];
        let usage = Usage { prompt: 2, written: 1, cached: 0 };
        let body = whole(&meta(Kind::Completion, false), &answers, usage);
        assert_eq!(body["object"], "text_completion");
        assert_eq!(body["choices"][0]["text"], "a");
        assert_eq!(body["choices"][0]["finish_reason"], "length");
        assert_eq!(
            (&body["model"], &body["usage"]["total_tokens"]),
            (&json!("sapwood"), &json!(3))
        );
        assert_eq!(body["system_fingerprint"], "generation-3");
        for (model, weights) in [("sapwood", "base"), ("base", "base"), ("mine", "mine")] {
            let model = model.to_owned();
            let meta = Meta { model, generation: None, ..meta(Kind::Completion, false) };
            assert_eq!(whole(&meta, &answers, usage)["system_fingerprint"], weights);
        }
        let talk = whole(&meta(Kind::Chat, false), &answers, usage);
        assert_eq!(talk["choices"][0]["message"]["content"], "a");
    }

    #[test]
    fn a_conversation_streams_its_role_first_and_its_end_without_text() {
        let meta = meta(Kind::Chat, true);
        let first = opening(&meta, 0).unwrap_or_default();
        assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
        assert!(first["usage"].is_null() && first.get("usage").is_some());
        assert_eq!(piece(&meta, 0, "b", None)["choices"][0]["delta"], json!({"content": "b"}));
        assert_eq!(end(&meta, 0, None, Finish::Stop)["choices"][0]["delta"], json!({}));
        let usage = totals(&meta, Usage { prompt: 1, written: 1, cached: 0 });
        assert_eq!((&usage["choices"], &usage["usage"]["prompt_tokens"]), (&json!([]), &json!(1)));
    }

    #[test]
    fn a_call_is_told_whole_and_in_pieces() {
        let meta = meta(Kind::Chat, false);
        let of = |arguments: &str| Call {
            id: "call_1".into(),
            name: "f".into(),
            arguments: arguments.into(),
        };
        let told = |text: &str| {
            let calls = vec![of("{\"a\":1}")];
            let answer = Answer { text: text.into(), calls, scored: None, finish: Finish::Calls };
            whole(&meta, &[answer], Usage::default())["choices"][0].clone()
        };
        let choice = told("\n");
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &Value::Null)
        );
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
        assert_eq!(choice["message"]["tool_calls"], json!([call]));
        assert_eq!(told("Look:")["message"]["content"], "Look:");
        let first = super::call(&meta, (1, 0), &of(""), None);
        let function = json!({"name": "f", "arguments": ""});
        let expected =
            json!([{"id": "call_1", "type": "function", "function": function, "index": 0}]);
        assert_eq!(
            (&first["choices"][0]["index"], &first["choices"][0]["delta"]["tool_calls"]),
            (&json!(1), &expected)
        );
        let next = arguments(&meta, (1, 2), "{\"", None);
        let expected = json!([{"function": {"arguments": "{\""}, "index": 2}]);
        assert_eq!(next["choices"][0]["delta"], json!({"tool_calls": expected}));
    }

    #[test]
    fn tokens_are_told_as_each_interface_has_them() {
        let likely = |bytes: &[u8], log: f32| Likely { bytes: bytes.to_vec(), log: Some(log) };
        let token = likely(b"\xc3", -0.5);
        let likeliest = vec![likely(b"a", -0.25), token.clone(), likely(b"a", -4.0)];
        let scored = Scored { token, likeliest, offset: 3 };
        let first = Likely { bytes: b"x".to_vec(), log: None };
        let first = Scored { token: first, likeliest: Vec::new(), offset: 0 };
        let text = told(Kind::Completion, &[first, scored.clone()]);
        let expected = json!({
            "tokens": ["x", "\u{fffd}"], "token_logprobs": [null, -0.5],
            "top_logprobs": [null, {"a": -0.25, "\u{fffd}": -0.5}], "text_offset": [0, 3],
        });
        assert_eq!(text, expected);
        let talk = told(Kind::Chat, &[scored]);
        let token = &talk["content"][0];
        assert_eq!((&token["logprob"], &token["bytes"]), (&json!(-0.5), &json!([0xc3])));
        assert_eq!(
            token["top_logprobs"][0],
            json!({"token": "a", "logprob": -0.25, "bytes": [97]})
        );
    }

    #[test]
    fn an_event_is_one_line_whatever_the_text() {
        let text = "a\n\ndata: [DONE]\n\n";
        let event = event(&piece(&meta(Kind::Completion, false), 0, text, None));
        assert_eq!(event.lines().count(), 2);
        assert!(event.ends_with("}\n\n"));
    }
}
