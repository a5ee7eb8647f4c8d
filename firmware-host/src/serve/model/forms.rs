//! What a text of the real model is held to: a schema, or calls in the model's own dialect.
//!
//! - A call that is forced is given its opening as a part of the prompt; one that may come is held from where
//!   the text says that it begins.
//! - Invariant: an answer that calls, calls a function of the request, with arguments that fit.

use super::super::{Given, Manner, ModelError};
use super::{Snapshot, retold, undecoded, unreadable};
use crate::wire::{Calls, Form, How};
use sapwood::constrain::{Constraint, Schema};
use sapwood::intake::Talk;
use sapwood::tokenise::{Dialect, Spelling, Tools};

impl Snapshot {
    /// What holds a text of a request to its form; none where it has none.
    pub(super) fn constraint(&self, how: &How) -> Result<Option<Constraint>, ModelError> {
        let Some(form) = &how.form else { return Ok(None) };
        if let Some((_, made)) = self.form.get().filter(|(known, _)| known == form) {
            return Ok(Some(made.clone()));
        }
        let param = form.param();
        let failed = |source| ModelError::Form { param, source };
        let constrainer = self.served.constrainer().map_err(failed)?;
        let held =
            |schema: &Schema| constrainer.schema(schema).map_err(|error| failed(Box::new(error)));
        let made = match form {
            Form::Json(schema) => held(schema)?,
            Form::Calls(calls) => {
                let manner = self.manner(calls)?;
                let functions = calls.functions.iter();
                let all: Vec<_> =
                    functions.map(|one| (one.name.as_str(), &one.arguments)).collect();
                let schema = Schema::call(&all, manner.arguments);
                let made = held(&schema.map_err(|error| failed(Box::new(error)))?)?;
                let made = match manner.closing {
                    Some(_) => made.again_after(&manner.marker),
                    None => made,
                };
                if calls.is_forced { made } else { made.after(&manner.marker) }
            }
        };
        // All texts of a request have one form; another is compiled anew.
        let _ = self.form.set((form.clone(), made.clone()));
        Ok(Some(made))
    }

    /// How this model's answers call a function, and the opening of one that must.
    fn dialect(&self) -> (Dialect, bool) {
        let plain = |opening: &str, between| Dialect {
            opening: opening.to_owned(),
            arguments: "arguments",
            between,
        };
        match self.served.tools() {
            Tools::Unread => (plain(retold::OPENING, Some(retold::between())), true),
            Tools::Read(Some(dialect)) => (dialect.clone(), true),
            Tools::Read(None) => (plain("", None), false),
        }
    }

    fn manner(&self, calls: &Calls) -> Result<Manner, ModelError> {
        let (dialect, is_known) = self.dialect();
        let marker = dialect.marker().to_owned();
        // A special token is not seen in a text.
        let is_special = |one: &Spelling| matches!(one, Spelling::Special(name) if *name == marker);
        let spellings = self.served.spellings().map_err(undecoded)?;
        let is_hidden = spellings.iter().any(is_special);
        if !calls.is_forced && (!is_known || is_hidden) {
            let expected = "none, required or a function: how this model begins a call is not known                             from its chat template, or no text";
            let (expected, got) = (expected.to_owned(), "auto".to_owned());
            return Err(ModelError::Wish { param: "tool_choice", expected, got });
        }
        let closing = dialect.closing().filter(|_| calls.several && !is_hidden).map(str::to_owned);
        if calls.several && closing.is_none() {
            let expected =
                "false: how this model writes several calls is not known from its chat template";
            let (expected, got) = (expected.to_owned(), "true".to_owned());
            return Err(ModelError::Wish { param: "parallel_tool_calls", expected, got });
        }
        Ok(Manner { marker, arguments: dialect.arguments, is_forced: calls.is_forced, closing })
    }

