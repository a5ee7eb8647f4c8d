//! The ports of serving over the real device: its inbox, its orders, the resident base.
//!
//! - A text runs with the weights that learn, beside a job; it keeps the adapter that it began with.

use super::{Device, Draw, Given, Model, ModelError, Token, Written};
use crate::device::{Current, Handle, Order, Served};
use crate::paused::OrderError;
use crate::status::Board;
use crate::sync::Fleet;
use crate::wire::{How, Likely, Prompt, Scored, Which};
use sapwood::constrain::{Constraint, Schema};
use sapwood::generate::{GenerateError, Sampling, Score, Shaping, scores};
use sapwood::inbox::{Aside, InboxError, Receipt};
use sapwood::intake;
use sapwood::tokenise::{Spelling, TokeniseError};
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

impl Device for Handle {
    fn offer(&self, lines: &str) -> Result<Receipt, InboxError> {
        let refused = |error| {
            let lines = lines.lines().filter(|line| !line.trim().is_empty()).count() as u64;
            Handle::board(self).update(|status| status.inbox.refused += lines);
            error
        };
        let samples = intake::samples(lines, "batch").map_err(InboxError::from);
        let offered = samples.and_then(|all| Handle::offer(self, &all.iter().collect::<Vec<_>>()));
        offered.map_err(refused)
    }

    fn aside(&self) -> Result<Vec<Aside>, InboxError> {
        Handle::aside(self)
    }

    fn retry_aside(&self, number: u64) -> Result<bool, InboxError> {
        self.mend(|inbox| inbox.retry_aside(number))
    }

    fn drop_aside(&self, number: u64) -> Result<bool, InboxError> {
        self.mend(|inbox| inbox.drop_aside(number))
    }

    fn job_now(&self) -> Result<(), OrderError> {
        self.order(Order::JobNow)
    }

    fn pause(&self) -> Result<(), OrderError> {
        self.order(Order::Pause)
    }

    fn resume(&self) -> Result<(), OrderError> {
        self.order(Order::Resume)
    }

    fn fleet(&self) -> Option<&Fleet> {
        self.sync()
    }

    fn board(&self) -> &Board {
        Handle::board(self)
    }

    fn model(&self, which: Which) -> Arc<dyn Model> {
        let current = match which {
            Which::InUse => self.served().current(),
            Which::Base => Arc::new(Current::default()),
        };
        Arc::new(Snapshot { served: self.served().clone(), current, form: OnceLock::new() })
    }
}

/// The base with what was in use when a text began.
struct Snapshot {
    served: Arc<Served>,
    current: Arc<Current>,
    /// The schema of the request, and what holds a text to it.
    form: OnceLock<(Schema, Constraint)>,
}

impl Snapshot {
    /// What holds a text of a request to its schema; none where it has none.
    fn constraint(&self, how: &How) -> Result<Option<Constraint>, ModelError> {
        let Some(schema) = &how.form else { return Ok(None) };
        if let Some((_, made)) = self.form.get().filter(|(known, _)| known == schema) {
            return Ok(Some(made.clone()));
        }
        let constrainer = self.served.constrainer().map_err(ModelError::Form)?;
        let made = constrainer.schema(schema).map_err(|error| ModelError::Form(Box::new(error)))?;
        // All texts of a request have one schema; another is compiled anew.
        let _ = self.form.set((schema.clone(), made.clone()));
        Ok(Some(made))
    }

    fn likely(&self, score: Score) -> Result<Likely, ModelError> {
        let spellings = self.served.spellings().map_err(undecoded)?;
        let bytes = match spellings.get(score.id as usize) {
            Some(Spelling::Text(bytes)) => bytes.clone(),
            Some(Spelling::Special(name)) => name.clone().into_bytes(),
            Some(Spelling::None) | None => Vec::new(),
        };
        Ok(Likely { bytes, log: Some(score.log) })
    }

