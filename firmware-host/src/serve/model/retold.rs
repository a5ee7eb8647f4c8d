//! A conversation with tools, for a chat template that knows none: told in its words.
//!
//! - In: a talk with tools, calls and their results. Out: the same in turns of system, user and assistant.
//!   The tools stand in the system's turn, after what it says; a call is what the model would have to write
//!   for one; a result is a turn of the user.
//! - A model that was not taught tools was not taught these words either: a call is held to its schema, and
//!   whether it is the right one is the model's luck.

use sapwood::intake::{Json, Talk, Turn};

/// What a call stands in.
pub(super) const OPENING: &str = "<tool_call>\n";
const CLOSING: &str = "\n</tool_call>";

/// What stands between two calls of a turn.
pub(super) fn between() -> String {
    format!("{CLOSING}\n{OPENING}")
}

/// The talk without anything of tools that a template would have to know.
pub(super) fn retold(talk: &Talk) -> Talk {
    let mut turns: Vec<Turn> = talk.turns.iter().map(turn).collect();
    if let Some(tools) = talk.tools.as_ref().and_then(Json::as_array).filter(|all| !all.is_empty())
    {
        let tools = described(tools);
        let said = turns.first().filter(|turn| turn.role == "system").and_then(Turn::content);
        match said {
            Some(said) => turns[0] = Turn::plain("system", &format!("{said}\n\n{tools}")),
            None => turns.insert(0, Turn::plain("system", &tools)),
        }
    }
    Talk { turns, tools: None, documents: talk.documents.clone() }
}

fn described(tools: &[Json]) -> String {
    let lines: Vec<String> = tools.iter().map(Json::to_string).collect();
    format!(
        "You can call functions. Each line is one, with a JSON schema of its parameters:\n\
         <tools>\n{}\n</tools>\n\
         To call one, answer with its name and its arguments in this form:\n\
         {OPENING}{{\"name\": \"...\", \"arguments\": {{...}}}}{CLOSING}",
        lines.join("\n")
    )
}

fn turn(turn: &Turn) -> Turn {
    let said = turn.content().unwrap_or_default();
    let calls = turn.fields.get("tool_calls").and_then(Json::as_array).unwrap_or_default();
    match turn.role.as_str() {
        "tool" => Turn::plain("user", &format!("<tool_response>\n{said}\n</tool_response>")),
        role if !calls.is_empty() => {
            let all = calls.iter().filter_map(called);
            let parts = [said.to_owned()].into_iter().filter(|said| !said.is_empty()).chain(all);
            Turn::plain(role, &parts.collect::<Vec<_>>().join("\n"))
        }
        _ => turn.clone(),
    }
}

fn called(call: &Json) -> Option<String> {
    let function = call.as_object()?.get("function")?.as_object()?;
    let (name, arguments) = (function.get("name")?, function.get("arguments")?);
    Some(format!("{OPENING}{{\"name\": {name}, \"arguments\": {arguments}}}{CLOSING}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::wire::{self, Prompt};
    use serde_json::json;

    #[test]
    fn tools_calls_and_results_stand_in_turns_of_text() {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
        let body = json!({
            "messages": [
                {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"},
                {"role": "assistant", "content": null, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "7"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        });
        let ask = wire::chat(body.to_string().as_bytes()).unwrap();
        let Prompt::Messages(talk) = &ask.prompts[0] else { return };
        let told = retold(talk);
        assert!(told.tools.is_none());
        let said: Vec<_> =
            told.turns.iter().map(|turn| (turn.role.as_str(), turn.content().unwrap())).collect();
        assert!(said[0].1.starts_with("Be brief.\n\nYou can call"), "{}", said[0].1);
        assert!(said[0].1.contains("{\"type\":\"function\",\"function\":{\"name\":\"f\""));
        assert_eq!(
            said[2],
            ("assistant", "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n</tool_call>")
        );
        assert_eq!(said[3], ("user", "<tool_response>\n7\n</tool_response>"));
    }
}
