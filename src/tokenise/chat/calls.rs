//! How a model writes a call of a function, read off what its template makes of one.
//!
//! - In: a template. Out: a [`Dialect`], where a call is a JSON object of a name and arguments after some
//!   opening; none where it is written otherwise, or where the template knows no calls.

use super::{Chat, NAMES};
use crate::intake::{Json, Object, Talk, Turn};
use serde_json::Value;

/// Names and values that no template writes by itself.
const FUNCTION: &str = "sapwood_probe";
const KEY: &str = "sapwood_key";
/// What arguments are called: by most, and by Llama 3.
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];

/// How a model writes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// What stands between where the assistant is to speak and the call.
    pub opening: String,
    /// The key of the arguments; that of the function is `name`.
    pub arguments: &'static str,
    /// What stands between the first call of an answer and a second one, where that begins as the first.
    pub between: Option<String>,
}

impl Dialect {
    /// What a call begins after, wherever in an answer: the last word of the opening, or nothing.
    pub fn marker(&self) -> &str {
        self.opening.split_whitespace().next_back().unwrap_or_default()
    }

    /// What a call ends with before another may begin after the marker; none where a second is not written
    /// so.
    pub fn closing(&self) -> Option<&str> {
        let between = self.between.as_deref()?.trim_end();
        Some(between.strip_suffix(self.marker())?.trim())
    }
}

/// What a template knows of tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tools {
    /// It does not read them.
    Unread,
    /// It reads them, and shows a call in this dialect, if in one that is known.
    Read(Option<Dialect>),
}

impl Chat {
    /// What the template for conversations with tools knows of them: whether it shows one, and a call.
    pub(in crate::tokenise) fn tools(&self) -> Tools {
        let turns = vec![Turn::plain("user", "a")];
        let asked = Talk { turns, tools: Some(tools()), ..Talk::default() };
        let name = NAMES[self.chosen(&asked)];
        let written = |talk: &Talk, prompt| self.write(name, talk, prompt).unwrap_or_default();
        let prompt = written(&asked, true);
        if !prompt.contains(FUNCTION) {
            return Tools::Unread;
        }
        let said = |count: usize| {
            let turns = [&asked.turns[..], &[calls(count)]].concat();
            let talk = Talk { turns, ..asked.clone() };
            written(&talk, false).strip_prefix(&prompt).map(str::to_owned).unwrap_or_default()
        };
        Tools::Read(dialect(&said(1), &said(2)))
    }
}

/// The dialect of what was said in place of one call, and of two.
fn dialect(once: &str, twice: &str) -> Option<Dialect> {
    let (opening, arguments, _) = first(once)?;
    let dialect = Dialect { opening: opening.to_owned(), arguments, between: None };
    let between = first(twice).and_then(|(begins, _, rest)| {
        let (between, ..) = first(rest)?;
        let marker = dialect.marker();
        let is_alike = begins == opening && between.trim_end().ends_with(marker);
        (is_alike && !marker.is_empty()).then(|| between.to_owned())
    });
    Some(Dialect { between, ..dialect })
}

/// The first call in a text: what stands before it, the key of its arguments, and what follows.
fn first(said: &str) -> Option<(&str, &'static str, &str)> {
    said.match_indices('{').find_map(|(at, _)| {
        let (opening, call) = said.split_at(at);
        let mut read = serde_json::Deserializer::from_str(call).into_iter::<Value>();
        let value = read.next()?.ok()?;
        let is_call = value.get("name").is_some_and(|name| name == FUNCTION);
        let given = |key: &&&str| value.get(**key).is_some_and(|given| given.get(KEY).is_some());
        let arguments = ARGUMENTS.iter().find(given).filter(|_| is_call)?;
        Some((opening, *arguments, &call[read.byte_offset()..]))
    })
}

