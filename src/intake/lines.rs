//! One line of JSON to one example, told apart by its keys; keys beyond those are passed over.

use super::json::{Json, Object, field, string};
use super::{Choice, Example, IntakeError, LineProblem, talk};
use crate::settings::LINE_BYTES_MAX;

/// Every line of a JSON-lines text; blank lines count but mean nothing.
///
/// # Errors
/// [`IntakeError::Line`] with `name` and the number of the first line that is no example.
pub fn examples(text: &str, name: &str) -> Result<Vec<Example>, IntakeError> {
    each(text, name, |_, example| example)
}

/// The same, each made into what `keep` makes of a line and its example.
pub(super) fn each<T>(
    text: &str,
    name: &str,
    keep: impl Fn(&str, Example) -> T,
) -> Result<Vec<T>, IntakeError> {
    let mut kept = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // Files that were joined have a mark each.
        let line = line.trim_start_matches('\u{feff}');
        if line.trim().is_empty() {
            continue;
        }
        let located =
            |problem| IntakeError::Line { name: name.to_owned(), line: index + 1, problem };
        kept.push(keep(line, example(line).map_err(located)?));
    }
    Ok(kept)
}

fn example(line: &str) -> Result<Example, LineProblem> {
    if line.len() as u64 > LINE_BYTES_MAX {
        return Err(LineProblem::Long { bytes: line.len() });
    }
    example_of(&serde_json::from_str(line)?)
}

/// The example that an object is, told by its keys.
pub(super) fn example_of(object: &Object) -> Result<Example, LineProblem> {
    let has = |key: &str| object.has(key);
    if has("messages") {
        return talk::messages(object).map(Example::Messages);
    }
    if has("conversations") {
        return talk::conversations(object).map(Example::Messages);
    }
    if has("prompt") && has("choices") && has("answer") {
        return choice(object);
    }
    if has("prompt") && has("completion") {
        let (prompt, completion) = (string(object, "prompt")?, string(object, "completion")?);
        return Ok(Example::Completion { prompt, completion });
    }
    if has("text") {
        return Ok(Example::Text(string(object, "text")?));
    }
    if has("instruction") && has("output") {
        return talk::instruction(object).map(Example::Messages);
    }
    let mut names: Vec<&str> = object.0.iter().map(|(key, _)| key.as_str()).collect();
    names.sort_unstable();
    let mut found = names.join(", ");
    if found.is_empty() {
        "none".clone_into(&mut found);
    }
    Err(LineProblem::Keys { found })
}

fn choice(object: &Object) -> Result<Example, LineProblem> {
    let expected = "a list of at least two strings, none empty";
    let strings = object.get("choices").and_then(Json::as_array).and_then(|list| {
        list.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    let Some(choices) =
        strings.filter(|choices| choices.len() > 1 && !choices.iter().any(String::is_empty))
    else {
        return Err(field(object, "choices", expected));
    };
    let answer = match object.get("answer") {
        Some(Json::String(text)) => choices.iter().position(|choice| choice == text),
        Some(Json::Number(number)) => number.as_u64().and_then(|at| usize::try_from(at).ok()),
        _ => None,
    };
    let Some(answer) = answer.filter(|&answer| answer < choices.len()) else {
        return Err(field(object, "answer", "the index of a choice, from 0, or its text"));
    };
    Ok(Example::Choice(Choice { prompt: string(object, "prompt")?, choices, answer }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::{Talk, Turn};

    fn refusal(text: &str) -> String {
        examples(text, "a.jsonl").map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
    }

    #[test]
    fn each_line_is_told_by_its_keys() -> Result<(), IntakeError> {
        let text = r#"{"text":"a"}

{"prompt":"b","completion":"c","id":7}
{"messages":[{"role":"user","content":"d"}]}
{"prompt":"e","choices":["f","g"],"answer":"g"}
{"prompt":"e","choices":["f","g"],"answer":0}"#;
        let got = examples(text, "a.jsonl")?;
        assert_eq!(got[0], Example::Text("a".into()));
        assert_eq!(got[1], Example::Completion { prompt: "b".into(), completion: "c".into() });
        let turns = vec![Turn::plain("user", "d")];
        assert_eq!(got[2], Example::Messages(Talk { turns, ..Talk::default() }));
        for (index, right) in [(3, 1), (4, 0)] {
            assert!(matches!(&got[index], Example::Choice(choice) if choice.answer == right));
        }
        Ok(())
    }

    #[test]
    fn a_broken_line_is_named_by_number_and_file() {
        let cut = refusal("{\"text\":\"a\"}\n\n{\"text\":\"b");
        assert!(cut.contains("a.jsonl, line 3"), "{cut}");
        let unknown = refusal(r#"{"prompt":"a","complettion":"b"}"#);
        assert!(
            unknown.contains("line 1") && unknown.contains("got complettion, prompt"),
            "{unknown}"
        );
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        let cases = [
            (r#"[1]"#, "not a JSON object"),
            (r#"{}"#, "got none"),
            (r#"{"text":7}"#, "text: expected a string, got 7"),
            (r#"{"messages":[]}"#, "messages: expected"),
            (r#"{"messages":[{"role":"user"}]}"#, "content: expected a string, got nothing"),
            (r#"{"messages":["hello"]}"#, "messages: expected"),
            (r#"{"prompt":"a","choices":["b"],"answer":0}"#, "choices: expected"),
            (r#"{"prompt":"a","choices":["b","c"],"answer":2}"#, "answer: expected"),
            (r#"{"prompt":"a","choices":["b","c"],"answer":-1}"#, "answer: expected"),
            (r#"{"prompt":"a","choices":["b","c"],"answer":"d"}"#, "answer: expected"),
        ];
        for (line, part) in cases {
            let got = refusal(line);
            assert!(got.contains(part) && !got.contains('\n'), "{line}: {got}");
        }
    }
}
