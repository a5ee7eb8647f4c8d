//! Whose words are whose in a rendered conversation.
//!
//! - In: a template and a conversation. Out: [`Rendered`], the whole text with the spans of the assistant.
//! - A template that marks them with `generation` is believed, as transformers believes it. Of any other
//!   the whole rendering is asked, not its beginnings: a turn is what changes when another word is said in
//!   its place, from where the model would be prompted to where the conversation would end after it.
//! - Invariant: what stands before a turn or after it is never part of its span. Where that cannot be told,
//!   the conversation is refused.

use super::{Chat, MARKS, TokeniseError};
use crate::intake::{Json, Talk, Turn};
use std::ops::Range;

/// A word that nobody says, put in the place of a turn's own.
const WORD: &str = "\u{fdd2}\u{fdd3}\u{fdd4}";

/// A rendered conversation.
#[derive(Debug)]
pub(in crate::tokenise) struct Rendered {
    /// The whole text.
    pub(in crate::tokenise) text: String,
    /// Bytes of it that the assistant said and that are learned, end marks included.
    pub(in crate::tokenise) answers: Vec<Range<usize>>,
    /// Bytes of turns that are not to be learned.
    pub(in crate::tokenise) silent: Vec<Range<usize>>,
    /// Turns of the assistant that the template leaves out.
    pub(in crate::tokenise) lost: usize,
}

/// Where a turn stands.
enum Place {
    At(Range<usize>),
    /// Nothing of it is written.
    Nowhere,
}

impl Chat {
    /// The text, the spans of the assistant and those of turns that are not learned. Without `mask`, which
    /// asks for the assistant's, only the latter are looked for.
    pub(in crate::tokenise) fn answers(
        &self,
        talk: &Talk,
        mask: bool,
    ) -> Result<Rendered, TokeniseError> {
        let text = self.render(talk, false)?;
        let mut rendered = Rendered { text, answers: Vec::new(), silent: Vec::new(), lost: 0 };
        if !mask && talk.turns.iter().all(|turn| turn.is_learned) {
            return Ok(rendered);
        }
        if [MARKS[0], MARKS[1]].iter().any(|mark| rendered.text.contains(*mark))
            || rendered.text.contains(WORD)
        {
            return Err(TokeniseError::Reserved);
        }
        let marked = if mask { self.marked(talk, &rendered.text)? } else { None };
        if let Some(spans) = marked {
            rendered.answers = spans;
            for index in (0..talk.turns.len()).filter(|&index| !talk.turns[index].is_learned) {
                let silent = self.silent_marks(talk, index, rendered.answers.len())?;
                rendered
                    .silent
                    .extend(silent.iter().filter_map(|&at| rendered.answers.get(at).cloned()));
            }
            rendered.answers.retain(|span| !rendered.silent.contains(span));
            return Ok(rendered);
        }
        for (index, turn) in talk.turns.iter().enumerate() {
            let is_answer = mask && turn.role == "assistant";
            if turn.is_learned && !is_answer {
                continue;
            }
            match self.place(talk, index, &rendered.text)? {
                Place::At(span) if turn.is_learned => rendered.answers.push(span),
                Place::At(span) => rendered.silent.push(span),
                Place::Nowhere => rendered.lost += usize::from(turn.is_learned),
            }
        }
        Ok(rendered)
    }

    /// The spans that the template marks; none where it marks nothing by itself.
    pub(super) fn marked(
        &self,
        talk: &Talk,
        text: &str,
    ) -> Result<Option<Vec<Range<usize>>>, TokeniseError> {
        let Some(marked) = self.render_marked(talk)? else { return Ok(None) };
        let (mut plain, mut spans, mut open) = (String::new(), Vec::new(), Vec::new());
        for letter in marked.chars() {
            if letter == MARKS[0] {
                open.push(plain.len());
            } else if letter == MARKS[1] {
                let start = open.pop().ok_or(TokeniseError::Marked)?;
                spans.push(start..plain.len());
            } else {
                plain.push(letter);
            }
        }
        // A template that reads what it has marked writes another text when marks are in it.
        if plain != text || !open.is_empty() {
            return Err(TokeniseError::Marked);
        }
        spans.retain(|span| !span.is_empty());
        Ok(Some(spans))
    }

    /// Which of the marked spans are of turn `index`.
    fn silent_marks(
        &self,
        talk: &Talk,
        index: usize,
        spans: usize,
    ) -> Result<Vec<usize>, TokeniseError> {
        let hidden =
            || TokeniseError::Hidden { turn: index + 1, role: talk.turns[index].role.clone() };
        let other = said_otherwise(talk, index);
        let text = self.render(&other, false)?;
        let marked = self.marked(&other, &text)?.ok_or_else(hidden)?;
        let has_word =
            |span: &Range<usize>| text.get(span.clone()).is_some_and(|said| said.contains(WORD));
        let of_turn: Vec<usize> = (0..marked.len()).filter(|&at| has_word(&marked[at])).collect();
        if marked.len() != spans {
            return Err(hidden());
        }
        Ok(of_turn)
    }

