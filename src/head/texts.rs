//! Every layer of the base, as texts need them: a prompt at once, then token by token.
//!
//! - In: the embedding of the tokens that follow, an adapter or none. Out: the logits of the next.
//! - Texts of one length may go abreast: on the CPU they share each read of the weights, on a device a
//!   pass costs about the same for many as for one. Those that have ended are let go.
//! - The weights are those that trunk and head learn with. Any number of sessions run at once, each on
//!   the threads in force.
//! - Never here: sampling, the vocabulary, gradients.

use super::{Below, Engine, Head, HeadError, candle, check, cpu};
use crate::adapter::Adapter;
use crate::base::Config;
use crate::trunk::Trunk;

/// Most texts of one session: enough that reading the weights costs little beside the products
/// (BENCHMARKS.md), few enough for the memory of their keys and values. On a device no other number was
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
    Cpu(cpu::Texts<'a>),
    Candle(candle::Texts),
}

/// Keys and values of a text that was written, for another that begins alike under the same adapter.
pub struct Kept {
    tokens: usize,
    state: By,
}

/// What is kept of a session, by who computed.
enum By {
    Cpu(cpu::Seen),
    Candle(candle::Past),
}

impl Kept {
    /// Tokens that were seen.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> u64 {
        match &self.state {
            By::Cpu(seen) => seen.bytes(),
            By::Candle(past) => past.bytes(),
        }
    }
}

impl Session<'_> {
    /// Tokens seen so far, of each text.
    pub fn seen(&self) -> usize {
        self.seen
    }
}

