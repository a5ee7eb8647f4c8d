//! Samples as they come in: text, JSON lines or an array, through `intake::read`.
//!
//! - Promises: the same bytes give the same examples and the same hash; what is learned and what is
//!   held out add up to what was read, in its order; a blank line changes nothing.
//! - Oracle for JSON lines: each line as a plain `serde_json::Value`.

use crate::Seed;
use sapwood::intake::{self, Dataset, Example, HeldOut};
use serde_json::Value;

/// Reads the bytes as a stream of samples.
pub fn check(bytes: &[u8]) {
    let Ok(data) = intake::read(bytes, "input") else {
        assert!(intake::read(bytes, "input").is_err(), "refused once, accepted then");
        return;
    };
    assert_eq!(intake::read(bytes, "input").ok().as_ref(), Some(&data));
    assert!(data.test.is_empty() && data.skipped.is_empty());
    adds_up(&data);
    let text = std::str::from_utf8(bytes).unwrap();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let got: Vec<String> =
        data.train.iter().chain(&data.valid).flat_map(strings).map(str::to_owned).collect();
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap();
    let array = serde_json::from_str::<Vec<Value>>(text).unwrap_or_default();
    match serde_json::from_str::<Value>(first) {
        Ok(Value::Object(_)) => {
            let meant: Option<String> = text.lines().map(meant).collect();
            assert!(meant.is_none_or(|meant| meant == got.concat()));
            let blank = [bytes, b"\n \n"].concat();
            assert_eq!(intake::read(&blank[..], "input").ok(), Some(data));
        }
        // An array of examples has one for each item; any other is a text.
        _ if got.concat() != text => {
            assert_eq!(data.train.len() + data.valid.len(), array.len());
            assert!(array.iter().all(Value::is_object));
        }
        _ => {}
    }
}

fn adds_up(data: &Dataset) {
    let bytes: usize = data.valid.iter().map(Example::bytes).sum();
    match data.held_out {
        HeldOut::None => assert!(data.valid.is_empty() && data.train.len() <= 1),
        HeldOut::Split { examples, bytes: held } => {
            assert_eq!((examples, held), (data.valid.len(), bytes));
            assert!(!data.train.is_empty(), "everything was held out");
        }
        HeldOut::Given => unreachable!("a stream has no file of its own for validation"),
    }
}

fn strings(example: &Example) -> Vec<&str> {
    match example {
        Example::Text(text) => vec![text],
        Example::Completion { prompt, completion } => vec![prompt, completion],
        Example::Messages(talk) => {
            let turns = talk.turns.iter();
            turns.flat_map(|turn| [turn.role.as_str(), turn.content().unwrap_or("")]).collect()
        }
        Example::Choice(choice) => {
            assert!(choice.answer < choice.choices.len());
            [&choice.prompt].into_iter().chain(&choice.choices).map(String::as_str).collect()
        }
    }
}

/// All strings of a line's example, joined; none where it is a conversation of another layout than roles
/// and plain contents.
fn meant(line: &str) -> Option<String> {
    let line = line.trim_start_matches('\u{feff}');
    if line.trim().is_empty() {
        return Some(String::new());
    }
    let line: Value = serde_json::from_str(line).unwrap();
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    let list = |key: &str| line[key].as_array().unwrap().clone();
    let has = |keys: &[&str]| keys.iter().all(|key| line.get(key).is_some());
    if has(&["messages"]) {
        let turn = |turn: &Value| Some(string(&turn["role"]) + turn["content"].as_str()?);
        list("messages").iter().map(turn).collect()
    } else if has(&["conversations"]) {
        None
    } else if has(&["prompt", "choices", "answer"]) {
        Some(string(&line["prompt"]) + &list("choices").iter().map(string).collect::<String>())
    } else if has(&["prompt", "completion"]) {
        Some(string(&line["prompt"]) + &string(&line["completion"]))
    } else if has(&["text"]) {
        Some(string(&line["text"]))
    } else {
        None
    }
}

/// A text, and each form of a line.
pub fn seeds() -> Vec<Seed> {
    let lines = [
        r#"{"text":"one two"}"#,
        r#"{"prompt":"2+2=","completion":"4","id":7}"#,
        r#"{"messages":[{"role":"user","content":"h\u00e9"},{"role":"assistant","content":"o"}]}"#,
        r#"{"prompt":"e","choices":["f","g"],"answer":"g"}"#,
        r#"{"prompt":"e","choices":["f","g"],"answer":0}"#,
        r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f"}}],"weight":0}],"tools":[{}]}"#,
        r#"{"system":"s","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#,
        r#"{"instruction":"a","input":"b","output":"c","history":[["d","e"]]}"#,
    ];
    let all = lines.join("\n\n") + "\n";
    let mut seeds = vec![
        ("lines", all.into_bytes()),
        ("text", "Pump 3: ok.\n\nÖl nachgefüllt.\n\n".repeat(8).into_bytes()),
        ("array", format!("[{}]", lines.join(",\n")).into_bytes()),
        ("mark", b"\xef\xbb\xbf{\"text\":\"a\"}\r\n{\"text\":\"b\"}".to_vec()),
    ];
    let names = [
        "line_text",
        "line_completion",
        "line_messages",
        "line_choice",
        "line_index",
        "line_calls",
        "line_conversations",
        "line_instruction",
    ];
    seeds.extend(names.into_iter().zip(lines).map(|(name, line)| (name, line.into())));
    seeds
}