    /// Where turn `index` stands in `text`.
    fn place(&self, talk: &Talk, index: usize, text: &str) -> Result<Place, TokeniseError> {
        let turn = &talk.turns[index];
        let is_answer = turn.role == "assistant";
        let start = if is_answer { self.prompt_end(talk, index, text) } else { None };
        let end = self.turn_end(talk, index, text);
        if let (Some(start), Some(end)) = (start, end) {
            return Ok(if start < end { Place::At(start..end) } else { Place::Nowhere });
        }
        let core = self.core(talk, index, text);
        let core = match core {
            Some(core) => core,
            None if self.is_unwritten(talk, index) => return Ok(Place::Nowhere),
            None => {
                return Err(TokeniseError::Hidden { turn: index + 1, role: turn.role.clone() });
            }
        };
        let start = start.filter(|&start| start <= core.start).unwrap_or(core.start);
        let end = match end.filter(|&end| end >= core.end) {
            Some(end) => end,
            None => core.end + self.end_mark(talk, index, &text[core.end..]),
        };
        Ok(if start < end { Place::At(start..end) } else { Place::Nowhere })
    }

    /// Where the prompt for turn `index` ends, if `text` begins with it. A template that prompts with
    /// nothing of its own does not tell where a turn's header ends.
    fn prompt_end(&self, talk: &Talk, index: usize, text: &str) -> Option<usize> {
        let before = first(talk, index);
        let prompt = self.render(&before, true).ok().filter(|prompt| text.starts_with(prompt))?;
        let plain = self.render(&before, false).unwrap_or_default();
        (prompt != plain).then_some(prompt.len())
    }

    /// Where turn `index` ends, if `text` begins with the turns up to it.
    fn turn_end(&self, talk: &Talk, index: usize, text: &str) -> Option<usize> {
        let through = self.render(&first(talk, index + 1), false).ok()?;
        text.starts_with(&through).then_some(through.len())
    }

    /// What of `text` changes with what turn `index` says: its words, without header and end.
    fn core(&self, talk: &Talk, index: usize, text: &str) -> Option<Range<usize>> {
        let alone = said_otherwise(talk, index);
        let mut beside = talk.clone();
        say(&mut beside.turns[index]);
        [alone, beside].iter().find_map(|other| {
            let other = self.render(other, false).ok()?;
            let (before, after) = around(&other)?;
            let end = text.len().checked_sub(after.len()).filter(|&end| end >= before.len())?;
            let fits = text.starts_with(before) && text.ends_with(after);
            fits.then_some(before.len()..end)
        })
    }

    /// Whether nothing of turn `index` is in the text, whatever it says.
    fn is_unwritten(&self, talk: &Talk, index: usize) -> bool {
        let other = self.render(&said_otherwise(talk, index), false);
        let is_blank =
            talk.turns[index].fields.0.iter().all(|(key, value)| key == "role" || value.is_blank());
        other.is_ok_and(|text| !text.contains(WORD)) || is_blank
    }

    /// How many bytes of what follows the words of turn `index` end it: what stands there when the
    /// conversation ends with it.
    fn end_mark(&self, talk: &Talk, index: usize, after: &str) -> usize {
        let through = self.render(&first(&said_otherwise(talk, index), index + 1), false);
        let end = through.ok().and_then(|through| Some(around(&through)?.1.to_owned()));
        let end = end.unwrap_or_default();
        [end.as_str(), end.trim_end()]
            .into_iter()
            .find(|end| after.starts_with(end))
            .map_or(0, str::len)
    }
}

/// The first turns of a conversation.
fn first(talk: &Talk, turns: usize) -> Talk {
    Talk { turns: talk.turns[..turns].to_vec(), ..talk.clone() }
}

/// The same conversation, but in turn `index` nothing but [`WORD`] is said.
fn said_otherwise(talk: &Talk, index: usize) -> Talk {
    let mut other = talk.clone();
    let turn = &mut other.turns[index];
    turn.fields
        .0
        .retain(|(key, _)| matches!(key.as_str(), "role" | "content" | "name" | "tool_call_id"));
    say(turn);
    other
}

fn say(turn: &mut Turn) {
    let word = Json::String(WORD.to_owned());
    match turn.fields.0.iter_mut().find(|(key, _)| key == "content") {
        Some((_, content)) => *content = word,
        None => turn.fields.0.push(("content".to_owned(), word)),
    }
}

/// What stands before [`WORD`] and after it, where it stands once.
fn around(text: &str) -> Option<(&str, &str)> {
    text.split_once(WORD).filter(|(_, after)| !after.contains(WORD))
}
