//! Requests for text over HTTP: a turn, a thread that writes, an answer whole or in events.
//!
//! - The writer never waits for its client: pieces lie in a channel that holds at most the tokens of
//!   the request. A client that goes away closes the channel, and the writer stops at the next token.
//! - `seconds-max` counts from the request's arrival: without a turn by then it is refused; a text
//!   that is being written ends there, with `length`.

use super::Model;
use super::refusal::Refusal;
use super::shared::Shared;
use super::writing::{self, Going, Note};
use crate::status::Board;
use crate::wire::{self, Answer, Ask, Call, Kind, Meta, Scored, Sending};
use axum::Json;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::convert::Infallible;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// A part of a stream.
type Frame = Result<String, Infallible>;

/// What a writer has to say first.
type First = oneshot::Sender<Result<Option<Value>, Refusal>>;

/// A turn at the model, counted for as long as it lasts.
pub(super) struct Active {
    shared: Arc<Shared>,
    _turn: OwnedSemaphorePermit,
}

impl Active {
    pub(super) fn begin(shared: &Arc<Shared>, turn: OwnedSemaphorePermit) -> Self {
        shared.device.board().update(|status| status.serving.active += 1);
        Self { shared: shared.clone(), _turn: turn }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let end = |active: u64| active.saturating_sub(1);
        let board = self.shared.device.board();
        board.update(|status| status.serving.active = end(status.serving.active));
    }
}

/// Answers a request for text.
pub(super) async fn answer(shared: &Arc<Shared>, ask: Ask) -> Result<Response, Refusal> {
    let until = shared.clock.elapsed().saturating_add(shared.patience());
    let listed = shared.model(ask.model.as_deref())?;
    let id = listed.stands_for.unwrap_or(listed.id);
    let turn = turn(shared).await?;
    let (first, begun) = oneshot::channel();
    let (frames, written) = mpsc::unbounded_channel();
    let writer = Writer { shared: shared.clone(), ask, id, until, frames };
    tokio::task::spawn_blocking(move || writer.run(turn, first));
    let whole = begun.await.map_err(|_| Refusal::lost())??;
    shared.device.board().update(|status| status.serving.requests += 1);
    if let Some(body) = whole {
        return Ok(Json(body).into_response());
    }
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(UnboundedReceiverStream::new(written))).into_response())
}

/// A turn at the models; that there was none is counted.
pub(super) async fn turn(shared: &Arc<Shared>) -> Result<OwnedSemaphorePermit, Refusal> {
    let turn = shared.turns.take(shared.patience()).await;
    turn.inspect_err(|_| shared.device.board().update(|status| status.serving.refused += 1))
}

/// One request on its thread.
struct Writer {
    shared: Arc<Shared>,
    ask: Ask,
    /// The model that was asked for, by its own name.
    id: String,
    until: Duration,
    frames: mpsc::UnboundedSender<Frame>,
}

impl Writer {
    /// The turn ends before the answer does: who has it can have another one at once.
    fn run(&self, turn: OwnedSemaphorePermit, first: First) {
        let active = Active::begin(&self.shared, turn);
        let model = match self.shared.device.model(&self.id) {
            Ok(model) => model,
            Err(error) => {
                drop(active);
                let _ = first.send(Err(error.into()));
                return;
            }
        };
        // Whoever asked may be gone, so nobody minds what cannot be sent.
        match self.ask.sending {
            Sending::Whole => {
                let whole = self.whole(&*model).map(Some);
                drop(active);
                let _ = first.send(whole);
            }
            Sending::Events { usage } => {
                self.events(&*model, first, usage);
                drop(active);
                let _ = self.frames.send(Ok(wire::DONE.to_owned()));
            }
        }
    }

    fn meta(&self, model: &dyn Model, counts: bool) -> Meta {
        let prefix = match self.ask.kind {
            Kind::Completion => "cmpl",
            Kind::Chat => "chatcmpl",
        };
        Meta {
            kind: self.ask.kind,
            id: format!("{prefix}-{}", self.shared.chance.name()),
            created: self.shared.clock.now().as_second(),
            model: self.id.clone(),
            generation: model.generation(),
            counts,
        }
    }

