//! What a text is held to from the command line, and how its weights are kept.

use super::fixture::{accepted, events, fixture, refusal, refused, sapwood};
use serde_json::{Value, json};
use std::fs;

/// Of a model that knows no JSON; temperature and seed are the draws'.
fn ask(more: &[&str]) -> Vec<String> {
    let model = fixture().text("model");
    let ask = ["generate", "--model", &model, "-p", "the pump ", "--temp", "1.3"];
    ask.iter().chain(more).map(|text| (*text).to_owned()).collect()
}

/// Goal: every text fits or says that it does not. Oracle: the crate jsonschema. Seeds 0 to 9.
#[test]
fn a_text_fits_its_schema_or_the_command_fails() {
    let schema = json!({
        "type": "object", "required": ["pump", "bar"], "additionalProperties": false,
        "properties": {"pump": {"enum": ["north", "south"]}, "bar": {"type": "integer", "minimum": 0,
            "maximum": 400}, "note": {"type": "string", "maxLength": 8}},
    });
    let judge = jsonschema::validator_for(&schema).unwrap();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("schema.json");
    fs::write(&file, schema.to_string()).unwrap();
    let (text, file) = (schema.to_string(), file.display().to_string());
    for seed in 0..10 {
        let given = if seed % 2 == 0 { &text } else { &file };
        let seed = seed.to_string();
        let more = ["--json-schema", given, "--seed", &seed, "--max-tokens", "200"];
        let said = accepted(&ask(&more));
        let value: Value = serde_json::from_str(&said).unwrap();
        assert!(judge.is_valid(&value), "{said}");
        let cut = sapwood(&ask(&[&more[..5], &["3", "--json"]].concat()));
        assert_eq!(cut.status.code(), Some(1));
        refusal(&cut, &["beginning of one that fits", "cut after 3 tokens", "--max-tokens"]);
        let told = events(&String::from_utf8(cut.stdout).unwrap());
        assert_eq!((&told[0]["finish"], &told[0]["tokens"]), (&json!("length"), &json!(3)));
        assert!(said.starts_with(told[0]["text"].as_str().unwrap()), "{said}");
    }
    let said = accepted(&ask(&["--json-object", "--max-tokens", "400", "--temp", "0", "--json"]));
    let told = &events(&said)[0];
    assert_eq!(told["finish"], "stop");
    assert!(serde_json::from_str::<Value>(told["text"].as_str().unwrap()).unwrap().is_object());
    assert!(serde_json::from_str::<Value>(&accepted(&ask(&["--max-tokens", "40"]))).is_err());
}

#[test]
fn a_schema_that_cannot_be_held_to_is_refused_before_a_token_is_written() {
    for (given, names) in [
        ("nowhere.json", &["--json-schema nowhere.json", "No such file"][..]),
        ("{\"type\":", &["--json-schema is no JSON"]),
        ("{\"uniqueItems\":true}", &["--json-schema", "`uniqueItems` is not supported"]),
        ("{\"type\":\"integer\",\"minimum\":2,\"maximum\":1}", &["cannot be held to"]),
    ] {
        let output = sapwood(&ask(&["--json-schema", given]));
        refusal(&output, names);
        assert!(output.stdout.is_empty());
    }
    refused(&ask(&["--json-object", "--json-schema", "{}"]), &["cannot be used with"]);
}

#[test]
fn weights_are_kept_as_is_said() {
    let said = |kept: &[&str]| accepted(&[&ask(&["--temp", "0"])[..], &owned(kept)].concat());
    let plain = said(&[]);
    assert_eq!(said(&["--head-weights", "f32"]), plain);
    assert!(!said(&["--head-weights", "int8"]).is_empty());
    refused(&ask(&["--head-weights", "int3"]), &["--head-weights"]);
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
