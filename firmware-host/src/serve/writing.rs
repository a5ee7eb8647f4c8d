//! One request for text, written from its first prompt to its last.
//!
//! - In: an [`Ask`] and a [`Model`]. Out: pieces of text as they come, and how many tokens they took.
//! - A text ends where the model ends it, at a string of the request, at its number of tokens, or when
//!   its time is up; the last two are told as `length`.
//! - A call of a function ends a text, whole or cut, where the request wants one at most; strings that end a
//!   text are not looked for in it.
//! - Never here: channels, HTTP.

use super::calls::{Part, Reader};
use super::refusal::Refusal;
use super::stops::Stops;
use super::{Draw, Given, Model, Token, Written};
use crate::wire::{Ask, Finish, Scored, Usage};
use std::ops::ControlFlow;

/// Whether a text goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Going {
    /// It does.
    On,
    /// Its time is up.
    Late,
    /// Nobody listens any more.
    Gone,
}

/// What is told of a text while it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Note<'a> {
    /// Text `.0` has the token `.1`, before the characters that it completes.
    Token(usize, &'a Scored),
    /// Text `.0` goes on with `.1`.
    Piece(usize, &'a str),
    /// Text `.0` calls the function `.1`.
    Call(usize, &'a str),
    /// The arguments of text `.0`'s last call go on with `.1`.
    Arguments(usize, &'a str),
    /// Text `.0` has ended.
    End(usize, Finish),
}

/// A prompt that was read, and how many tokens may follow it.
pub(super) struct Start {
    given: Given,
    tokens: usize,
}

/// Reads every prompt and finds its room.
///
/// - `tokens_max`: most tokens of a prompt and its text, beside the model's own limit.
///
/// # Errors
/// A [`Refusal`] when a prompt cannot be read, leaves no room for a text, or the model cannot write as
/// is asked.
pub(super) fn read(model: &dyn Model, ask: &Ask, tokens_max: usize) -> Result<Vec<Start>, Refusal> {
    let room = tokens_max.min(model.context());
    let one = |prompt| {
        let given = model.read(prompt, &ask.how)?;
        let left = room.saturating_sub(given.ids.len());
        // Of more than there is room for, what there is room for is written; `length` says so.
        let tokens = ask.tokens_max.unwrap_or(left).min(left);
        if given.ids.len() > room || (left == 0 && ask.tokens_max != Some(0)) {
            return Err(Refusal::context(room, given.ids.len()));
        }
        Ok(Start { given, tokens })
    };
    model.admits(&ask.how)?;
    ask.prompts.iter().map(one).collect()
}

/// Writes the texts, one after the other: all of the first prompt, then those of the next.
///
/// - `going`: asked after each token. `tell`: hears all of it, in order.
///
/// # Errors
/// A [`Refusal`] when the model fails.
pub(super) fn write(
    model: &dyn Model,
    ask: &Ask,
    starts: &[Start],
    seed: u64,
    going: &mut dyn FnMut() -> Going,
    tell: &mut dyn FnMut(Note<'_>),
) -> Result<Usage, Refusal> {
    let prompt = starts.iter().map(|start| start.given.ids.len()).sum();
    let mut usage = Usage { prompt, ..Usage::default() };
    let texts = starts.iter().flat_map(|start| std::iter::repeat_n(start, ask.each));
    for (index, start) in texts.enumerate() {
        // Equal prompts of one request shall not give equal texts.
        let seed = seed.wrapping_add(index as u64);
        let draw = Draw { how: &ask.how, seed, likeliest: ask.likeliest };
        let mut telling = Telling { index, characters: 0, tell: &mut *tell };
        if ask.echo {
            prompted(model, start, ask.likeliest, going, &mut telling)?;
        }
        let (written, cached, finish) = text(model, ask, start, draw, going, &mut telling)?;
        usage.written += written;
        // A prompt of several texts is counted once.
        usage.cached += if index % ask.each == 0 { cached } else { 0 };
        tell(Note::End(index, finish));
    }
    Ok(usage)
}

/// What is told of one text.
struct Telling<'a> {
    index: usize,
    /// Characters that have begun so far, counted where tokens are told.
    characters: usize,
    tell: &'a mut dyn FnMut(Note<'_>),
}

impl Telling<'_> {
    fn token(&mut self, mut scored: Scored) {
        scored.offset = self.characters;
        // A byte that begins none goes on with the character of the token before.
        let begins = |byte: &&u8| **byte & 0xc0 != 0x80;
        self.characters += scored.token.bytes.iter().filter(begins).count();
        (self.tell)(Note::Token(self.index, &scored));
    }

    fn piece(&mut self, text: &str) {
        if !text.is_empty() {
            (self.tell)(Note::Piece(self.index, text));
        }
    }
}

/// The prompt at the beginning of its answer.
fn prompted(
    model: &dyn Model,
    start: &Start,
    likeliest: Option<usize>,
    going: &mut dyn FnMut() -> Going,
    telling: &mut Telling<'_>,
) -> Result<(), Refusal> {
    if let Some(likeliest) = likeliest {
        let mut each = |scored: Scored| {
            telling.token(scored);
            if going() == Going::On { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        model.follow(&start.given.ids, likeliest, &mut each)?;
    }
    telling.piece(&start.given.text);
    Ok(())
}

/// One text: how many tokens it took, how many of its prompt were known, and why it ended.
fn text(
    model: &dyn Model,
    ask: &Ask,
    start: &Start,
    draw: Draw<'_>,
    going: &mut dyn FnMut() -> Going,
    telling: &mut Telling<'_>,
) -> Result<(usize, usize, Finish), Refusal> {
    let (mut stops, mut count, mut finish) = (Stops::new(&ask.stops), 0, Finish::Stop);
    if start.tokens == 0 {
        return Ok((0, 0, Finish::Length));
    }
    let mut reader = Reader::new(start.given.manner.as_ref());
    let mut each = |token: Token<'_>| {
        count += 1;
        if let Some(scored) = token.scored {
            telling.token(scored);
        }
        said(reader.push(token.text), &mut stops, telling);
        let going = going();
        if stops.found() || reader.is_over() || going == Going::Gone {
            return ControlFlow::Break(());
        }
        if count >= start.tokens || going == Going::Late {
            finish = Finish::Length;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let Written { rest, cached } = model.write(&start.given.ids, start.tokens, draw, &mut each)?;
    said(reader.push(&rest), &mut stops, telling);
    let rest = reader.rest().map(Part::Text);
    said(rest.into_iter().collect(), &mut stops, telling);
    if stops.found() {
        finish = Finish::Stop;
    }
    if reader.is_over() || reader.has_called() && finish == Finish::Stop {
        finish = Finish::Calls;
    }
    telling.piece(&stops.rest());
    Ok((count, cached, finish))
}

/// Tells parts of a text; what a stop held back comes before a call, and nothing of it after a stop.
fn said(parts: Vec<Part>, stops: &mut Stops<'_>, telling: &mut Telling<'_>) {
    for part in parts {
        match part {
            Part::Text(text) => telling.piece(&stops.push(&text)),
            _ if stops.found() => {}
            Part::Name(name) => {
                telling.piece(&stops.rest());
                (telling.tell)(Note::Call(telling.index, &name));
            }
            Part::Arguments(piece) => (telling.tell)(Note::Arguments(telling.index, &piece)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::super::fixture::Parrot;
    use super::*;
    use crate::wire;
    use serde_json::{Value, json};

    fn written(body: &Value, going: &mut dyn FnMut() -> Going) -> (String, Usage, Vec<Finish>) {
        let ask = wire::completion(body.to_string().as_bytes()).unwrap();
        let (model, mut text, mut ends) = (Parrot::default(), String::new(), Vec::new());
        let starts = read(&model, &ask, 64).unwrap();
        let mut tell = |note: Note<'_>| match note {
            Note::Token(..) | Note::Call(..) | Note::Arguments(..) => {}
            Note::Piece(_, piece) => text.push_str(piece),
            Note::End(_, finish) => ends.push(finish),
        };
        let usage = write(&model, &ask, &starts, 1, going, &mut tell).unwrap();
        (text, usage, ends)
    }

    /// The parrot says its prompt again, a character a token, and ends.
    #[test]
    fn a_text_ends_with_the_model_a_stop_or_its_tokens() {
        let on = &mut || Going::On;
        let (text, usage, ends) = written(&json!({"prompt": "abcd"}), on);
        assert_eq!((text.as_str(), ends), ("abcd", vec![Finish::Stop]));
        assert_eq!(usage, Usage { prompt: 4, written: 4, cached: 0 });
        let (text, usage, ends) = written(&json!({"prompt": "abcd", "max_tokens": 3}), on);
        assert_eq!((text.as_str(), ends, usage.written), ("abc", vec![Finish::Length], 3));
        let (text, usage, ends) = written(&json!({"prompt": "abcd", "stop": "bc"}), on);
        assert_eq!((text.as_str(), ends, usage.written), ("a", vec![Finish::Stop], 3));
    }

    #[test]
    fn what_a_stop_held_back_is_shown_when_the_tokens_run_out() {
        let body = json!({"prompt": "abcd", "stop": "bcd", "max_tokens": 3});
        assert_eq!(written(&body, &mut || Going::On).0, "abc");
    }

    #[test]
    fn an_echo_needs_no_token() {
        let body = json!({"prompt": "ab", "echo": true, "max_tokens": 0});
        let (text, usage, ends) = written(&body, &mut || Going::On);
        assert_eq!((text.as_str(), usage.written, ends), ("ab", 0, vec![Finish::Length]));
    }

    #[test]
    fn a_text_that_is_late_or_unheard_ends_at_once() {
        let mut asked = 0;
        let mut late = || {
            asked += 1;
            if asked < 2 { Going::On } else { Going::Late }
        };
        let (text, _, ends) = written(&json!({"prompt": "abcd"}), &mut late);
        assert_eq!((text.as_str(), ends), ("ab", vec![Finish::Length]));
        assert_eq!(written(&json!({"prompt": "abcd"}), &mut || Going::Gone).0, "a");
    }

    #[test]
    fn several_prompts_are_written_in_order() {
        let (text, usage, ends) = written(&json!({"prompt": ["ab", "cd"]}), &mut || Going::On);
        assert_eq!((text.as_str(), ends.len()), ("abcd", 2));
        assert_eq!(usage, Usage { prompt: 4, written: 4, cached: 0 });
    }

    /// The parrot gives every letter of a prompt -2 but the first, and of a text -1.
    #[test]
    fn tokens_are_told_with_where_they_begin_those_of_an_echo_first() {
        let told = |body: Value| {
            let ask = wire::completion(body.to_string().as_bytes()).unwrap();
            let starts = read(&Parrot::default(), &ask, 64).unwrap();
            let mut all = Vec::new();
            let mut tell = |note: Note<'_>| {
                if let Note::Token(_, scored) = note {
                    all.push((scored.token.log, scored.likeliest.len(), scored.offset));
                }
            };
            write(&Parrot::default(), &ask, &starts, 1, &mut || Going::On, &mut tell).unwrap();
            all
        };
        let (first, next, text) = (None, Some(-2.0), Some(-1.0));
        let body = json!({"prompt": "aé", "echo": true, "logprobs": 2, "max_tokens": 1});
        assert_eq!(told(body), [(first, 2, 0), (next, 2, 1), (text, 2, 2)]);
        let body = json!({"prompt": "ab", "echo": true, "logprobs": 1, "max_tokens": 0});
        assert_eq!(told(body), [(first, 1, 0), (next, 1, 1)]);
        assert_eq!(told(json!({"prompt": "ab", "logprobs": 0})), [(text, 0, 0), (text, 0, 1)]);
        assert!(told(json!({"prompt": "ab", "echo": true})).is_empty());
    }

    #[test]
    fn each_prompt_has_as_many_texts_as_asked_for_and_its_tokens_count_once() {
        let body = json!({"prompt": ["ab", "c"], "n": 3});
        let (text, usage, ends) = written(&body, &mut || Going::On);
        assert_eq!((text.as_str(), ends.len()), ("abababccc", 6));
        assert_eq!(usage, Usage { prompt: 3, written: 9, cached: 0 });
    }

    #[test]
    fn more_tokens_than_there_is_room_for_are_cut_and_told_as_length() {
        let prompt = "a".repeat(40);
        let body = json!({"prompt": prompt, "max_tokens": 10_000});
        let (_, usage, ends) = written(&body, &mut || Going::On);
        assert_eq!(
            (usage, ends),
            (Usage { prompt: 40, written: 24, cached: 0 }, vec![Finish::Length])
        );
    }

    #[test]
    fn a_prompt_that_leaves_no_room_is_refused_with_the_numbers() {
        let read = |length: usize, tokens: usize| {
            let body = json!({"prompt": "a".repeat(length), "max_tokens": tokens}).to_string();
            read(&Parrot::default(), &wire::completion(body.as_bytes()).unwrap(), 64)
        };
        assert!(read(63, 1).is_ok() && read(64, 0).is_ok());
        for (length, tokens) in [(64, 1), (65, 0)] {
            let message = read(length, tokens).err().unwrap().message().to_owned();
            let length = length.to_string();
            assert!(message.contains("64") && message.contains(&length), "{message}");
        }
    }
}
