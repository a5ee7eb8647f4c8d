//! Functions that a conversation may call, and calls that it made.

use super::*;

fn weather() -> Value {
    let place = json!({"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]});
    json!({"type": "function", "function": {"name": "weather", "description": "Of a place.", "parameters": place}})
}

fn talk(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "a"}],
        "tools": [weather(), {"type": "function", "function": {"name": "now", "strict": true}}]});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

/// The functions that an answer may call, and whether it must.
fn calls(more: Value) -> Option<(Vec<String>, bool)> {
    match asked(&talk(more)).unwrap().how.form {
        Some(Form::Calls(calls)) => {
            let names = calls.functions.into_iter().map(|function| function.name);
            Some((names.collect(), calls.is_forced))
        }
        _ => None,
    }
}

#[test]
fn a_choice_says_what_may_be_called_and_what_must() {
    let both = || vec!["weather".to_owned(), "now".to_owned()];
    assert_eq!(calls(json!({})), Some((both(), false)));
    assert_eq!(
        calls(json!({"tool_choice": "auto", "parallel_tool_calls": false})),
        Some((both(), false))
    );
    assert_eq!(calls(json!({"tool_choice": "required"})), Some((both(), true)));
    for (more, several) in [(json!({}), false), (json!({"parallel_tool_calls": true}), true)] {
        let form = asked(&talk(more)).unwrap().how.form;
        assert!(matches!(form, Some(Form::Calls(calls)) if calls.several == several));
    }
    let named = json!({"type": "function", "function": {"name": "now"}});
    assert_eq!(calls(json!({"tool_choice": named})), Some((vec!["now".to_owned()], true)));
    assert_eq!(calls(json!({"tool_choice": "none"})), None);
    let ask = asked(&talk(json!({"tool_choice": "none"}))).unwrap();
    let Prompt::Messages(talk) = &ask.prompts[0] else { return };
    let shown = talk.tools.as_ref().unwrap().to_string();
    assert!(shown.starts_with(r#"[{"type":"function","function":{"name":"weather","description""#));
}

#[test]
fn tools_that_cannot_be_followed_are_refused_by_name() {
    let one = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    let many: Vec<Value> = (0..65)
        .map(|at| json!({"type": "function", "function": {"name": format!("f{at}")}}))
        .collect();
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    for (more, param) in [
        (json!({"tools": {}}), "tools"),
        (json!({"tools": many}), "tools"),
        (json!({"tools": ["f"]}), "tools[0]"),
        (json!({"tools": [{"type": "custom", "custom": {"name": "f"}}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": [weather(), weather()]}), "tools[1].function.name"),
        (one(json!({"name": "a b"})), "tools[0].function.name"),
        (one(json!({"name": "f", "returns": {}})), "tools[0].function.returns"),
        (one(json!({"name": "f", "strict": 1})), "tools[0].function.strict"),
        (
            one(json!({"name": "f", "parameters": {"type": "string"}})),
            "tools[0].function.parameters.type",
        ),
        (
            one(json!({"name": "f", "parameters": {"type": "object", "not": {}}})),
            "tools[0].function.parameters",
        ),
        (json!({"tool_choice": "any"}), "tool_choice"),
        (json!({"tool_choice": named("nobody")}), "tool_choice"),
        (json!({"tool_choice": {"type": "allowed_tools"}}), "tool_choice"),
        (json!({"tools": [], "tool_choice": "required"}), "tool_choice"),
        (json!({"tools": [], "tool_choice": named("now")}), "tool_choice"),
        (json!({"parallel_tool_calls": "yes"}), "parallel_tool_calls"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (
            json!({"tool_choice": "required", "response_format": {"type": "json_object"}}),
            "response_format",
        ),
    ] {
        let got = refused(&talk(more.clone()));
        assert_eq!(got.0, param, "{more}: {}", got.1);
    }
    let free = json!({"tool_choice": "none", "parallel_tool_calls": true, "response_format": {"type": "json_object"}});
    assert!(asked(&talk(free)).is_ok());
}

#[test]
fn calls_and_their_results_go_to_the_template() {
    let call = json!({"id": "c1", "type": "function", "index": 0,
        "function": {"name": "weather", "arguments": "{\"place\": \"hall\"}"}});
    let messages = |arguments: Value, id: &str| {
        let mut call = call.clone();
        call["function"]["arguments"] = arguments;
        json!({"messages": [{"role": "user", "content": "a"},
            {"role": "assistant", "content": null, "tool_calls": [call], "refusal": null},
            {"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": "7"}]}]})
    };
    let ask = asked(&messages(json!("{\"place\": \"hall\"}"), "c1")).unwrap();
    let Prompt::Messages(talk) = &ask.prompts[0] else { return };
    let fields: Vec<String> = talk
        .turns
        .iter()
        .skip(1)
        .map(|turn| sapwood::intake::Json::Object(turn.fields.clone()).to_string())
        .collect();
    let call = r#"{"id":"c1","type":"function","function":{"name":"weather","arguments":{"place":"hall"}}}"#;
    assert_eq!(fields[0], format!(r#"{{"role":"assistant","tool_calls":[{call}]}}"#));
    assert_eq!(fields[1], r#"{"role":"tool","content":"7","tool_call_id":"c1"}"#);
    assert!(asked(&messages(json!(""), "c1")).is_ok());
    for arguments in [json!("[1]"), json!("{"), json!({"place": "hall"}), Value::Null] {
        let param = "messages[1].tool_calls[0].function.arguments";
        assert_eq!(refused(&messages(arguments, "c1")).0, param);
    }
    assert_eq!(refused(&messages(json!("{}"), "c2")).0, "messages[2].tool_call_id");
}