    /// A conversation as a prompt.
    pub(super) fn talk(&self, talk: &Talk, how: &How) -> Result<Given, ModelError> {
        let manner = match &how.form {
            Some(Form::Calls(calls)) => Some(self.manner(calls)?),
            _ => None,
        };
        let forced = manner.as_ref().filter(|manner| manner.is_forced);
        let opening = forced.map(|_| self.dialect().0.opening).unwrap_or_default();
        let tokeniser = &self.served.tokeniser;
        let ids = match self.served.tools() {
            Tools::Unread => tokeniser.encode_chat(&retold::retold(talk), &opening),
            Tools::Read(_) => tokeniser.encode_chat(talk, &opening),
        };
        Ok(Given { ids: ids.map_err(unreadable)?, text: String::new(), manner })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::super::super::calls::{Part, Reader};
    use super::super::super::{Draw, Model, Token};
    use super::*;
    use crate::device::{Bounds, Current, Served};
    use crate::wire::{self, Ask};
    use sapwood::learner::Engines;
    use sapwood::settings::Settings;
    use sapwood::tokenise::Tokeniser;
    use serde_json::{Value, json};
    use std::fs;
    use std::ops::ControlFlow;
    use std::path::Path;
    use std::sync::Arc;

    /// As Qwen's: tools in the system's turn, calls and results in marks of their own.
    const QWEN: &str = "{% if tools %}<|im_start|>system\nTools:\n{% for tool in tools %}{{ tool|tojson }}\n{% endfor %}\
        <|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
        {% for call in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ call.function.name }}\", \"arguments\": \
        {{ call.function.arguments|tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    /// As SmolLM2's: of tools it knows nothing.
    const PLAIN: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";
    /// Calls that are no JSON.
    const PYTHON: &str = "{% if tools %}{{ tools|tojson }}{% endif %}{% for m in messages %}{{ m.content }}\
        {% for call in m.tool_calls or [] %}[{{ call.function.name }}()]{% endfor %}{% endfor %}";

