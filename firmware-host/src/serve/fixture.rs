//! A device of memory for the tests: a parrot that says its prompt again, an inbox that counts.

use super::{Device, Draw, Given, Learner, Manner, Model, ModelError, Token, Written};
use crate::clock::Clock;
use crate::paused::OrderError;
use crate::status::Board;
use crate::wire::{self, BASE, Form, How, IN_USE, Likely, Listed, Prompt, Scored};
use sapwood::gate::Tally;
use sapwood::inbox::{Aside, InboxError, Receipt};
use sapwood::intake::{self, Turn};
use sapwood::ports::StorageError;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Says its prompt again, a character a token; after [`Parrot::held`] only as it is let.
#[derive(Default)]
pub(super) struct Parrot {
    gate: Option<Mutex<Receiver<()>>>,
    generation: Option<u64>,
}

impl Parrot {
    /// One that says a character only when one is let, or when nobody can let it any more.
    pub(super) fn held() -> (Self, Sender<()>) {
        let (sender, receiver) = channel();
        (Self { gate: Some(Mutex::new(receiver)), generation: Some(7) }, sender)
    }
}

impl Model for Parrot {
    fn generation(&self) -> Option<u64> {
        self.generation
    }

    fn context(&self) -> usize {
        1_000
    }

    fn admits(&self, how: &How) -> Result<(), ModelError> {
        match how.pushes.last() {
            Some((id, _)) if *id > u32::from(char::MAX) => {
                let (param, expected) = ("logit_bias", "a character".to_owned());
                Err(ModelError::Wish { param, expected, got: id.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn read(&self, prompt: &Prompt, how: &How) -> Result<Given, ModelError> {
        let text = match prompt {
            Prompt::Text(text) if text.contains("unreadable") => {
                return Err(ModelError::Prompt("no such letters".into()));
            }
            Prompt::Text(text) => text.clone(),
            Prompt::Ids(ids) => ids.iter().copied().filter_map(char::from_u32).collect(),
            Prompt::Messages(talk) => talk.turns.iter().filter_map(Turn::content).collect(),
        };
        let manner = match &how.form {
            Some(Form::Calls(calls)) => Some(Manner {
                marker: "<call>".to_owned(),
                arguments: "arguments",
                is_forced: calls.is_forced,
                closing: calls.several.then(|| "</call>".to_owned()),
            }),
            _ => None,
        };
        Ok(Given { ids: text.chars().map(u32::from).collect(), text, manner })
    }

    fn follow(
        &self,
        ids: &[u32],
        likeliest: usize,
        each: &mut dyn FnMut(Scored) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        let letters = ids.iter().copied().filter_map(char::from_u32).enumerate();
        for (at, letter) in letters {
            if each(scored(letter, likeliest, (at > 0).then_some(-2.0))).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(
        &self,
        ids: &[u32],
        tokens: usize,
        draw: Draw<'_>,
        each: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Written, ModelError> {
        for letter in ids.iter().copied().filter_map(char::from_u32).take(tokens) {
            if letter == '!' {
                return Err(ModelError::Failed("it flew away".into()));
            }
            if let Some(gate) = &self.gate {
                let _ = gate.lock().map(|gate| gate.recv());
            }
            let scored = draw.likeliest.map(|count| scored(letter, count, Some(-1.0)));
            if each(Token { text: &letter.to_string(), scored }).is_break() {
                break;
            }
        }
        Ok(Written::default())
    }
}

/// A letter that is as likely as is said, and so are as many others.
fn scored(letter: char, likeliest: usize, log: Option<f32>) -> Scored {
    let token = Likely { bytes: letter.to_string().into_bytes(), log };
    let likeliest = vec![token.clone(); likeliest];
    Scored { token, likeliest, offset: 0 }
}

/// A device with a parrot.
pub(super) struct Cage {
    pub(super) board: Board,
    pub(super) parrot: Arc<Parrot>,
    /// What the inbox says instead of taking anything in.
    pub(super) inbox: Mutex<Option<InboxError>>,
    pub(super) aside: Mutex<Vec<Aside>>,
    pub(super) taken: AtomicU64,
    pub(super) worker: AtomicBool,
    /// Whether it is one that learns.
    pub(super) learns: AtomicBool,
    /// Adapters that were read, in order.
    pub(super) read: Mutex<Vec<u64>>,
    /// What the disk says of an order instead of keeping it.
    pub(super) disk: Mutex<Option<StorageError>>,
}

impl Cage {
    pub(super) fn with(parrot: Parrot) -> Arc<Self> {
        Arc::new(Self {
            board: Board::default(),
            parrot: Arc::new(parrot),
            inbox: Mutex::new(None),
            aside: Mutex::default(),
            taken: AtomicU64::new(0),
            worker: AtomicBool::new(true),
            learns: AtomicBool::new(true),
            read: Mutex::default(),
            disk: Mutex::new(None),
        })
    }
}

impl Learner for Arc<Cage> {
    fn offer(&self, lines: &str) -> Result<Receipt, InboxError> {
        if let Some(error) = self.inbox.lock().ok().and_then(|mut error| error.take()) {
            return Err(error);
        }
        let accepted = intake::lines(lines, "batch")?.len() as u64;
        let last = self.taken.fetch_add(accepted, Ordering::Relaxed) + accepted;
        self.board.update(|status| status.inbox.samples = last);
        Ok(Receipt { accepted, duplicates: 0, last })
    }

    fn aside(&self) -> Result<Vec<Aside>, InboxError> {
        Ok(self.aside.lock().map(|aside| aside.clone()).unwrap_or_default())
    }

    fn retry_aside(&self, number: u64) -> Result<bool, InboxError> {
        self.drop_aside(number)
    }

    fn drop_aside(&self, number: u64) -> Result<bool, InboxError> {
        let Ok(mut aside) = self.aside.lock() else { return Ok(false) };
        let before = aside.len();
        aside.retain(|one| one.number != number);
        Ok(aside.len() < before)
    }

    fn job_now(&self) -> Result<(), OrderError> {
        let holds = "learning goes on";
        match self.disk.lock().ok().and_then(|mut error| error.take()) {
            Some(source) => Err(OrderError::Disk { source, holds }),
            None if self.worker.load(Ordering::Relaxed) => Ok(()),
            None => Err(OrderError::Stopping),
        }
    }

    fn pause(&self) -> Result<(), OrderError> {
        self.job_now()
    }

    fn resume(&self) -> Result<(), OrderError> {
        self.job_now()
    }

    fn roll_back(&self, to: Option<u64>) -> Result<[Option<u64>; 2], OrderError> {
        self.job_now()?;
        let before = self.board.look(|status| status.serving.generation);
        let generation = to.or(before.map(|number| number - 1)).filter(|number| *number > 0);
        self.board.update(|status| status.serving.generation = generation);
        Ok([before, generation])
    }
}

impl Cage {
    fn kept(&self, id: &str) -> Result<u64, ModelError> {
        let number = wire::generation_of(IN_USE, id);
        let has = |number: u64| {
            self.board.look(|status| status.generations.iter().any(|one| one.number == number))
        };
        number.filter(|number| has(*number)).ok_or_else(|| ModelError::Unknown { id: id.into() })
    }

    /// Two bits a byte of the bare base, and half a bit less of each generation.
    fn nats(&self, id: &str) -> Result<f64, ModelError> {
        let generation = match id {
            BASE => 0,
            IN_USE => self.board.look(|status| status.serving.generation).unwrap_or(0),
            _ => self.kept(id)?,
        };
        Ok((2.0 - 0.5 * generation as f64) * std::f64::consts::LN_2)
    }
}

impl Device for Arc<Cage> {
    fn board(&self) -> &Board {
        &self.board
    }

    fn learner(&self) -> Option<&dyn Learner> {
        if self.learns.load(Ordering::Relaxed) { Some(self) } else { None }
    }

    fn models(&self) -> Vec<Listed> {
        let named =
            |id: &str, generation| Listed { id: id.to_owned(), generation, ..Listed::default() };
        let (in_use, kept) = self.board.look(|status| {
            let kept: Vec<u64> = status.generations.iter().map(|one| one.number).collect();
            (status.serving.generation, kept)
        });
        let kept = kept.iter().map(|&number| named(&wire::kept(IN_USE, number), Some(number)));
        [named(IN_USE, in_use), named(BASE, None)].into_iter().chain(kept).collect()
    }

    fn model(&self, id: &str) -> Result<Arc<dyn Model>, ModelError> {
        match id {
            IN_USE => Ok(self.parrot.clone()),
            BASE => Ok(Arc::new(Parrot::default())),
            _ => {
                let number = self.kept(id)?;
                if let Ok(mut read) = self.read.lock() {
                    read.push(number);
                }
                Ok(Arc::new(Parrot { generation: Some(number), ..Parrot::default() }))
            }
        }
    }

    fn compare(
        &self,
        ids: [&str; 2],
        texts: Option<&[String]>,
        going: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<[Tally; 2], ModelError> {
        let texts = texts.ok_or(ModelError::NoText)?;
        let [first, second] = ids.map(|id| self.nats(id));
        let (first, second) = (first?, second?);
        let mut all = [Tally::default(); 2];
        for text in texts {
            if going().is_break() {
                return Err(ModelError::Late);
            }
            let bytes = text.len() as u64;
            let tally = |nats: f64| Tally { nats: nats * bytes as f64, tokens: bytes, bytes };
            all[0].add(tally(first));
            all[1].add(tally(second));
        }
        Ok(all)
    }
}

/// A clock that stands still until it is wound.
#[derive(Default)]
pub(super) struct Wound(pub(super) AtomicU64);

impl Clock for Wound {
    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}
