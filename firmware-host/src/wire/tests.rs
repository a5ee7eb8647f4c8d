//! Bodies of requests: what they ask for, and by which name they are refused.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
use super::*;
use sapwood::intake::{Talk, Turn};
use serde_json::{Value, json};

/// What OpenAI's reference has where nothing is said.
const PLAIN: How = How {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    frequency: 0.0,
    presence: 0.0,
    repetition: 1.0,
    pushes: Vec::new(),
    seed: None,
    form: None,
    caches: true,
};

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
    assert_eq!((ask.each, ask.tokens_max), (1, Some(16)));
    assert_eq!(ask.how, PLAIN);
    assert_eq!(
        (ask.model.as_deref(), ask.sending, ask.echo),
        (Some("sapwood"), Sending::Whole, false)
    );
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
    assert!(prompts(json!(vec!["a"; 65])).unwrap_err().to_string().contains("65 of them"));
}

#[test]
fn a_conversation_may_come_in_parts_and_its_roles_are_known() {
    let talk = json!({"messages": [
        {"role": "developer", "content": "a", "name": "x"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
    ], "max_tokens": 3, "max_completion_tokens": 5});
    let ask = asked(&talk).unwrap();
    let Prompt::Messages(Talk { turns, .. }) = &ask.prompts[0] else { return };
    assert_eq!(turns[1], Turn::plain("user", "bc"));
    assert_eq!((turns[0].role.as_str(), turns[0].content()), ("system", Some("a")));
    assert_eq!(turns[0].fields.get("name").and_then(|name| name.as_str()), Some("x"));
    assert_eq!(ask.tokens_max, Some(5));
    let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    for (turn, param) in [
        (json!({"role": "tool", "content": "a"}), "messages[0].tool_call_id"),
        (json!({"role": "tool", "content": "a", "tool_call_id": "1"}), "messages[0].tool_call_id"),
        (json!({"role": "user", "content": "a", "tool_calls": [1]}), "messages[0].tool_calls"),
        (json!({"role": "function", "content": "a"}), "messages[0].role"),
        (json!({"role": "user"}), "messages[0].content"),
        (json!({"role": "user", "content": image}), "messages[0].content"),
        (
            json!({"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}),
            "messages[0].tool_calls[0].function",
        ),
        (json!("a"), "messages"),
    ] {
        assert_eq!(refused(&json!({"messages": [turn]})).0, param);
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name_unless_it_changes_nothing() {
    for (name, harmless, meaning) in [
        ("best_of", json!(1), json!(3)),
        ("top_logprobs", json!(0), json!(1)),
        ("tools", json!([]), json!([{"type": "function"}])),
        ("tool_choice", json!("auto"), json!("required")),
        ("function_call", json!("none"), json!({"name": "f"})),
        ("grammar", Value::Null, json!("root ::= \"a\"")),
        ("repeat_penalty", json!(1), json!(1.1)),
        ("suffix", json!(""), json!("end")),
        ("mirostat", Value::Null, json!(2)),
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
        ("top_p", json!(-0.1)),
        ("top_p", json!(1.1)),
        ("top_k", json!(-2)),
        ("top_k", json!(1.5)),
        ("min_p", json!(1.1)),
        ("frequency_penalty", json!(2.1)),
        ("presence_penalty", json!("much")),
        ("repetition_penalty", json!(0)),
        ("repetition_penalty", json!(1e-60)),
        ("logit_bias", json!([])),
        ("n", json!(0)),
        ("n", json!(65)),
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
    let seed = |seed: Value| asked(&json!({"prompt": "a", "seed": seed})).unwrap().how.seed;
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

#[test]
fn what_clients_send_back_of_an_answer_says_nothing() {
    let turn = json!({
        "role": "assistant", "content": "a", "refusal": null, "annotations": [], "tool_calls": [],
        "audio": null, "function_call": null,
    });
    let talk = json!({"messages": [{"role": "user", "content": "b"}, turn], "tools": [],
        "tool_choice": "auto", "cache_prompt": true});
    let ask = asked(&talk).unwrap();
    assert!(matches!(&ask.prompts[..], [Prompt::Messages(talk)] if talk.turns.len() == 2));
}

#[test]
fn tokens_are_chosen_as_openai_llama_cpp_and_vllm_name_it() {
    let how = |body: Value| asked(&body).map(|ask| ask.how);
    let body = json!({"prompt": "a", "temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05,
        "frequency_penalty": -2, "presence_penalty": 2, "repetition_penalty": 1.1,
        "logit_bias": {"70": -100, "5": 1}, "seed": 3});
    let expected = How {
        temperature: 0.5,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.05,
        frequency: -2.0,
        presence: 2.0,
        repetition: 1.1,
        pushes: vec![(5, 1.0), (70, -100.0)],
        seed: Some(3),
        form: None,
        caches: true,
    };
    assert_eq!(how(body).unwrap(), expected);
    for all in [json!(0), json!(-1), Value::Null] {
        assert_eq!(how(json!({"prompt": "a", "top_k": all})).unwrap(), PLAIN);
    }
    for none in [json!(0), json!(1e-60)] {
        let greedy = How { temperature: 0.0, ..PLAIN };
        assert_eq!(how(json!({"prompt": "a", "top_p": none})).unwrap(), greedy);
    }
    for (bias, said) in [
        (json!({"x": 1}), "logit_bias.x"),
        (json!({"5": 101}), "logit_bias.5"),
        (json!({"5": null}), "logit_bias.5"),
        (json!({"7": 1, "07": 1}), "each token once"),
    ] {
        let message = how(json!({"prompt": "a", "logit_bias": bias})).unwrap_err().to_string();
        assert!(message.contains(said), "{message}");
    }
    let many: serde_json::Map<_, _> = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    assert!(how(json!({"prompt": "a", "logit_bias": many})).is_err());
}

#[test]
fn a_request_may_ask_for_several_texts_within_the_bound_of_all() {
    let each = |body: Value| asked(&body).map(|ask| ask.each);
    assert_eq!(each(json!({"prompt": "a", "n": 64})).unwrap(), 64);
    assert_eq!(each(json!({"prompt": ["a", "b"], "n": 32, "best_of": 32})).unwrap(), 32);
    assert_eq!(refused(&json!({"prompt": ["a", "b"], "n": 33})).0, "n");
    assert_eq!(refused(&json!({"prompt": "a", "n": 2, "best_of": 3})).0, "best_of");
}

#[test]
fn an_answer_may_be_held_to_json_or_to_a_schema() {
    let form = |form: Value| {
        asked(&json!({"prompt": "a", "response_format": form})).map(|ask| ask.how.form)
    };
    assert_eq!(form(json!({"type": "text"})).unwrap(), None);
    assert_eq!(form(json!({"type": "json_object"})).unwrap(), Some(Form::Json(Schema::object())));
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let read = Schema::read(&schema).ok().map(Form::Json);
    let named = json!({"name": "n", "strict": true, "schema": schema});
    assert_eq!(form(json!({"type": "json_schema", "json_schema": named})).unwrap(), read);
    assert_eq!(form(json!({"type": "json_object", "schema": schema})).unwrap(), read);
}

#[test]
fn a_form_that_cannot_be_held_to_is_refused_by_name() {
    let refused = |form: Value| refused(&json!({"prompt": "a", "response_format": form}));
    let named = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    for (form, param) in [
        (json!("json"), "response_format"),
        (json!({"type": "xml"}), "response_format.type"),
        (json!({"type": "text", "schema": {}}), "response_format.schema"),
        (json!({"type": "json_schema"}), "response_format.json_schema"),
        (
            json!({"type": "json_schema", "json_schema": {"name": "n"}}),
            "response_format.json_schema",
        ),
        (named(json!({"not": {}})), "response_format.json_schema.schema"),
    ] {
        assert_eq!(refused(form).0, param);
    }
    let place = named(json!({"properties": {"a": {"uniqueItems": true}}}));
    assert!(refused(place).1.contains("/properties/a: the keyword `uniqueItems`"));
}

#[test]
fn how_likely_tokens_were_is_asked_for_in_two_ways() {
    let talk = |logprobs: Value, top: Value| {
        asked(&json!({"messages": [{"role": "user", "content": "a"}], "logprobs": logprobs,
            "top_logprobs": top}))
        .map(|ask| ask.likeliest)
    };
    assert_eq!(talk(json!(true), Value::Null).unwrap(), Some(0));
    assert_eq!(talk(json!(true), json!(20)).unwrap(), Some(20));
    assert_eq!(talk(json!(false), json!(0)).unwrap(), None);
    assert!(talk(json!(true), json!(21)).is_err() && talk(Value::Null, json!(1)).is_err());
    assert!(talk(json!(1), Value::Null).is_err());
    let text = |logprobs: Value| {
        asked(&json!({"prompt": "a", "logprobs": logprobs})).map(|ask| ask.likeliest)
    };
    assert_eq!((text(json!(0)).unwrap(), text(json!(5)).unwrap()), (Some(0), Some(5)));
    assert_eq!((text(json!(false)).unwrap(), text(Value::Null).unwrap()), (None, None));
    assert!(text(json!(21)).is_err() && text(json!(true)).is_err() && text(json!(-1)).is_err());
}

mod tools;