    /// What is told of token `id`, which was drawn from `logits`.
    fn scored(&self, logits: &[f32], id: u32, likeliest: usize) -> Result<Scored, ModelError> {
        let (own, first) = scores(logits, id, likeliest);
        let likeliest = first.into_iter().map(|one| self.likely(one));
        let likeliest = likeliest.collect::<Result<_, _>>()?;
        Ok(Scored { token: self.likely(own)?, likeliest, offset: 0 })
    }
}

impl Model for Snapshot {
    fn generation(&self) -> Option<u64> {
        self.current.generation
    }

    fn context(&self) -> usize {
        self.served.engines.generator().context()
    }

    fn admits(&self, how: &How) -> Result<(), ModelError> {
        self.constraint(how)?;
        let vocab = self.served.engines.base.config().vocab;
        match how.pushes.last() {
            Some((id, _)) if *id as usize >= vocab => {
                let (param, expected) = ("logit_bias", format!("token ids below {vocab}"));
                Err(ModelError::Wish { param, expected, got: id.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn read(&self, prompt: &Prompt) -> Result<Given, ModelError> {
        let tokeniser = &self.served.tokeniser;
        let text = |ids: &[u32]| tokeniser.decode(ids).map_err(unreadable);
        let given = match prompt {
            Prompt::Text(text) => {
                Given { ids: tokeniser.encode(text).map_err(unreadable)?, text: text.clone() }
            }
            Prompt::Ids(ids) => {
                let vocab = self.served.engines.base.config().vocab;
                if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
                    let why = format!("expected token ids below {vocab}, got {id}");
                    return Err(ModelError::Prompt(why.into()));
                }
                Given { text: text(ids)?, ids: ids.clone() }
            }
            Prompt::Messages(turns) => {
                let ids = tokeniser.encode_chat(turns).map_err(unreadable)?;
                Given { ids, text: String::new() }
            }
        };
        if given.ids.is_empty() {
            return Err(ModelError::Prompt("it has no tokens, expected at least one".into()));
        }
        Ok(given)
    }

    fn follow(
        &self,
        ids: &[u32],
        likeliest: usize,
        each: &mut dyn FnMut(Scored) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        let Some(&first) = ids.first() else { return Ok(()) };
        let token = Likely { log: None, ..self.likely(Score { id: first, log: 0.0 })? };
        if each(Scored { token, likeliest: Vec::new(), offset: 0 }).is_break() {
            return Ok(());
        }
        let mut problem = None;
        let mut one = |id: u32, logits: &[f32]| match self.scored(logits, id, likeliest) {
            Ok(scored) => each(scored),
            Err(error) => {
                problem = Some(error);
                ControlFlow::Break(())
            }
        };
        let adapter = self.current.adapter.as_ref();
        self.served.engines.generator().follow(ids, adapter, &mut one).map_err(failed)?;
        problem.map_or(Ok(()), Err)
    }

    fn write(
        &self,
        ids: &[u32],
        tokens: usize,
        draw: Draw<'_>,
        each: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Written, ModelError> {
        let Draw { how, seed, likeliest } = draw;
        let How { temperature, top_k, top_p, min_p, .. } = *how;
        let sampling = Sampling { temperature, top_k, top_p, min_p, seed };
        let shaping = Shaping {
            frequency: how.frequency,
            presence: how.presence,
            repetition: how.repetition,
            pushes: how.pushes.clone(),
        };
        let generator = self.served.engines.generator();
        let adapter = self.current.adapter.as_ref();
        let (served, whose) = (&self.served, self.current.whose);
        let read = how.caches.then(|| served.prompts.find(whose, ids)).flatten();
        let text = generator.start_after(read.as_deref(), ids, tokens, adapter, sampling);
        // It may go for another's sake while this text is written.
        drop(read);
        let mut text = text.map_err(failed)?.shaped(&shaping, ids);
        if let Some(constraint) = self.constraint(how)? {
            text = text.constrained(constraint);
        }
        let mut stream = self.served.tokeniser.stream(ids).map_err(undecoded)?;
        while let Some(id) = text.next_token().map_err(failed)? {
            let piece = stream.push(id).map_err(undecoded)?;
            let scored =
                likeliest.map(|count| self.scored(text.logits(), id, count)).transpose()?;
            if each(Token { text: piece.as_deref().unwrap_or_default(), scored }).is_break() {
                break;
            }
        }
        if how.caches && served.is_in_use(whose) {
            served.prompts.keep(whose, &text);
        }
        let rest = stream.finish().map_err(undecoded)?.unwrap_or_default();
        // What stands for the bytes of a character that was not finished.
        let rest = rest.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned();
        Ok(Written { rest, cached: text.shared() })
    }
}

fn unreadable(error: TokeniseError) -> ModelError {
    ModelError::Prompt(Box::new(error))
}

fn undecoded(error: TokeniseError) -> ModelError {
    ModelError::Failed(Box::new(error))
}

fn failed(error: GenerateError) -> ModelError {
    ModelError::Failed(Box::new(error))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::wire;
    use sapwood::adapter::Adapter;
    use sapwood::intake::Message;
    use sapwood::learner::{self, Engines};
    use sapwood::settings::Settings;
    use sapwood::tokenise::Tokeniser;
    use serde_json::{Value, json};
    use std::path::Path;

    /// The shipped base, which has byte tokens and no chat template.
    fn base() -> Snapshot {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/base");
        let engines = Engines::load(&folder, &Settings::default()).unwrap();
        let tokeniser = Tokeniser::open(&folder, engines.base.config().vocab).unwrap();
        let served = Arc::new(Served::new(engines, tokeniser, Current::default(), 1 << 20));
        Snapshot { current: served.current(), served, form: OnceLock::new() }
    }

    fn how(body: &Value) -> How {
        wire::completion(body.to_string().as_bytes()).unwrap().how
    }

    fn written(model: &Snapshot, prompt: &str, tokens: usize, seed: u64) -> (Vec<String>, String) {
        let given = model.read(&Prompt::Text(prompt.into())).unwrap();
        let body = json!({"prompt": "a", "temperature": if seed == 0 { 0.0 } else { 1.5 }});
        let draw = Draw { how: &how(&body), seed, likeliest: None };
        let mut pieces = Vec::new();
        let mut each = |token: Token<'_>| {
            pieces.push(token.text.to_owned());
            ControlFlow::Continue(())
        };
        let tail = model.write(&given.ids, tokens, draw, &mut each).unwrap().rest;
        (pieces, tail)
    }

    #[test]
    fn a_text_keeps_the_adapter_it_began_with_and_the_next_one_has_the_new() {
        let model = base();
        let alone = written(&model, "The temperature of the", 12, 0).0;
        let spec = learner::spec(model.served.engines.base.config(), &Settings::default()).unwrap();
        let adapter = Adapter { values: vec![0.1; spec.len()], spec };
        let mut adapter = Some(adapter);
        let given = model.read(&Prompt::Text("The temperature of the".into())).unwrap();
        let greedy = how(&json!({"prompt": "a", "temperature": 0}));
        let draw = Draw { how: &greedy, seed: 0, likeliest: None };
        let mut pieces = Vec::new();
        let mut each = |token: Token<'_>| {
            pieces.push(token.text.to_owned());
            if pieces.len() == 3 {
                let (generation, adapter) = (Some(9), adapter.take());
                model.served.swap(Current { generation, adapter, ..Current::default() });
            }
            ControlFlow::Continue(())
        };
        model.write(&given.ids, 12, draw, &mut each).unwrap();
        assert_eq!(pieces, alone);
        let (current, served) = (model.served.current(), model.served.clone());
        let next = Snapshot { current, served, form: OnceLock::new() };
        assert_eq!(next.generation(), Some(9));
        assert_ne!(written(&next, "The temperature of the", 12, 0).0, alone);
    }

    /// A prompt is read once: a second turn goes on from the first, unless it is told not to, and nothing is
    /// kept of an adapter that has gone.
    #[test]
    fn what_earlier_texts_read_is_not_read_again() {
        let model = base();
        let first = model.read(&Prompt::Text("The temperature of the".into())).unwrap().ids;
        let write = |model: &Snapshot, ids: &[u32], caches: bool| {
            let how = how(&json!({"prompt": "a", "temperature": 0, "cache_prompt": caches}));
            let (mut pieces, draw) = (Vec::new(), Draw { how: &how, seed: 0, likeliest: None });
            let mut each = |token: Token<'_>| {
                pieces.push(token.text.to_owned());
                ControlFlow::Continue(())
            };
            let cached = model.write(ids, 6, draw, &mut each).unwrap().cached;
            (pieces, cached)
        };
        let (alone, cached) = write(&model, &first, true);
        assert_eq!(cached, 0);
        let said = format!("The temperature of the{} and", alone.concat());
        let second = model.read(&Prompt::Text(said)).unwrap().ids;
        let (unread, cached) = write(&model, &second, false);
        assert_eq!(cached, 0);
        let (again, cached) = write(&model, &second, true);
        assert!(cached >= first.len() && cached < second.len(), "{cached} of {}", second.len());
        assert_eq!((again, write(&model, &first, true)), (unread, (alone, first.len() - 1)));

        // What is in use is another one now; what was under way keeps nothing for it.
        model.served.swap(Current { generation: Some(2), ..Current::default() });
        assert_eq!(model.served.prompts.bytes(), 0);
        write(&model, &first, true);
        assert_eq!(model.served.prompts.bytes(), 0);
        let (current, served) = (model.served.current(), model.served.clone());
        let next = Snapshot { current, served, form: OnceLock::new() };
        assert_eq!(write(&next, &first, true).1, 0);
        let current = Arc::new(Current::default());
        let bare = Snapshot { current, served: model.served.clone(), form: OnceLock::new() };
        assert_eq!(
            (write(&bare, &first, true).1, write(&next, &first, true).1),
            (0, first.len() - 1)
        );
        model.served.swap(Current::default());
        assert_eq!(write(&bare, &first, true).1, first.len() - 1, "the base stays");
    }

    /// What is told of a text as it is written, and what of the same text when it is read.
    #[test]
    fn a_text_is_as_likely_when_it_is_read_as_when_it_was_written() {
        let model = base();
        let prompt = model.read(&Prompt::Text("The temperature of the".into())).unwrap().ids;
        let greedy = how(&json!({"prompt": "a", "temperature": 0}));
        let draw = Draw { how: &greedy, seed: 0, likeliest: Some(3) };
        let mut written = Vec::new();
        let mut each = |token: Token<'_>| {
            written.extend(token.scored);
            ControlFlow::Continue(())
        };
        model.write(&prompt, 6, draw, &mut each).unwrap();
        let text: Vec<u8> = written.iter().flat_map(|one| one.token.bytes.clone()).collect();
        let text = String::from_utf8(text).unwrap();
        let whole = model.read(&Prompt::Text(format!("The temperature of the{text}"))).unwrap().ids;
        let mut read = Vec::new();
        let mut each = |scored: Scored| {
            read.push(scored);
            ControlFlow::Continue(())
        };
        model.follow(&whole, 3, &mut each).unwrap();
        assert_eq!((read.len(), read[0].token.log), (prompt.len() + 6, None));
        for (written, read) in written.iter().zip(&read[prompt.len()..]) {
            assert_eq!(written.token.bytes, read.token.bytes);
            let logs = [written.token.log.unwrap(), read.token.log.unwrap()];
            assert!((logs[0] - logs[1]).abs() < 1e-3, "{logs:?}");
            assert_eq!(written.token, written.likeliest[0], "greedy takes the likeliest");
            assert!(written.likeliest.is_sorted_by(|a, b| a.log >= b.log));
        }
    }

    /// The answers of a small base that knows no JSON, to the letter or cut short; greedy and drawn.
    #[test]
    fn an_answer_fits_its_schema_or_is_the_beginning_of_one_that_does() {
        let model = base();
        let ids = model.read(&Prompt::Text("The temperature of the".into())).unwrap().ids;
        let schema = json!({
            "type": "object", "required": ["room", "celsius"], "additionalProperties": false,
            "properties": {
                "room": {"enum": ["kitchen", "hall", "cellar"]},
                "celsius": {"type": "integer", "minimum": -20, "maximum": 40},
                "notes": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
            },
        });
        let form = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
        for seed in 0..12 {
            let body = json!({"prompt": "a", "response_format": form,
                "temperature": if seed == 0 { 0.0 } else { 1.5 }});
            let how = how(&body);
            model.admits(&how).unwrap();
            let draw = Draw { how: &how, seed, likeliest: None };
            let written = |tokens: usize| {
                let mut text = String::new();
                let mut each = |token: Token<'_>| {
                    text.push_str(token.text);
                    ControlFlow::Continue(())
                };
                let rest = model.write(&ids, tokens, draw, &mut each).unwrap().rest;
                text + &rest
            };
            let whole = written(200);
            let value: Value = serde_json::from_str(&whole).unwrap();
            // -0 is a whole number too, and none of i64.
            let celsius = value["celsius"].as_f64().unwrap();
            assert!((-20.0..=40.0).contains(&celsius) && celsius.fract() == 0.0, "{whole}");
            assert!(["kitchen", "hall", "cellar"].contains(&value["room"].as_str().unwrap()));
            assert!(value.as_object().unwrap().len() <= 3, "{whole}");
            assert!(whole.starts_with(&written(7)), "{whole}");
        }
        let none = how(&json!({"prompt": "a", "response_format": {"type": "json_object",
            "schema": {"type": "integer", "minimum": 2, "maximum": 1}}}));
        let refused = model.admits(&none).unwrap_err().to_string();
        assert!(refused.starts_with("response_format: the schema cannot be held to"), "{refused}");
    }

