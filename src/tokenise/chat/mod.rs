//! Chat templates: a conversation to the text that the model was taught, and whose words are whose.
//!
//! Rendered as transformers does: Jinja2 in a sandbox, blocks trimmed, `tojson`, `raise_exception`,
//! `strftime_now`, `generation`, the special tokens by name, every field of every turn, and tools. What the
//! engine cannot do as Jinja2 does is refused by its name and line.
//! - In: the template of a model folder, a [`Talk`]. Out: text, and the spans in it.
//! - The files, in the order of their use: `python` writes values, `methods` has what they can do,
//!   `strftime` the day, `source` rewrites what the engine does not know, `library` gives it Jinja2's
//!   names, `spans` tells who said what, `calls` how functions are called.

mod python;

mod methods;
mod source;
mod strftime;

mod library;

mod spans;

mod calls;

pub use calls::{Dialect, Tools};

use super::{TokeniseError, Value};
use crate::intake::{Json, Object, Talk, Turn};
use library::MARKS;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value as Jinja;
use minijinja::{Environment, Error, context};
use std::path::Path;
use std::{fs, io};

/// The template for every conversation, and the one for those with tools where there are two.
const NAMES: [&str; 2] = ["chat", "tool_use"];
/// What a name has added where the assistant's words are marked.
const MARKED: &str = ", marked";
/// Special tokens that a template may name.
const SPECIAL: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];
/// Names of what a turn thought, the first that is there counts.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The chat template of a model folder.
pub(super) struct Chat {
    environment: Environment<'static>,
    /// Each as the folder has it.
    sources: Vec<String>,
    /// Which of them mark what the assistant says.
    marks: Vec<bool>,
}

impl Chat {
    /// The template in its own file, else in `tokenizer_config.json`; none when there is none.
    pub(super) fn open(path: &Path, config: &Value) -> Result<Option<Self>, TokeniseError> {
        let sources = match fs::read_to_string(path) {
            Ok(source) => vec![source],
            Err(error) if error.kind() == io::ErrorKind::NotFound => templates(config),
            Err(source) => return Err(TokeniseError::Read { path: path.to_owned(), source }),
        };
        Ok(if sources.is_empty() { None } else { Some(Self::new(sources, config)?) })
    }