    /// The shipped base with a chat template.
    fn base(template: &str) -> Snapshot {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/base");
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(shipped.join(file), folder.path().join(file)).unwrap();
        }
        fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        let engines = Engines::load(folder.path(), &Settings::default()).unwrap();
        let tokeniser = Tokeniser::open(folder.path(), engines.base.config().vocab).unwrap();
        let bounds = Bounds { prompt_cache_bytes: 64 << 20, adapters: 2, block_tokens: 64 };
        let served = Arc::new(Served::new(engines, tokeniser, Current::default(), bounds));
        Snapshot::new(&served, served.current())
    }

    fn tools() -> Value {
        let heat = json!({
            "type": "object", "required": ["room", "celsius"], "additionalProperties": false,
            "properties": {"room": {"$ref": "#/$defs/room"}, "celsius": {"type": "integer", "minimum": 5, "maximum": 30}},
            "$defs": {"room": {"enum": ["hall", "cellar"]}},
        });
        let log = json!({
            "type": "object", "required": ["lines"], "additionalProperties": false,
            "properties": {"lines": {"type": "array", "maxItems": 2, "items": {"type": "string", "maxLength": 6}}},
        });
        let function = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
        json!([function("set_heat", heat), function("log", log), function("stop", Value::Null)])
    }

    fn ask(choice: &Value, temperature: f64) -> Ask {
        let body = json!({
            "messages": [{"role": "user", "content": "The hall is cold."}], "tools": tools(),
            "tool_choice": choice, "temperature": temperature,
        });
        wire::chat(body.to_string().as_bytes()).unwrap()
    }

    /// The text of an answer, its calls, and whether the last one is whole.
    fn told(
        model: &Snapshot,
        ask: &Ask,
        seed: u64,
        tokens: usize,
    ) -> (String, Vec<(String, String)>, bool) {
        model.admits(&ask.how).unwrap();
        let given = model.read(&ask.prompts[0], &ask.how).unwrap();
        let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
        let mut reader = Reader::new(given.manner.as_ref());
        let mut each = |token: Token<'_>| {
            for part in reader.push(token.text) {
                match part {
                    Part::Text(piece) => text += &piece,
                    Part::Name(name) => calls.push((name, String::new())),
                    Part::Arguments(piece) => calls.last_mut().unwrap().1 += &piece,
                }
            }
            if reader.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let draw = Draw { how: &ask.how, seed, likeliest: None };
        model.write(&given.ids, tokens, draw, &mut each).unwrap();
        (text, calls, reader.has_called())
    }

    /// The text of an answer, the function that it calls, and the arguments where they are whole.
    fn answered(
        model: &Snapshot,
        ask: &Ask,
        seed: u64,
        tokens: usize,
    ) -> (String, String, Option<String>) {
        let (text, mut calls, is_whole) = told(model, ask, seed, tokens);
        assert!(calls.len() < 2);
        let (name, arguments) = calls.pop().unwrap_or_default();
        (text, name, is_whole.then_some(arguments))
    }

    fn judge(name: &str) -> jsonschema::Validator {
        let tools = tools();
        let all = tools.as_array().unwrap().iter();
        let tool = all.into_iter().find(|tool| tool["function"]["name"] == name).unwrap();
        let none = json!({"type": "object", "maxProperties": 0});
        let parameters = &tool["function"]["parameters"];
        jsonschema::validator_for(if parameters.is_null() { &none } else { parameters }).unwrap()
    }

    /// Goal: every call that is forced is one of the functions, with arguments that fit, unless it was cut.
    /// Oracle: the crate jsonschema. Seeds 0 to 5, greedy and hot, in the dialect of the template or in plain
    /// words.
    #[test]
    fn every_call_that_is_forced_fits() {
        let named = json!({"type": "function", "function": {"name": "log"}});
        let (mut called, mut cut) = (Vec::new(), 0);
        for template in [QWEN, PLAIN, PYTHON] {
            let model = base(template);
            for seed in 0..6 {
                let temperature = if seed == 0 { 0.0 } else { 1.3 };
                for choice in [json!("required"), named.clone()] {
                    let (text, name, arguments) =
                        answered(&model, &ask(&choice, temperature), seed, 120);
                    assert!(text.is_empty() && (choice == "required" || name == "log"), "{text}");
                    let Some(arguments) = arguments else {
                        cut += 1;
                        continue;
                    };
                    let given: Value = serde_json::from_str(&arguments).unwrap();
                    assert!(judge(&name).is_valid(&given), "{name}: {arguments}");
                    called.push(name);
                }
            }
        }
        assert!(called.len() > 30, "{cut} of 36 calls were cut");
        assert!(called.iter().any(|name| name != "log"));
    }

    /// Goal: of an answer that may have several calls each fits, the forced one and what the model adds.
    /// Oracle: the crate jsonschema.
    #[test]
    fn each_of_several_calls_fits() {
        let several = |temperature| {
            let mut ask = ask(&json!("required"), temperature);
            let Some(Form::Calls(calls)) = &mut ask.how.form else { unreachable!() };
            calls.several = true;
            ask
        };
        let mut whole = 0;
        for template in [QWEN, PLAIN] {
            let (model, ask) = (base(template), several(1.3));
            let given = model.read(&ask.prompts[0], &ask.how).unwrap();
            assert_eq!(given.manner.unwrap().closing.as_deref(), Some("</tool_call>"));
            for seed in 0..4 {
                let (_, mut calls, is_whole) = told(&model, &ask, seed, 160);
                calls.truncate(if is_whole { calls.len() } else { calls.len().saturating_sub(1) });
                for (name, arguments) in calls {
                    let given: Value = serde_json::from_str(&arguments).unwrap();
                    assert!(judge(&name).is_valid(&given), "{name}: {arguments}");
                    whole += 1;
                }
            }
        }
        assert!(whole > 3, "{whole}");
        let refused = base(PYTHON).admits(&several(0.0).how).unwrap_err().to_string();
        assert!(refused.starts_with("parallel_tool_calls: expected false"), "{refused}");
    }

    #[test]
    fn a_forced_call_begins_as_the_template_writes_one() {
        let of = |template: &str, choice: Value| {
            let model = base(template);
            let ask = ask(&choice, 0.0);
            let given = model.read(&ask.prompts[0], &ask.how).unwrap();
            (model.served.tokeniser.decode(&given.ids).unwrap(), given.manner)
        };
        let (prompt, manner) = of(QWEN, json!("required"));
        assert!(prompt.ends_with("<|im_start|>assistant\n<tool_call>\n"), "{prompt}");
        assert!(manner.is_some_and(|manner| manner.is_forced));
        let (prompt, manner) = of(QWEN, json!("auto"));
        assert!(
            prompt.ends_with("<|im_start|>assistant\n") && prompt.contains("\"set_heat\""),
            "{prompt}"
        );
        assert_eq!(manner.map(|manner| manner.marker).as_deref(), Some("<tool_call>"));
        let (prompt, manner) = of(QWEN, json!("none"));
        assert!(prompt.contains("\"set_heat\"") && manner.is_none(), "{prompt}");
        let (prompt, _) = of(PLAIN, json!("required"));
        assert!(prompt.contains("<|system|>You can call functions."), "{prompt}");
        assert!(prompt.ends_with("<|assistant|><tool_call>\n"), "{prompt}");
    }

    #[test]
    fn an_answer_that_may_call_is_text_where_it_does_not() {
        for template in [QWEN, PLAIN] {
            let (text, name, _) = answered(&base(template), &ask(&json!("auto"), 0.0), 0, 12);
            assert!(!text.is_empty() && name.is_empty());
        }
        let unknown = base(PYTHON);
        let refused = unknown.admits(&ask(&json!("auto"), 0.0).how).unwrap_err().to_string();
        assert!(refused.starts_with("tool_choice: expected none, required"), "{refused}");
    }
}
