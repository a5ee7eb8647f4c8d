//! Bodies of HTTP requests: what a completion, a conversation or a batch of samples asks for.
//!
//! - Promises: every value of a request has its range; the same request written out again asks for
//!   the same; a refusal is short, whatever came; an event of an answer is one line that reads back.

use crate::Seed;
use firmware_host::wire::{
    Answer, Ask, COMPARED_BYTES_MAX, COMPARED_MAX, Call, Finish, Form, Kind, MODEL_BYTES_MAX, Meta,
    PROMPTS_MAX, PUSHES_MAX, Prompt, STOP_BYTES_MAX, STOPS_MAX, Sending, TEXTS_MAX, Usage,
    WireError, chat, compare, completion, event, lines, piece, refusal, rollback, whole,
};
use sapwood::intake::{Json, Turn};
use serde_json::{Value, json};

/// Bytes of a refusal: it is shown to people.
const REFUSAL_BYTES_MAX: usize = 1 << 10;

/// Reads the bytes as the body of every request.
pub fn check(bytes: &[u8]) {
    assert_eq!(lines(bytes).is_ok(), std::str::from_utf8(bytes).is_ok());
    for (kind, read) in [(Kind::Completion, completion as fn(&[u8]) -> _), (Kind::Chat, chat)] {
        match read(bytes) {
            Ok(ask) => {
                in_range(&ask, kind);
                let again = read(written(&ask).to_string().as_bytes());
                assert_eq!(again, Ok(ask));
            }
            Err(error) => refused(&error),
        }
    }
    ordered(bytes);
    answered(&String::from_utf8_lossy(bytes));
}

/// The same bytes as orders about adapters.
fn ordered(bytes: &[u8]) {
    match compare(bytes) {
        Ok(asked) => {
            let named = |name: &String| (1..=MODEL_BYTES_MAX).contains(&name.len());
            assert!(asked.models.iter().all(named));
            let texts = asked.texts.unwrap_or_else(|| vec!["a".to_owned()]);
            assert!((1..=COMPARED_MAX).contains(&texts.len()));
            assert!(texts.iter().all(|text| !text.is_empty()));
            assert!(texts.iter().map(String::len).sum::<usize>() <= COMPARED_BYTES_MAX);
        }
        Err(error) => refused(&error),
    }
    match rollback(bytes) {
        Ok(Some(to)) => {
            let again = json!({ "to": to }).to_string();
            assert_eq!(rollback(again.as_bytes()), Ok(Some(to)));
        }
        Ok(None) => {}
        Err(error) => refused(&error),
    }
}

fn in_range(ask: &Ask, kind: Kind) {
    assert_eq!(ask.kind, kind);
    let how = &ask.how;
    assert!((0.0..=2.0).contains(&how.temperature) && how.top_p > 0.0 && how.top_p <= 1.0);
    assert!((0.0..=1.0).contains(&how.min_p) && how.repetition > 0.0 && how.repetition <= 10.0);
    assert!([how.frequency, how.presence].iter().all(|one| (-2.0..=2.0).contains(one)));
    assert!(how.pushes.len() <= PUSHES_MAX && how.pushes.is_sorted_by(|a, b| a.0 < b.0));
    assert!(how.pushes.iter().all(|(_, push)| (-100.0..=100.0).contains(push)));
    assert!((1..=TEXTS_MAX).contains(&(ask.each * ask.prompts.len())));
    assert!((1..=PROMPTS_MAX).contains(&ask.prompts.len()) && ask.stops.len() <= STOPS_MAX);
    assert!(ask.stops.iter().all(|stop| (1..=STOP_BYTES_MAX).contains(&stop.len())));
    assert!(ask.model.as_ref().is_none_or(|name| (1..=MODEL_BYTES_MAX).contains(&name.len())));
    let one = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => kind == Kind::Completion && !text.is_empty(),
        Prompt::Ids(ids) => kind == Kind::Completion && !ids.is_empty(),
        Prompt::Messages(talk) => kind == Kind::Chat && !talk.turns.is_empty(),
    };
    assert!(ask.prompts.iter().all(one), "{:?}", ask.prompts);
}

/// A request that asks for the same.
fn written(ask: &Ask) -> Value {
    let prompt = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => json!(text),
        Prompt::Ids(ids) => json!(ids),
        Prompt::Messages(talk) => talk.turns.iter().map(turn).collect(),
    };
    let mut body = json!({
        "model": ask.model,
        "max_tokens": ask.tokens_max,
        "n": ask.each,
        "temperature": ask.how.temperature,
        "top_k": ask.how.top_k,
        "top_p": ask.how.top_p,
        "min_p": ask.how.min_p,
        "frequency_penalty": ask.how.frequency,
        "presence_penalty": ask.how.presence,
        "repetition_penalty": ask.how.repetition,
        "logit_bias": ask.how.pushes.iter().map(|(id, push)| (id.to_string(), json!(push)))
            .collect::<serde_json::Map<_, _>>(),
        "seed": ask.how.seed,
        "response_format": match &ask.how.form {
            Some(Form::Json(form)) => json!({ "type": "json_object", "schema": form.value() }),
            Some(Form::Calls(_)) | None => Value::Null,
        },
        "stop": ask.stops,
        "stream": ask.sending != Sending::Whole,
    });
    if let Sending::Events { usage } = ask.sending {
        body["stream_options"] = json!({ "include_usage": usage });
    }
    match ask.kind {
        Kind::Chat => {
            offered(ask, &mut body);
            body["messages"] = ask.prompts.iter().map(prompt).next().unwrap_or_default();
            body["logprobs"] = json!(ask.likeliest.is_some());
            body["top_logprobs"] = json!(ask.likeliest.unwrap_or(0));
        }
        Kind::Completion => {
            body["prompt"] = ask.prompts.iter().map(prompt).collect();
            body["echo"] = json!(ask.echo);
            body["logprobs"] = json!(ask.likeliest);
        }
    }
    body
}

