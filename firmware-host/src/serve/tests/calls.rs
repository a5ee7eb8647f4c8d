//! Answers that call a function, over HTTP.

use super::*;

const PATH: &str = "/v1/chat/completions";
const CALL: &str = r#"{"name": "f", "arguments": {"a": "x y"}}"#;

/// Routes with room for a talk and for what the parrot says of it.
fn routes() -> Router {
    let (cage, config) = (Cage::with(Parrot::default()), Serve { tokens_max: 500, ..config() });
    let shared = Shared::new(config, Arc::new(cage), Arc::new(Wound::default()));
    open(&Arc::new(shared.unwrap()))
}

/// The parrot says what the user said.
fn talk(said: &str, choice: &str, more: &Value) -> String {
    let mut body = json!({
        "messages": [{"role": "user", "content": said}], "tool_choice": choice,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body.to_string()
}

async fn choice(said: &str, how: &str, more: &Value) -> Value {
    let routes = routes();
    let (status, body) = asked(&routes, "POST", PATH, &talk(said, how, more)).await;
    assert_eq!(status, 200, "{body}");
    body["choices"][0].clone()
}

#[tokio::test]
async fn a_call_is_told_as_one_and_not_as_text() {
    let forced = choice(CALL, "required", &json!({"stop": "name"})).await;
    assert_eq!(
        (&forced["finish_reason"], &forced["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let call = &forced["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "f", "arguments": "{\"a\": \"x y\"}"}));
    assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_") && id.len() > 10));
    let free = choice(&format!("Look: <call>{CALL} and more"), "auto", &json!({})).await;
    assert_eq!(
        (&free["finish_reason"], &free["message"]["content"]),
        (&json!("tool_calls"), &json!("Look: "))
    );
    assert_eq!(free["message"]["tool_calls"][0]["function"], call["function"]);
    for (said, how) in [("Hello <", "auto"), (CALL, "none")] {
        let text = choice(said, how, &json!({})).await;
        assert_eq!(
            (&text["finish_reason"], &text["message"]["content"]),
            (&json!("stop"), &json!(said))
        );
        assert!(text["message"].get("tool_calls").is_none());
    }
    let stopped = choice(&format!("ab<call>{CALL}"), "auto", &json!({"stop": "b"})).await;
    assert_eq!(
        (&stopped["finish_reason"], &stopped["message"]["content"]),
        (&json!("stop"), &json!("a"))
    );
}

#[tokio::test]
async fn several_calls_are_told_where_they_are_wanted() {
    let said = format!("Look: <call>{CALL}</call><call>{CALL}</call>");
    let several = json!({"parallel_tool_calls": true});
    let both = choice(&said, "auto", &several).await;
    assert_eq!(
        (&both["finish_reason"], &both["message"]["content"]),
        (&json!("tool_calls"), &json!("Look: "))
    );
    let calls = both["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert!(calls[0]["id"] != calls[1]["id"] && calls[0]["function"] == calls[1]["function"]);
    let one = choice(&said, "auto", &json!({})).await;
    assert_eq!(one["message"]["tool_calls"].as_array().map(Vec::len), Some(1));
    // Cut within the second: the first is whole, and the answer says that it was cut.
    let tokens = said.len() - "</call>".len() - 3;
    let more = json!({"parallel_tool_calls": true, "max_tokens": tokens});
    let cut = choice(&said, "auto", &more).await;
    assert_eq!(cut["finish_reason"], "length");
    assert_eq!(cut["message"]["tool_calls"].as_array().map(Vec::len), Some(2));

    let more = json!({"parallel_tool_calls": true, "stream": true, "n": 2});
    let events =
        super::text(sent(&routes(), "POST", PATH, &talk(&said, "auto", &more)).await).await;
    let lines = events.lines().filter_map(|line| line.strip_prefix("data: "));
    let parts: Vec<Value> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
    for text in 0..2 {
        for number in 0..2 {
            let pieces = parts.iter().map(|part| &part["choices"][0]);
            let pieces = pieces.filter(|choice| choice["index"] == text);
            let calls = pieces.map(|choice| &choice["delta"]["tool_calls"][0]);
            let calls: Vec<_> = calls.filter(|call| call["index"] == number).collect();
            assert_eq!(calls[0]["function"]["name"], "f");
            assert_eq!(calls.iter().filter(|call| call["id"].is_string()).count(), 1);
            let arguments = calls.iter().filter_map(|call| call["function"]["arguments"].as_str());
            assert_eq!(arguments.collect::<String>(), "{\"a\": \"x y\"}");
        }
    }
}

#[tokio::test]
async fn a_call_that_was_cut_says_so() {
    let cut = choice(CALL, "required", &json!({"max_tokens": 33})).await;
    assert_eq!(cut["finish_reason"], "length");
    assert_eq!(cut["message"]["tool_calls"][0]["function"]["arguments"], "{\"a\": ");
    let early = choice(CALL, "required", &json!({"max_tokens": 4})).await;
    assert_eq!(
        (&early["finish_reason"], &early["message"]["content"]),
        (&json!("length"), &json!(""))
    );
    assert!(early["message"].get("tool_calls").is_none());
}

#[tokio::test]
async fn the_events_of_a_call_add_up_to_it() {
    let routes = routes();
    let body =
        talk(&format!("Look: <call>{CALL}"), "auto", &json!({"stream": true, "logprobs": true}));
    let events = super::text(sent(&routes, "POST", PATH, &body).await).await;
    let lines = events.lines().filter_map(|line| line.strip_prefix("data: "));
    let parts: Vec<Value> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
    let deltas: Vec<&Value> = parts.iter().map(|part| &part["choices"][0]["delta"]).collect();
    let said: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(said, "Look: ");
    let calls: Vec<&Value> = deltas
        .iter()
        .map(|delta| &delta["tool_calls"][0])
        .filter(|call| call.is_object())
        .collect();
    assert!(calls.iter().all(|call| call["index"] == 0) && calls.len() > 3);
    assert_eq!(
        (&calls[0]["function"]["name"], &calls[0]["type"]),
        (&json!("f"), &json!("function"))
    );
    assert!(calls[0]["id"].is_string() && calls[1].get("id").is_none());
    let arguments: String =
        calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments, "{\"a\": \"x y\"}");
    assert_eq!(parts.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    // Every token up to the end of the arguments.
    assert_eq!(events.matches("\"top_logprobs\"").count(), "Look: <call>".len() + CALL.len() - 1);
}
