//! Chat templates: a conversation to the text that the model was taught, and whose words are whose.
//!
//! Rendered as transformers does: blocks trimmed, Python's string methods, `raise_exception`,
//! `strftime_now`, the special tokens by name, no tools.

use super::{TokeniseError, Value};
use crate::intake::Message;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value as Jinja;
use minijinja::{Environment, Error, ErrorKind, context};
use std::ops::Range;
use std::path::Path;
use std::{fs, io};

const NAME: &str = "chat";

/// `strftime` codes of 26 July 2024, the day that Llama's own templates fall back to.
const DAY: [(&str, &str); 12] = [
    ("%d", "26"),
    ("%b", "Jul"),
    ("%B", "July"),
    ("%m", "07"),
    ("%Y", "2024"),
    ("%y", "24"),
    ("%a", "Fri"),
    ("%A", "Friday"),
    ("%j", "208"),
    ("%H", "00"),
    ("%M", "00"),
    ("%S", "00"),
];

/// The chat template of a model folder.
pub(super) struct Chat {
    environment: Environment<'static>,
}

/// A rendered conversation.
pub(super) struct Rendered {
    /// The whole text.
    pub(super) text: String,
    /// Bytes of it that the assistant said, end marks included.
    pub(super) answers: Vec<Range<usize>>,
    /// Turns of the assistant whose place could not be found.
    pub(super) lost: usize,
}

impl Chat {
    /// The template in its own file, else in `tokenizer_config.json`; none when there is none.
    pub(super) fn open(path: &Path, config: &Value) -> Result<Option<Self>, TokeniseError> {
        let source = match fs::read_to_string(path) {
            Ok(source) => Some(source),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                template(config).map(str::to_owned)
            }
            Err(source) => return Err(TokeniseError::Read { path: path.to_owned(), source }),
        };
        source.map(|source| Self::new(source, config)).transpose()
    }

    fn new(source: String, config: &Value) -> Result<Self, TokeniseError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| {
            DAY.iter().fold(format, |text, (code, value)| text.replace(code, value))
        });
        environment.add_template_owned(NAME, known_tags(source))?;
        for name in ["bos_token", "eos_token", "unk_token", "pad_token"] {
            if let Some(token) = special(config, name) {
                environment.add_global(name, token.to_owned());
            }
        }
        Ok(Self { environment })
    }

    /// The text of a conversation; with `prompt`, up to where the assistant is to speak.
    pub(super) fn render(&self, messages: &[Message], prompt: bool) -> Result<String, Error> {
        let messages: Vec<Jinja> = messages
            .iter()
            .map(|message| {
                context! { role => message.role.as_str(), content => message.content.as_str() }
            })
            .collect();
        self.environment.get_template(NAME)?.render(context! {
            messages => messages,
            add_generation_prompt => prompt,
            tools => Jinja::from(()),
            documents => Jinja::from(()),
        })
    }

    /// The text and the spans of the assistant, found by rendering the turns before each.
    ///
    /// Templates that write an earlier turn differently once another follows hide its place: such a turn
    /// is counted in `lost` and not learned.
    pub(super) fn answers(&self, messages: &[Message]) -> Result<Rendered, Error> {
        let text = self.render(messages, false)?;
        let (mut answers, mut lost) = (Vec::new(), 0);
        for (index, message) in messages.iter().enumerate() {
            if message.role != "assistant" {
                continue;
            }
            match self.span(messages, index, &text) {
                Some(span) => answers.push(span),
                None => lost += 1,
            }
        }
        Ok(Rendered { text, answers, lost })
    }

    /// Where turn `index` stands in `text`, if the turns up to it render to a beginning of `text`.
    fn span(&self, messages: &[Message], index: usize, text: &str) -> Option<Range<usize>> {
        let (before, through) = (messages.get(..index)?, messages.get(..=index)?);
        let end = self.prefix(through, false, text)?;
        // Some templates prompt with more than they write for a turn that was said.
        let start = self.prefix(before, true, text).or_else(|| self.prefix(before, false, text))?;
        (start < end).then_some(start..end)
    }

    fn prefix(&self, messages: &[Message], prompt: bool, text: &str) -> Option<usize> {
        let part = self.render(messages, prompt).ok()?;
        text.starts_with(&part).then_some(part.len())
    }
}

