//! The templates of `tools/golden/templates.py`, which transformers has rendered.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use serde_json::json;

/// A conversation as transformers is given it, its keys in their order.
fn conversation(golden: &Object, name: &str) -> Talk {
    let of = golden.get("conversations").unwrap().as_object().unwrap().get(name).unwrap();
    let of = of.as_object().unwrap();
    let mut talk = Talk { tools: of.get("tools").cloned(), ..Talk::default() };
    for message in of.get("messages").unwrap().as_array().unwrap() {
        let mut fields = message.as_object().unwrap().clone();
        fields.0.retain(|(_, value)| *value != Json::Null);
        let role = fields.get("role").unwrap().as_str().unwrap().to_owned();
        talk.turns.push(Turn { role, fields, is_learned: true });
    }
    talk
}

/// What is wrong with what Sapwood makes of a case; nothing where it is transformers' own.
fn difference(
    template: &str,
    talk: &Talk,
    prompt: bool,
    case: &Value,
    unsupported: Option<&str>,
) -> Option<String> {
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let chat = Chat::new(vec![template.to_owned()], &config);
    let got = chat.and_then(|chat| {
        let text = chat.write(NAMES[0], talk, prompt)?;
        let said = match case.get("said") {
            Some(_) if !prompt => chat.marked(talk, &text)?.unwrap_or_default(),
            _ => Vec::new(),
        };
        let said = said.iter().map(|span| text[span.clone()].to_owned()).collect::<Vec<_>>();
        Ok((text, said))
    });
    match (got, case.get("text"), unsupported) {
        (Err(error), Some(_), Some(word)) => {
            let error = error.to_string();
            let fits = error.contains(word) && error.contains("chat:1");
            (!fits).then(|| format!("the refusal does not name {word} and its line: {error}"))
        }
        (Ok(_), _, Some(_)) => Some("it is not refused".to_owned()),
        (Err(error), Some(text), None) => Some(format!("refused: {error}; expected {text}")),
        (Ok((text, _)), None, _) => Some(format!("not refused, but {text:?}")),
        (Err(_), None, _) => None,
        (Ok((text, said)), Some(expected), None) => {
            let expected_said = case.get("said").filter(|_| !prompt);
            let said = Value::from(said);
            if Some(text.as_str()) != expected.as_str() {
                Some(format!("{text:?}; expected {expected}"))
            } else if expected_said.is_some_and(|expected| *expected != said) {
                Some(format!("said {said}; expected {expected_said:?}"))
            } else {
                None
            }
        }
    }
}

/// Goal: the same text as transformers, to the letter, or a refusal by name and line.
/// Oracle: `tools/golden/templates.py`.
#[test]
fn templates_render_as_in_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/templates/expected.json");
    let text = fs::read_to_string(path).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let ordered: Object = serde_json::from_str(&text).unwrap();
    let talk = |name: &str| conversation(&ordered, name);
    let mut wrong = Vec::new();
    let mut tried = 0;
    for snippet in golden["snippets"].as_array().unwrap() {
        let template = snippet["template"].as_str().unwrap();
        let unsupported = golden["unsupported"].get(template).and_then(Value::as_str);
        let found = difference(template, &talk("odd"), false, snippet, unsupported);
        let is_known =
            golden["different"].as_array().unwrap().iter().any(|known| known == template);
        assert!(!is_known || found.is_some(), "{template} is no longer different");
        let found = found.filter(|_| !is_known);
        wrong.extend(found.map(|found| format!("{template}\n    {found}")));
        tried += 1;
    }
    for entry in golden["templates"].as_array().unwrap() {
        let template = entry["template"].as_str().unwrap();
        for case in entry["cases"].as_array().unwrap() {
            let name = case["conversation"].as_str().unwrap();
            let prompt = case["prompt"].as_bool().unwrap();
            let found = difference(template, &talk(name), prompt, case, None);
            wrong.extend(found.map(|found| format!("{} over {name}\n    {found}", entry["name"])));
            tried += 1;
        }
    }
    assert!(tried > 500, "{tried}");
    assert!(wrong.is_empty(), "{} of {tried} are others:\n{}", wrong.len(), wrong.join("\n"));
}
