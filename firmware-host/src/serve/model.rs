//! The ports of serving over the real device: its inbox, its orders, the resident base.
//!
//! - A text runs with the weights that learn, beside a job; it keeps the adapter that it began with.

use super::{Device, Draw, Given, Model, ModelError};
use crate::device::{Current, Handle, Order, Served};
use crate::paused::OrderError;
use crate::status::Board;
use crate::sync::Fleet;
use crate::wire::{Prompt, Which};
use sapwood::generate::{GenerateError, Sampling};
use sapwood::inbox::{Aside, InboxError, Receipt};
use sapwood::intake;
use sapwood::tokenise::TokeniseError;
use std::ops::ControlFlow;
use std::sync::Arc;

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
        Arc::new(Snapshot { served: self.served().clone(), current })
    }
}

/// The base with what was in use when a text began.
struct Snapshot {
    served: Arc<Served>,
    current: Arc<Current>,
}

impl Model for Snapshot {
    fn generation(&self) -> Option<u64> {
        self.current.generation
    }

    fn context(&self) -> usize {
        self.served.engines.generator().context()
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

    fn write(
        &self,
        ids: &[u32],
        tokens: usize,
        draw: Draw,
        each: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, ModelError> {
        let Draw { temperature, top_p, seed } = draw;
        let sampling = Sampling { temperature, top_p, seed };
        let generator = self.served.engines.generator();
        let adapter = self.current.adapter.as_ref();
        let mut text = generator.start(ids, tokens, adapter, sampling).map_err(failed)?;
        let mut stream = self.served.tokeniser.stream(ids).map_err(undecoded)?;
        while let Some(id) = text.next_token().map_err(failed)? {
            let piece = stream.push(id).map_err(undecoded)?;
            if each(piece.as_deref().unwrap_or_default()).is_break() {
                break;
            }
        }
        let rest = stream.finish().map_err(undecoded)?.unwrap_or_default();
        // What stands for the bytes of a character that was not finished.
        Ok(rest.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned())
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
    use sapwood::adapter::Adapter;
    use sapwood::intake::Message;
    use sapwood::learner::{self, Engines};
    use sapwood::settings::Settings;
    use sapwood::tokenise::Tokeniser;
    use std::path::Path;

    /// The shipped base, which has byte tokens and no chat template.
    fn base() -> Snapshot {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/base");
        let engines = Engines::load(&folder, &Settings::default()).unwrap();
        let tokeniser = Tokeniser::open(&folder, engines.base.config().vocab).unwrap();
        let served = Arc::new(Served::new(engines, tokeniser, Current::default()));
        Snapshot { current: served.current(), served }
    }

    fn written(model: &Snapshot, prompt: &str, tokens: usize, seed: u64) -> (Vec<String>, String) {
        let given = model.read(&Prompt::Text(prompt.into())).unwrap();
        let draw = Draw { temperature: if seed == 0 { 0.0 } else { 1.5 }, top_p: 1.0, seed };
        let mut pieces = Vec::new();
        let mut each = |piece: &str| {
            pieces.push(piece.to_owned());
            ControlFlow::Continue(())
        };
        let tail = model.write(&given.ids, tokens, draw, &mut each).unwrap();
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
        let draw = Draw { temperature: 0.0, top_p: 1.0, seed: 0 };
        let mut pieces = Vec::new();
        let mut each = |piece: &str| {
            pieces.push(piece.to_owned());
            if pieces.len() == 3 {
                let (generation, adapter) = (Some(9), adapter.take());
                model.served.swap(Current { generation, adapter, ..Current::default() });
            }
            ControlFlow::Continue(())
        };
        model.write(&given.ids, 12, draw, &mut each).unwrap();
        assert_eq!(pieces, alone);
        let next = Snapshot { current: model.served.current(), served: model.served.clone() };
        assert_eq!(next.generation(), Some(9));
        assert_ne!(written(&next, "The temperature of the", 12, 0).0, alone);
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