/// The template of `tokenizer_config.json`: a string, or the one named `default` in a list.
fn template(config: &Value) -> Option<&str> {
    let named = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
    match config.get("chat_template")? {
        Value::Array(list) => list.iter().find(named)?.get("template")?.as_str(),
        template => template.as_str(),
    }
}

/// A special token of `tokenizer_config.json`: a string, or an object with `content`.
pub(super) fn special<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Transformers' own `generation` tag only marks text; here it is a block that is always there.
fn known_tags(mut source: String) -> String {
    for open in ["{% ", "{%- "] {
        for (tag, known) in [("generation ", "if true "), ("endgeneration ", "endif ")] {
            source = source.replace(&format!("{open}{tag}"), &format!("{open}{known}"));
        }
    }
    source
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    const CHATML: &str = "{% for message in messages %}\n\
        {{ '<|' + message['role'] + '|>' + message['content'].strip() + eos_token }}\n\
        {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

    fn chat(source: &str) -> Chat {
        let config = serde_json::json!({"eos_token": {"content": "</s>"}, "bos_token": "<s>"});
        Chat::new(source.to_owned(), &config).unwrap()
    }

    fn turns(roles: &[(&str, &str)]) -> Vec<Message> {
        let message = |(role, content): &(&str, &str)| Message {
            role: (*role).to_owned(),
            content: (*content).to_owned(),
        };
        roles.iter().map(message).collect()
    }

    fn said(rendered: &Rendered) -> Vec<&str> {
        rendered.answers.iter().map(|span| &rendered.text[span.clone()]).collect()
    }

    #[test]
    fn the_spans_are_what_the_assistant_said_with_its_end_mark() {
        let talk = turns(&[("user", " a "), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
        let rendered = chat(CHATML).answers(&talk).unwrap();
        assert_eq!(rendered.text.lines().count(), 4);
        assert!(rendered.text.starts_with("<|user|>a</s>\n<|assistant|>b</s>\n"));
        assert_eq!(said(&rendered), ["b</s>\n", "d</s>\n"]);
        assert_eq!(rendered.lost, 0);
        assert!(chat(CHATML).render(&talk[..1], true).unwrap().ends_with("</s>\n<|assistant|>"));
    }

    #[test]
    fn a_turn_that_later_turns_rewrite_is_not_learned_and_is_counted() {
        let forgetful = "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}[cut]\
            {% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}";
        let talk = turns(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
        let rendered = chat(forgetful).answers(&talk).unwrap();
        assert_eq!((said(&rendered), rendered.lost), (vec!["[assistant]d"], 1));
    }

    #[test]
    fn a_template_may_raise_name_the_day_and_mark_generations() {
        let refusing = chat("{{ raise_exception('roles must alternate') }}");
        assert!(refusing.render(&[], false).unwrap_err().to_string().contains("must alternate"));
        let dated = chat("{{ strftime_now('%d %b %Y') }}{{ tools is none }}");
        assert_eq!(dated.render(&[], false).unwrap(), "26 Jul 2024True");
        let marked = chat("a {%- generation -%} b {% endgeneration %}c");
        assert_eq!(marked.render(&[], false).unwrap(), "ab c");
    }

    #[test]
    fn the_template_is_a_string_or_the_default_of_a_list() {
        let list = serde_json::json!({"chat_template": [
            {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
        assert_eq!(template(&list), Some("d"));
        assert_eq!(template(&serde_json::json!({"chat_template": "s"})), Some("s"));
        assert_eq!(template(&serde_json::json!({})), None);
    }
}