    fn new(sources: Vec<String>, config: &Value) -> Result<Self, TokeniseError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(methods::call);
        library::furnish(&mut environment);
        let mut marks = Vec::new();
        for (name, source) in NAMES.iter().zip(&sources) {
            let known = source::known(source)?;
            // Without marks the same filter gives back what it is given.
            let plain = known.text.replace(source::SAID, "string");
            environment.add_template_owned(*name, plain)?;
            if known.marks {
                environment.add_template_owned(format!("{name}{MARKED}"), known.text)?;
            }
            marks.push(known.marks);
        }
        for name in SPECIAL {
            if let Some(token) = special(config, name) {
                environment.add_global(name, token.to_owned());
            }
        }
        Ok(Self { environment, sources, marks })
    }

    /// The text of a conversation; with `prompt`, up to where the assistant is to speak.
    ///
    /// # Errors
    /// What the template raises or cannot do, and what of the conversation it does not read.
    pub(super) fn render(&self, talk: &Talk, prompt: bool) -> Result<String, TokeniseError> {
        let at = self.chosen(talk);
        self.check(talk, at)?;
        let text = self.write(NAMES[at], talk, prompt)?;
        // A list of parts that the template takes for text comes out as Python writes lists.
        let lists = talk.turns.iter().filter_map(|turn| turn.fields.get("content"));
        for list in lists.filter(|content| content.as_array().is_some()) {
            if text.contains(&python::text(&value(list))) {
                return Err(TokeniseError::Unread { what: "content that is a list of parts" });
            }
        }
        Ok(text)
    }

    /// The same with [`MARKS`] around what the template says is the assistant's, if it says so.
    fn render_marked(&self, talk: &Talk) -> Result<Option<String>, TokeniseError> {
        let at = self.chosen(talk);
        match self.marks.get(at) {
            Some(true) => Ok(Some(self.write(&format!("{}{MARKED}", NAMES[at]), talk, false)?)),
            _ => Ok(None),
        }
    }

    /// Which template: the one for tools where there are tools and it is there.
    fn chosen(&self, talk: &Talk) -> usize {
        usize::from(talk.tools.is_some() && self.sources.len() > 1)
    }

    fn write(&self, name: &str, talk: &Talk, prompt: bool) -> Result<String, Error> {
        let messages: Vec<Jinja> = talk.turns.iter().map(message).collect();
        let beside = |list: &Option<Json>| list.as_ref().map_or_else(|| Jinja::from(()), value);
        self.environment.get_template(name)?.render(context! {
            messages => messages,
            add_generation_prompt => prompt,
            tools => beside(&talk.tools),
            documents => beside(&talk.documents),
        })
    }

    /// Refuses what the template would leave out because it has no word for it.
    fn check(&self, talk: &Talk, at: usize) -> Result<(), TokeniseError> {
        let source = self.sources.get(at).map_or("", String::as_str);
        let needs = |what, names: &[&str]| match names.iter().any(|name| source.contains(name)) {
            true => Ok(()),
            false => Err(TokeniseError::Unread { what }),
        };
        let is_some = |list: &Option<Json>| list.as_ref().is_some_and(|list| !list.is_blank());
        if is_some(&talk.tools) {
            needs("tools", &["tools"])?;
        }
        if is_some(&talk.documents) {
            needs("documents", &["documents"])?;
        }
        for turn in &talk.turns {
            let has = |key: &str| turn.fields.get(key).is_some_and(|value| !value.is_blank());
            if has("tool_calls") {
                needs("tool_calls", &["tool_calls"])?;
            }
            if REASONING.iter().any(|key| has(key)) {
                needs("reasoning_content", &REASONING)?;
            }
        }
        Ok(())
    }
}

/// A turn as transformers gives it: what was thought under each of its names.
fn message(turn: &Turn) -> Jinja {
    let Object(fields) = &turn.fields;
    let mut pairs: Vec<(Jinja, Jinja)> = Vec::new();
    let thought = REASONING.iter().find_map(|key| turn.fields.get(key)).map(value);
    if let Some(thought) = thought.clone().filter(|_| !turn.fields.has("thinking")) {
        pairs.push((Jinja::from("thinking"), thought));
    }
    pairs.extend(fields.iter().map(|(key, of)| (Jinja::from(key.as_str()), value(of))));
    if let Some(thought) = thought.filter(|_| !turn.fields.has("reasoning_content")) {
        pairs.push((Jinja::from("reasoning_content"), thought));
    }
    Jinja::from_pairs(pairs)
}

fn value(json: &Json) -> Jinja {
    match json {
        Json::Null => Jinja::from(()),
        Json::Bool(is) => Jinja::from(*is),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Jinja::from(number),
            (None, Some(number)) => Jinja::from(number),
            (None, None) => Jinja::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Jinja::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(Object(pairs)) => {
            Jinja::from_pairs(pairs.iter().map(|(key, of)| (Jinja::from(key.as_str()), value(of))))
        }
    }
}

/// The templates of `tokenizer_config.json`: a string, or of a list the one named `default` and the one
/// named `tool_use`.
fn templates(config: &Value) -> Vec<String> {
    let template = match config.get("chat_template") {
        Some(Value::Array(list)) => list,
        template => {
            return template.and_then(Value::as_str).map(str::to_owned).into_iter().collect();
        }
    };
    let named = |name: &str| {
        let found =
            template.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
        found.and_then(|entry| Some(entry.get("template")?.as_str()?.to_owned()))
    };
    let default = named("default");
    let tools = default.as_ref().and_then(|_| named("tool_use"));
    default.into_iter().chain(tools).collect()
}

/// A special token of `tokenizer_config.json`: a string, or an object with `content`.
pub(super) fn special<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod golden;
