//! Every layer of the base, as texts need them: a prompt at once, then token by token.
//!
//! - In: the embedding of the tokens that follow, an adapter or none. Out: the logits of the next.
//! - On a device a pass costs about the same for many texts as for one, so texts of one length may go
//!   abreast there; on the CPU each has a session of its own.
//! - The weights are those that trunk and head learn with. Any number of sessions run at once, each on
//!   the threads in force.
//! - Never here: sampling, the vocabulary, gradients.

use super::candle::Texts;
use super::cpu::Text;
use super::{Below, Engine, Head, HeadError, check};
use crate::adapter::Adapter;
use crate::base::Config;
use crate::trunk::Trunk;

/// Most texts of one session on a device: keys and values of each take its memory. No other number was
/// measured.
const ABREAST_MAX: usize = 32;

/// All layers of a base whose trunk and head are loaded.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    trunk: &'a Trunk,
    below: Option<&'a Below>,
    head: &'a Head,
}

/// One text, or some abreast: the adapter it is written with, and the keys and values of what it has
/// seen.
pub struct Session<'a> {
    texts: usize,
    seen: usize,
    tokens_max: usize,
    state: State<'a>,
}

/// What a session keeps, by who computes.
enum State<'a> {
    Cpu(Text<'a>),
    Candle(Texts),
}

impl Session<'_> {
    /// Tokens seen so far, of each text.
    pub fn seen(&self) -> usize {
        self.seen
    }
}

impl<'a> Decoder<'a> {
    /// `below`: the layers under the tap, where the trunk has them from another engine.
    pub fn new(trunk: &'a Trunk, below: Option<&'a Below>, head: &'a Head) -> Self {
        Self { trunk, below, head }
    }

    /// The base's configuration.
    pub fn config(&self) -> &'a Config {
        &self.head.config
    }

    /// How many texts a session can have: one on the CPU.
    pub fn abreast_max(&self) -> usize {
        match self.head.engine {
            Engine::Cpu(_) => 1,
            Engine::Candle(_) => ABREAST_MAX,
        }
    }

    /// A new, empty session of at most `tokens_max` tokens.
    ///
    /// # Errors
    /// [`HeadError::Adapter`] when the adapter does not fit; [`HeadError::Base`] when the model
    /// computes no sequence so long; [`HeadError::Apart`] when trunk and head are not of one whole.
    pub fn session(
        &self,
        adapter: Option<&'a Adapter>,
        tokens_max: usize,
    ) -> Result<Session<'a>, HeadError> {
        self.session_of(1, adapter, tokens_max)
    }

    /// The same of `texts` texts abreast, as many as [`Decoder::abreast_max`] at most.
    ///
    /// # Errors
    /// [`HeadError::Abreast`], and as [`Decoder::session`].
    pub fn session_of(
        &self,
        texts: usize,
        adapter: Option<&'a Adapter>,
        tokens_max: usize,
    ) -> Result<Session<'a>, HeadError> {
        let (max, config, tap) = (self.abreast_max(), self.config(), self.head.tap);
        if !(1..=max).contains(&texts) {
            return Err(HeadError::Abreast { texts, max });
        }
        config.check_length(tokens_max)?;
        let lower = match self.head.engine {
            Engine::Cpu(_) => self.trunk.layers().len(),
            Engine::Candle(_) => self.below.map_or(0, Below::len),
        };
        if lower != tap {
            return Err(HeadError::Apart { lower, tap });
        }
        adapter.map_or(Ok(()), |adapter| check(adapter, config, 0..config.layers))?;
        let state = match &self.head.engine {
            Engine::Cpu(_) => State::Cpu(Text::new(config, adapter, tokens_max)),
            Engine::Candle(candle) => State::Candle(candle.texts(adapter, tokens_max)?),
        };
        Ok(Session { texts, seen: 0, tokens_max, state })
    }

    /// Most bytes of a session of one text of `tokens` tokens: keys and values, and what one pass needs.
    pub fn session_bytes(&self, tokens: usize) -> u64 {
        Text::bytes(self.config(), tokens)
    }

    /// Goes on with tokens whose embedding is `embedded`, `[texts, n, D]`.
    ///
    /// # Errors
    /// [`HeadError::Length`] when the session has no room for them; nothing was changed then.
    pub fn extend(&self, session: &mut Session<'_>, embedded: &[f32]) -> Result<(), HeadError> {
        let tokens = embedded.len() / (self.config().hidden * session.texts);
        let got = session.seen + tokens;
        if got > session.tokens_max {
            return Err(HeadError::Length { got, max: session.tokens_max });
        }
        if tokens == 0 {
            return Ok(());
        }
        match (&self.head.engine, &mut session.state) {
            (Engine::Cpu(cpu), State::Cpu(text)) => cpu.extend(self.trunk, text, embedded),
            (Engine::Candle(candle), State::Candle(texts)) => {
                let shape = (session.texts, tokens, self.config().hidden);
                candle.extend(self.below, texts, embedded, (shape, session.seen))?;
            }
            _ => return Err(HeadError::Apart { lower: 0, tap: self.head.tap }),
        }
        session.seen = got;
        Ok(())
    }

    /// The logits `[texts, V]` of the token after the last; not a number before the first.
    ///
    /// # Errors
    /// [`HeadError::Engine`] when a device fails.
    pub fn logits(&self, session: &Session<'_>) -> Result<Vec<f32>, HeadError> {
        match (&self.head.engine, &session.state) {
            (Engine::Cpu(cpu), State::Cpu(text)) => Ok(cpu.next(text)),
            (Engine::Candle(candle), State::Candle(texts)) if session.seen > 0 => {
                candle.next(texts)
            }
            _ => Ok(vec![f32::NAN; session.texts * self.config().vocab]),
        }
    }
}
