//! One request for text, written from its first prompt to its last.
//!
//! - In: an [`Ask`] and a [`Model`]. Out: pieces of text as they come, and how many tokens they took.
//! - A text ends where the model ends it, at a string of the request, at its number of tokens, or when
//!   its time is up; the last two are told as `length`.
//! - Never here: channels, HTTP.

use super::refusal::Refusal;
use super::stops::Stops;
use super::{Draw, Given, Model};
use crate::wire::{Ask, Finish, Usage};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note<'a> {
    /// Text `.0` goes on with `.1`.
    Piece(usize, &'a str),
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
/// A [`Refusal`] when a prompt cannot be read, or has no room for what is asked.
pub(super) fn read(model: &dyn Model, ask: &Ask, tokens_max: usize) -> Result<Vec<Start>, Refusal> {
    let room = tokens_max.min(model.context());
    let one = |prompt| {
        let given = model.read(prompt)?;
        let left = room.saturating_sub(given.ids.len());
        let tokens = ask.tokens_max.unwrap_or_else(|| left.max(1));
        if tokens > left {
            return Err(Refusal::context(room, given.ids.len(), tokens));
        }
        Ok(Start { given, tokens })
    };
    ask.prompts.iter().map(one).collect()
}

/// Writes the texts, one after the other.
///
/// - `going`: asked after each token. `tell`: hears all of it, in order.
///
/// # Errors
/// A [`Refusal`] when the model fails.
pub(super) fn write(
    model: &dyn Model,
    ask: &Ask,
    starts: &[Start],
    draw: Draw,
    going: &mut dyn FnMut() -> Going,
    tell: &mut dyn FnMut(Note<'_>),
) -> Result<Usage, Refusal> {
    let prompt = starts.iter().map(|start| start.given.ids.len()).sum();
    let mut usage = Usage { prompt, written: 0 };
    for (index, start) in starts.iter().enumerate() {
        // Equal prompts of one request shall not give equal texts.
        let draw = Draw { seed: draw.seed.wrapping_add(index as u64), ..draw };
        let shown = if ask.echo { start.given.text.as_str() } else { "" };
        if !shown.is_empty() {
            tell(Note::Piece(index, shown));
        }
        let mut piece = |text: &str| tell(Note::Piece(index, text));
        let (written, finish) = text(model, ask, start, draw, going, &mut piece)?;
        usage.written += written;
        tell(Note::End(index, finish));
    }
    Ok(usage)
}

/// One text: how many tokens it took and why it ended.
fn text(
    model: &dyn Model,
    ask: &Ask,
    start: &Start,
    draw: Draw,
    going: &mut dyn FnMut() -> Going,
    show: &mut dyn FnMut(&str),
) -> Result<(usize, Finish), Refusal> {
    let (mut stops, mut count, mut finish) = (Stops::new(&ask.stops), 0, Finish::Stop);
    if start.tokens == 0 {
        return Ok((0, Finish::Length));
    }
    let mut each = |piece: &str| {
        count += 1;
        let shown = stops.push(piece);
        if !shown.is_empty() {
            show(&shown);
        }
        let going = going();
        if stops.found() || going == Going::Gone {
            return ControlFlow::Break(());
        }
        if count >= start.tokens || going == Going::Late {
            finish = Finish::Length;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let tail = model.write(&start.given.ids, start.tokens, draw, &mut each)?;
    let shown = stops.push(&tail);
    if stops.found() {
        finish = Finish::Stop;
    }
    for rest in [shown, stops.rest()] {
        if !rest.is_empty() {
            show(&rest);
        }
    }
    Ok((count, finish))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::super::fixture::Parrot;
    use super::*;
    use crate::wire;
    use serde_json::{Value, json};

    const DRAW: Draw = Draw { temperature: 0.0, top_p: 1.0, seed: 1 };

    fn written(body: &Value, going: &mut dyn FnMut() -> Going) -> (String, Usage, Vec<Finish>) {
        let ask = wire::completion(body.to_string().as_bytes()).unwrap();
        let (model, mut text, mut ends) = (Parrot::default(), String::new(), Vec::new());
        let starts = read(&model, &ask, 64).unwrap();
        let mut tell = |note: Note<'_>| match note {
            Note::Piece(_, piece) => text.push_str(piece),
            Note::End(_, finish) => ends.push(finish),
        };
        let usage = write(&model, &ask, &starts, DRAW, going, &mut tell).unwrap();
        (text, usage, ends)
    }

    /// The parrot says its prompt again, a character a token, and ends.
    #[test]
    fn a_text_ends_with_the_model_a_stop_or_its_tokens() {
        let on = &mut || Going::On;
        let (text, usage, ends) = written(&json!({"prompt": "abcd"}), on);
        assert_eq!((text.as_str(), ends), ("abcd", vec![Finish::Stop]));
        assert_eq!(usage, Usage { prompt: 4, written: 4 });
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
        assert_eq!(usage, Usage { prompt: 4, written: 4 });
    }

    #[test]
    fn a_prompt_without_room_is_refused_with_the_numbers() {
        let body = json!({"prompt": "abcd", "max_tokens": 61}).to_string();
        let ask = wire::completion(body.as_bytes()).unwrap();
        let refusal = read(&Parrot::default(), &ask, 64).err().unwrap();
        let message = refusal.message();
        assert!(
            message.contains("64") && message.contains('4') && message.contains("61"),
            "{message}"
        );
    }
}