/// The tools of a request, and whom of them it calls.
fn offered(ask: &Ask, body: &mut Value) {
    let [Prompt::Messages(talk)] = &ask.prompts[..] else { return };
    let Some(tools) = &talk.tools else { return };
    body["tools"] = serde_json::from_str(&tools.to_string()).unwrap();
    let named = |name: &str| json!({ "type": "function", "function": { "name": name } });
    body["tool_choice"] = match &ask.how.form {
        Some(Form::Calls(calls)) if !calls.is_forced => "auto".into(),
        Some(Form::Calls(calls)) => match &calls.functions[..] {
            [one] => named(&one.name),
            _ => "required".into(),
        },
        _ => "none".into(),
    };
}

/// A turn as it came; a template gets arguments as objects.
fn turn(turn: &Turn) -> Value {
    let mut told: Value =
        serde_json::from_str(&Json::Object(turn.fields.clone()).to_string()).unwrap();
    for call in told["tool_calls"].as_array_mut().into_iter().flatten() {
        let arguments = &mut call["function"]["arguments"];
        *arguments = arguments.to_string().into();
    }
    if told["tool_calls"].is_null() {
        told.as_object_mut().unwrap().remove("tool_calls");
    }
    told
}

fn refused(error: &WireError) {
    let message = error.to_string();
    assert!(message.len() <= REFUSAL_BYTES_MAX, "{} bytes: {message}", message.len());
    let body = refusal("invalid_request_error", &message, error.param(), None).to_string();
    let back: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(back["error"]["message"], message.as_str());
}

/// Any text goes out and is the same at the other end.
fn answered(text: &str) {
    for kind in [Kind::Completion, Kind::Chat] {
        let (id, model, generation) = ("x".to_owned(), "sapwood".to_owned(), Some(1));
        let meta = Meta { kind, id, created: 1, model, generation, counts: true };
        let (name, arguments) = ("f".to_owned(), text.to_owned());
        let calls = vec![Call { id: text.to_owned(), name, arguments }];
        let answers = [Answer { text: text.to_owned(), calls, scored: None, finish: Finish::Stop }];
        for body in [piece(&meta, 0, text, None), whole(&meta, &answers, Usage::default())] {
            let event = event(&body);
            let line = event.strip_prefix("data: ").and_then(|line| line.strip_suffix("\n\n"));
            let line = line.unwrap();
            assert!(!line.contains(['\n', '\r']), "an event of several lines");
            assert_eq!(serde_json::from_str::<Value>(line).ok(), Some(body));
        }
    }
}

/// Requests with every field.
pub fn seeds() -> Vec<Seed> {
    let completion = r#"{"model":"base","prompt":["a",[1,2]],"max_tokens":4,"temperature":0.5,
        "top_p":0.9,"seed":-7,"stop":["\n","END"],"echo":true,"logprobs":3,"stream":true,"n":2,"user":"u",
        "top_k":40,"min_p":0.05,"frequency_penalty":0.5,"presence_penalty":-0.5,
        "repetition_penalty":1.1,"logit_bias":{"5":-100,"7":2.5},"cache_prompt":true,
        "stream_options":{"include_usage":true}}"#;
    let chat = r##"{"messages":[{"role":"developer","content":"s"},{"role":"user","name":"n",
        "content":[{"type":"text","text":"a"},{"type":"text","text":"\u00e9"}]}],
        "max_completion_tokens":9,"logprobs":true,"top_logprobs":2,"response_format":{"type":"json_schema","json_schema":
        {"name":"n","strict":true,"schema":{"type":"object","properties":{"a":{"enum":[1,"b",null]},
        "b":{"type":"array","items":{"$ref":"#/$defs/c"},"maxItems":3}},"required":["a"],
        "additionalProperties":false,"$defs":{"c":{"type":"string","pattern":"^[a-z]+$"}}}}},"tools":[],"stop":null}"##;
    let tools = r##"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":
        [{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":[1,\"x\"]}"}}]},{"role":"tool",
        "tool_call_id":"c","content":"7"}],"tools":[{"type":"function","function":{"name":"f","description":"d",
        "parameters":{"type":"object","properties":{"a":{"$ref":"#/$defs/b"}},"$defs":{"b":{"type":"array"}}}}},
        {"type":"function","function":{"name":"g","strict":true}}],"tool_choice":"required",
        "parallel_tool_calls":false}"##;
    let refused = r#"{"prompt":"a","mirostat":2,"suffix":"x"}"#;
    vec![
        ("completion", completion.into()),
        ("chat", chat.into()),
        ("tools", tools.into()),
        ("refused", refused.into()),
        ("compare", br#"{"models":["sapwood@1","base"],"texts":["a","\u00e9"]}"#.to_vec()),
        ("rollback", b"{\"to\":3}".to_vec()),
        ("lines", b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n".to_vec()),
    ]
}