    /// A call, before any of its arguments.
    fn call(&self, name: &str) -> Call {
        let id = format!("call_{}", self.shared.chance.name());
        Call { id, name: name.to_owned(), arguments: String::new() }
    }

    fn seed(&self) -> u64 {
        self.ask.how.seed.unwrap_or_else(|| self.shared.chance.seed())
    }

    /// Asked after each token.
    fn going(&self) -> Going {
        let board: &Board = self.shared.device.board();
        board.update(|status| status.serving.tokens += 1);
        match () {
            () if self.frames.is_closed() => Going::Gone,
            () if self.shared.halted() => Going::Late,
            () if self.shared.clock.elapsed() >= self.until => Going::Late,
            () => Going::On,
        }
    }

    fn whole(&self, model: &dyn Model) -> Result<Value, Refusal> {
        let starts = writing::read(model, &self.ask, self.shared.config.tokens_max)?;
        let mut answers = Vec::new();
        let (mut text, mut calls, mut scored) = (String::new(), Vec::<Call>::new(), Vec::new());
        let mut tell = |note: Note<'_>| match note {
            Note::Token(_, one) => scored.push(one.clone()),
            Note::Piece(_, piece) => text.push_str(piece),
            Note::Call(_, name) => calls.push(self.call(name)),
            Note::Arguments(_, piece) => {
                if let Some(call) = calls.last_mut() {
                    call.arguments.push_str(piece);
                }
            }
            Note::End(_, finish) => {
                let (text, scored) = (take(&mut text), take(&mut scored));
                let scored = self.ask.likeliest.map(|_| scored);
                answers.push(Answer { text, calls: take(&mut calls), scored, finish });
            }
        };
        let going = &mut || self.going();
        let usage = writing::write(model, &self.ask, &starts, self.seed(), going, &mut tell)?;
        Ok(wire::whole(&self.meta(model, false), &answers, usage))
    }

    fn events(&self, model: &dyn Model, first: First, counts: bool) {
        let starts = match writing::read(model, &self.ask, self.shared.config.tokens_max) {
            Ok(starts) => starts,
            Err(refusal) => {
                let _ = first.send(Err(refusal));
                return;
            }
        };
        if first.send(Ok(None)).is_err() {
            return;
        }
        let meta = self.meta(model, counts);
        // A closed channel is seen by `going`.
        let send = |body: &Value| {
            let _ = self.frames.send(Ok(wire::event(body)));
        };
        (0..self.ask.each)
            .filter_map(|index| wire::opening(&meta, index))
            .for_each(|one| send(&one));
        // Tokens that have completed no character yet go with the piece that they belong to.
        let (mut waiting, mut calls) = (Vec::new(), 0);
        let told = |waiting: &mut Vec<Scored>| self.ask.likeliest.map(|_| take(waiting));
        let mut tell = |note: Note<'_>| match note {
            Note::Token(_, one) => waiting.push(one.clone()),
            Note::Piece(index, piece) => {
                send(&wire::piece(&meta, index, piece, told(&mut waiting).as_deref()));
            }
            Note::Call(index, name) => {
                let call = self.call(name);
                send(&wire::call(&meta, (index, calls), &call, told(&mut waiting).as_deref()));
                calls += 1;
            }
            Note::Arguments(index, piece) => {
                let at = (index, calls.saturating_sub(1));
                send(&wire::arguments(&meta, at, piece, told(&mut waiting).as_deref()));
            }
            Note::End(index, finish) => {
                calls = 0;
                let rest = told(&mut waiting).filter(|rest| !rest.is_empty());
                send(&wire::end(&meta, index, rest.as_deref(), finish));
            }
        };
        let going = &mut || self.going();
        match writing::write(model, &self.ask, &starts, self.seed(), going, &mut tell) {
            Ok(usage) if counts => send(&wire::totals(&meta, usage)),
            Ok(_) => {}
            Err(refusal) => send(&refusal.body()),
        }
    }
}