    /// A push of 100 is stronger than anything that the base says.
    #[test]
    fn what_a_request_says_of_single_tokens_and_of_what_was_said_holds() {
        let model = base();
        let ids = model.read(&Prompt::Text("The temperature of the".into())).unwrap().ids;
        let drawn = |body: Value| {
            let (how, mut count) = (how(&body), 0);
            let mut each = |_: Token<'_>| {
                count += 1;
                ControlFlow::Continue(())
            };
            let draw = Draw { how: &how, seed: 1, likeliest: None };
            model.write(&ids, 12, draw, &mut each).unwrap();
            count
        };
        let end = model.served.engines.base.config().eos[0].to_string();
        assert_eq!(drawn(json!({"prompt": "a", "temperature": 0})), 12);
        let pushed = json!({"prompt": "a", "temperature": 0, "logit_bias": {end: 100}});
        assert_eq!(drawn(pushed), 0);
        let beyond = how(&json!({"prompt": "a", "logit_bias": {"4096": 1}}));
        let refused = model.admits(&beyond).unwrap_err().to_string();
        assert_eq!(refused, "logit_bias: expected token ids below 4096, got 4096");
    }

    #[test]
    fn the_shipped_base_reads_and_writes() {
        let model = base();
        let (pieces, _) = written(&model, "The temperature of the", 12, 0);
        assert_eq!(pieces.len(), 12);
        assert_eq!(written(&model, "The temperature of the", 12, 0).0, pieces);
        // Hot draws reach byte tokens: whatever comes, characters are whole and none stands for half of one.
        for seed in 1..=3 {
            let (pieces, tail) = written(&model, "数据 →", 40, seed);
            assert!(pieces.len() <= 40);
            assert!(!tail.ends_with(char::REPLACEMENT_CHARACTER), "{tail}");
        }

        let ids = model.read(&Prompt::Text("ab".into())).unwrap().ids;
        let again = model.read(&Prompt::Ids(ids.clone())).unwrap();
        assert_eq!((again.ids, again.text.trim()), (ids, "ab"));
        let refused = |prompt: Prompt| model.read(&prompt).err().map(|error| error.to_string());
        let beyond = refused(Prompt::Ids(vec![4_096])).unwrap();
        assert!(beyond.contains("below 4096"), "{beyond}");
        let turn = Message { role: "user".into(), content: "a".into() };
        let talk = refused(Prompt::Messages(vec![turn])).unwrap();
        assert!(talk.contains("chat template"), "{talk}");
        assert!(refused(Prompt::Ids(Vec::new())).is_some());
    }
}