fn object(pairs: Vec<(&str, Json)>) -> Json {
    Json::Object(Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}

fn text(text: &str) -> Json {
    Json::String(text.to_owned())
}

fn tools() -> Json {
    let parameters = object(vec![("type", text("object")), ("properties", object(Vec::new()))]);
    let function =
        vec![("name", text(FUNCTION)), ("description", text("")), ("parameters", parameters)];
    Json::Array(vec![object(vec![("type", text("function")), ("function", object(function))])])
}

/// A turn that calls so often; the numbers of the calls are such that Mistral's templates take them.
fn calls(count: usize) -> Turn {
    let call = |number: usize| {
        let arguments = object(vec![(KEY, text("a"))]);
        let function = object(vec![("name", text(FUNCTION)), ("arguments", arguments)]);
        let id = text(&format!("a0b1c2d3{number}"));
        object(vec![("id", id), ("type", text("function")), ("function", function)])
    };
    let mut turn = Turn::plain("assistant", "");
    let calls = (0..count).map(call).collect();
    turn.fields.0.push(("tool_calls".to_owned(), Json::Array(calls)));
    turn
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::super::Chat;
    use super::*;
    use serde_json::json;

    fn tools(source: &str) -> Tools {
        let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
        Chat::new(vec![source.to_owned()], &config).unwrap().tools()
    }

    /// The shape of a template that shows tools and calls; `called` is how it writes one.
    fn template(called: &str) -> String {
        format!(
            "{{% if tools %}}{{{{ tools|tojson }}}}\n{{% endif %}}{{% for m in messages %}}<|{{{{ m.role }}}}|>\n\
             {{{{ m.content }}}}{{% for c in m.tool_calls or [] %}}{{% set f = c.function %}}{called}\
             {{% endfor %}}</s>\n{{% endfor %}}{{% if add_generation_prompt %}}<|assistant|>\n{{% endif %}}"
        )
    }

    #[test]
    fn a_call_is_written_as_the_template_writes_it() {
        let arguments = "arguments";
        let known = |opening: &str, arguments: &'static str, between: Option<&str>| {
            let between = between.map(str::to_owned);
            Tools::Read(Some(Dialect { opening: opening.to_owned(), arguments, between }))
        };
        let side_by_side = Some("\n</tool_call><tool_call>\n");
        let qwen = "<tool_call>\n{\"name\": \"{{ f.name }}\", \"arguments\": {{ f.arguments|tojson }}}\n</tool_call>";
        let found = tools(&template(qwen));
        assert_eq!(found, known("<tool_call>\n", arguments, side_by_side));
        let Tools::Read(Some(dialect)) = found else { return };
        assert_eq!((dialect.marker(), dialect.closing()), ("<tool_call>", Some("</tool_call>")));
        let llama =
            "{\"name\": \"{{ f.name }}\", \"parameters\": {{ f.arguments|tojson }}}".to_owned();
        assert_eq!(tools(&template(&llama)), known("", "parameters", None));
        let mistral =
            "[TOOL_CALLS][{{ {'name': f.name, 'arguments': f.arguments, 'id': c.id}|tojson }}]";
        let found = tools(&template(mistral));
        assert_eq!(found, known("[TOOL_CALLS][", arguments, Some("][TOOL_CALLS][")));
        let alone = format!(
            "{{% if m.tool_calls|length > 1 %}}{{{{ raise_exception('one') }}}}{{% endif %}}{qwen}"
        );
        assert_eq!(tools(&template(&alone)), known("<tool_call>\n", arguments, None));
        let thinking = format!("<think>\n\n</think>\n\n{qwen}");
        assert_eq!(
            tools(&template(&thinking)),
            known(
                "<think>\n\n</think>\n\n<tool_call>\n",
                arguments,
                Some("\n</tool_call><think>\n\n</think>\n\n<tool_call>\n")
            )
        );
    }

    #[test]
    fn other_ways_to_write_a_call_are_not_guessed() {
        let xml =
            "<tool_call><function={{ f.name }}>{{ f.arguments|tojson }}</function></tool_call>";
        let python = "[{{ f.name }}(key='a')]";
        for called in [xml, python, "", "{{ raise_exception('no calls') }}"] {
            assert_eq!(tools(&template(called)), Tools::Read(None), "{called}");
        }
        for unread in
            ["{{ messages[0].content }}", "{% for tool in xml_tools %}{{ tool }}{% endfor %}"]
        {
            assert_eq!(tools(unread), Tools::Unread);
        }
    }
}