/// Most bytes of a session on the CPU of `texts` texts of `tokens` tokens, as many texts as go abreast.
pub fn session_bytes(config: &Config, texts: usize, tokens: usize) -> u64 {
    cpu::Texts::bytes(config, texts.min(ABREAST_MAX), tokens)
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

    /// How many texts to write at once where `wanted` more are needed and some may be of no use: on a
    /// device more of them cost nothing.
    pub fn abreast(&self, wanted: usize) -> usize {
        match self.head.engine {
            Engine::Cpu(_) => wanted.clamp(1, ABREAST_MAX),
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

    /// The same of `texts` texts abreast, 32 at most.
    ///
    /// # Errors
    /// [`HeadError::Abreast`], and as [`Decoder::session`].
    pub fn session_of(
        &self,
        texts: usize,
        adapter: Option<&'a Adapter>,
        tokens_max: usize,
    ) -> Result<Session<'a>, HeadError> {
        let (max, config) = (ABREAST_MAX, self.config());
        if !(1..=max).contains(&texts) {
            return Err(HeadError::Abreast { texts, max });
        }
        self.check(adapter, tokens_max)?;
        let state = match &self.head.engine {
            Engine::Cpu(_) => State::Cpu(cpu::Texts::new(config, adapter, (texts, tokens_max))),
            Engine::Candle(candle) => State::Candle(candle.texts(adapter, tokens_max)?),
        };
        Ok(Session { texts, seen: 0, tokens_max, state })
    }

    /// A session of one text that goes on after the first `tokens` tokens of what another, under the same
    /// adapter and of these engines, has seen. It wants a token before it has logits.
    ///
    /// # Errors
    /// [`HeadError::Length`] when so many were not seen, or fill the session; as [`Decoder::session`].
    pub fn session_after(
        &self,
        (kept, tokens): (&Kept, usize),
        adapter: Option<&'a Adapter>,
        tokens_max: usize,
    ) -> Result<Session<'a>, HeadError> {
        let max = kept.tokens.min(tokens_max);
        if tokens > max {
            return Err(HeadError::Length { got: tokens, max });
        }
        self.check(adapter, tokens_max)?;
        let state = match (&self.head.engine, &kept.state) {
            (Engine::Cpu(_), By::Cpu(seen)) => {
                State::Cpu(cpu::Texts::after(self.config(), adapter, (seen, tokens), tokens_max))
            }
            (Engine::Candle(candle), By::Candle(past)) => {
                State::Candle(candle.texts(adapter, tokens_max)?.after(past, tokens)?)
            }
            _ => return Err(HeadError::Apart { lower: 0, tap: self.head.tap }),
        };
        Ok(Session { texts: 1, seen: tokens, tokens_max, state })
    }

    /// Bytes of what a text of `tokens` tokens has seen.
    pub fn kept_bytes(&self, tokens: usize) -> u64 {
        let Config { layers, kv_heads, head_dim, .. } = *self.config();
        (2 * layers * kv_heads * head_dim * tokens * size_of::<f32>()) as u64
    }

    /// What a session of one text has seen, in memory of its own.
    pub fn kept(&self, session: &Session<'_>) -> Kept {
        let state = match &session.state {
            State::Cpu(texts) => By::Cpu(texts.seen(self.config())),
            State::Candle(texts) => By::Candle(texts.seen()),
        };
        Kept { tokens: session.seen, state }
    }

    /// Passes what a session can be of.
    fn check(&self, adapter: Option<&Adapter>, tokens_max: usize) -> Result<(), HeadError> {
        let (config, tap) = (self.config(), self.head.tap);
        config.check_length(tokens_max)?;
        let lower = match self.head.engine {
            Engine::Cpu(_) => self.trunk.layers().len(),
            Engine::Candle(_) => self.below.map_or(0, Below::len),
        };
        if lower != tap {
            return Err(HeadError::Apart { lower, tap });
        }
        adapter.map_or(Ok(()), |adapter| check(adapter, config, 0..config.layers))
    }

    /// Most bytes of a session of one text of `tokens` tokens: keys and values, and what one pass needs.
    pub fn session_bytes(&self, tokens: usize) -> u64 {
        cpu::Texts::bytes(self.config(), 1, tokens)
    }

    /// Goes on with the texts that stay, of `stays` `[texts]`; what was kept of the others is let go.
    ///
    /// # Errors
    /// [`HeadError::Abreast`] when none stays; [`HeadError::Engine`] when a device fails.
    pub(crate) fn retain(
        &self,
        session: &mut Session<'_>,
        stays: &[bool],
    ) -> Result<(), HeadError> {
        let texts = stays.iter().filter(|&&stays| stays).count();
        if texts == 0 || stays.len() != session.texts {
            return Err(HeadError::Abreast { texts, max: session.texts });
        }
        match &mut session.state {
            State::Cpu(texts) => texts.retain(stays),
            State::Candle(texts) => texts.retain(stays)?,
        }
        session.texts = texts;
        Ok(())
    }

    /// Goes on with tokens of a prompt, whose embedding is `embedded`, `[texts, n, D]`. In how many calls a
    /// prompt comes changes no more of it than the order of some sums in f32.
    ///
    /// # Errors
    /// [`HeadError::Length`] when the session has no room for them; nothing was changed then.
    pub fn extend(&self, session: &mut Session<'_>, embedded: &[f32]) -> Result<(), HeadError> {
        self.see(session, embedded, false)
    }

    /// Goes on with the token of each text that was drawn last, whose embedding is `embedded`,
    /// `[texts, D]`. That of a single text is not rounded where many rows are.
    ///
    /// # Errors
    /// As [`Decoder::extend`].
    pub fn advance(&self, session: &mut Session<'_>, embedded: &[f32]) -> Result<(), HeadError> {
        self.see(session, embedded, true)
    }

    fn see(
        &self,
        session: &mut Session<'_>,
        embedded: &[f32],
        drawn: bool,
    ) -> Result<(), HeadError> {
        let tokens = embedded.len() / (self.config().hidden * session.texts);
        let got = session.seen + tokens;
        if got > session.tokens_max {
            return Err(HeadError::Length { got, max: session.tokens_max });
        }
        if tokens == 0 {
            return Ok(());
        }
        match (&self.head.engine, &mut session.state) {
            (Engine::Cpu(cpu), State::Cpu(texts)) => {
                cpu.extend(self.trunk, texts, (embedded, drawn));
            }
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
            (Engine::Cpu(cpu), State::Cpu(texts)) => Ok(cpu.next(texts)),
            (Engine::Candle(candle), State::Candle(texts)) if session.seen > 0 => {
                candle.next(texts)
            }
            _ => Ok(vec![f32::NAN; session.texts * self.config().vocab]),
        }
    }
}
