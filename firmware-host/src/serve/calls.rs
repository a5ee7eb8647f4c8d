//! An answer that calls functions, told apart as it is written: text, a function, its arguments.
//!
//! - In: pieces of a text. Out: [`Part`]s: what is text, and of a call the name and the arguments, letter by
//!   letter as the model wrote them.
//! - An answer is over after its first call, unless the request wants several: then between two stands what
//!   the model's template puts there, and other words are text.
//! - Never here: whether a call fits; what writes it is held to that.
//! - Invariant: no part of a call or of its marker is told as text.

use super::stops::Stops;
use crate::wire::TOOLS_MAX;
use sapwood::constrain::NAME;

/// How a model's calls are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manner {
    /// What a call begins after; without one it is the whole answer.
    pub marker: String,
    /// The key of the arguments.
    pub arguments: &'static str,
    /// Whether the answer is a call from its first letter on.
    pub is_forced: bool,
    /// What a call ends with, where another may follow after the marker.
    pub closing: Option<String>,
}

/// What a piece of an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Name(String),
    Arguments(String),
}

impl Part {
    fn is_empty(&self) -> bool {
        let (Self::Text(said) | Self::Name(said) | Self::Arguments(said)) = self;
        said.is_empty()
    }
}

/// Where an answer stands.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// In text, in which a call may begin.
    Text,
    /// In text, or at the beginning of a call.
    Perhaps,
    /// In a call, before its arguments.
    Head(&'a Manner),
    /// In its arguments, so deep; whether in a string, and after a backslash there.
    Arguments { depth: usize, in_string: bool, is_escaped: bool },
    /// After them, where another call may follow.
    Between(&'a Manner),
    /// After them.
    Over,
}

/// Reads one answer.
pub(super) struct Reader<'a> {
    manner: Option<&'a Manner>,
    place: Place<'a>,
    /// What is not decided yet.
    held: String,
    /// Calls that are whole.
    calls: usize,
}

impl<'a> Reader<'a> {
    /// - `manner`: none where nothing may be called.
    pub(super) fn new(manner: Option<&'a Manner>) -> Self {
        let place = match manner {
            Some(manner) if manner.is_forced => Place::Head(manner),
            Some(manner) if manner.marker.is_empty() => Place::Perhaps,
            _ => Place::Text,
        };
        Self { manner, place, held: String::new(), calls: 0 }
    }

    /// Whether the answer calls a function, all of whose arguments are there.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.place, Place::Over)
    }

    /// Whether the answer calls functions and is within no call.
    pub(super) fn has_called(&self) -> bool {
        matches!(self.place, Place::Over | Place::Between(_))
    }

    /// What is decided once `piece` has come.
    pub(super) fn push(&mut self, piece: &str) -> Vec<Part> {
        self.held.push_str(piece);
        let mut parts = Vec::new();
        while let Some(part) = self.next() {
            parts.push(part);
        }
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// What looked like a call to the end, and was none.
    pub(super) fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.held);
        let rest = match self.place {
            Place::Text | Place::Perhaps => rest,
            Place::Between(manner) => said_between(&rest, manner),
            Place::Head(_) | Place::Arguments { .. } | Place::Over => String::new(),
        };
        Some(rest).filter(|rest| !rest.is_empty())
    }

    fn next(&mut self) -> Option<Part> {
        match self.place {
            _ if self.held.is_empty() => None,
            Place::Text => {
                let text = self.text();
                let is_call = matches!(self.place, Place::Head(_));
                (!text.is_empty() || is_call).then_some(Part::Text(text))
            }
            Place::Perhaps => {
                let manner = self.manner?;
                match head(&self.held, manner.arguments) {
                    Head::Never => self.place = Place::Text,
                    Head::Perhaps { is_named: false } => return None,
                    Head::Perhaps { is_named: true } | Head::Whole { .. } => {
                        self.place = Place::Head(manner);
                    }
                }
                self.next()
            }
            Place::Head(manner) => match head(&self.held, manner.arguments) {
                Head::Whole { name, end } => {
                    self.held.drain(..end);
                    self.place = Place::Arguments { depth: 0, in_string: false, is_escaped: false };
                    Some(Part::Name(name))
                }
                Head::Perhaps { .. } | Head::Never => None,
            },
            Place::Arguments { .. } => {
                Some(Part::Arguments(self.arguments())).filter(|part| !part.is_empty())
            }
            Place::Between(manner) => {
                let at = self.held.find(&manner.marker)?;
                let text = said_between(&self.held[..at], manner);
                self.held.drain(..at + manner.marker.len());
                self.place = Place::Head(manner);
                Some(Part::Text(text))
            }
            Place::Over => None,
        }
    }

    /// The text up to a marker, or as far as none can begin in it.
    fn text(&mut self) -> String {
        let Some(manner) = self.manner.filter(|manner| !manner.marker.is_empty()) else {
            return std::mem::take(&mut self.held);
        };
        let markers = [manner.marker.clone()];
        let mut marks = Stops::new(&markers);
        let text = marks.push(&self.held);
        if marks.found() {
            self.held.drain(..text.len() + manner.marker.len());
            self.place = Place::Head(manner);
        } else {
            self.held.drain(..text.len());
        }
        text
    }

    /// The letters of the arguments that have come.
    fn arguments(&mut self) -> String {
        let Place::Arguments { depth, in_string, is_escaped } = &mut self.place else {
            return String::new();
        };
        if *depth == 0 {
            self.held.drain(..self.held.len() - self.held.trim_start().len());
        }
        let mut end = None;
        for (at, letter) in self.held.char_indices() {
            match letter {
                _ if *is_escaped => *is_escaped = false,
                '\\' if *in_string => *is_escaped = true,
                '"' => *in_string = !*in_string,
                '{' | '[' if !*in_string => *depth += 1,
                '}' | ']' if !*in_string => *depth = depth.saturating_sub(1),
                _ => {}
            }
            if *depth == 0 && !*in_string {
                end = Some(at + letter.len_utf8());
                break;
            }
        }
        let Some(end) = end else { return std::mem::take(&mut self.held) };
        self.calls += 1;
        let several = self.manner.filter(|manner| manner.closing.is_some());
        self.place = match several.filter(|_| self.calls < TOOLS_MAX) {
            Some(manner) => Place::Between(manner),
            None => Place::Over,
        };
        self.held.drain(..end).collect()
    }
}

/// What stands behind the arguments of a call beside the end of its object and what closes it.
fn said_between(text: &str, manner: &Manner) -> String {
    let ends = ["}", manner.closing.as_deref().unwrap_or_default()];
    ends.iter()
        .fold(text.trim(), |text, end| text.strip_prefix(end).unwrap_or(text).trim())
        .to_owned()
}

/// How far a text is `{"name": "NAME", "arguments":`.
enum Head {
    Never,
    /// It may become it; whether its first key is there.
    Perhaps {
        is_named: bool,
    },
    Whole {
        name: String,
        end: usize,
    },
}

fn head(text: &str, arguments: &str) -> Head {
    let quoted = |word: &str| format!("\"{word}\"");
    let (mut rest, mut is_named, mut called) = (text, false, None);
    let key = quoted(NAME);
    let arguments = quoted(arguments);
    for expected in ["{", &key, ":", "", ",", &arguments, ":"] {
        rest = rest.trim_start();
        if expected.is_empty() {
            // A function's name has neither quotes nor backslashes.
            let Some(inside) = rest.strip_prefix('"') else {
                return if rest.is_empty() { Head::Perhaps { is_named } } else { Head::Never };
            };
            let Some((name, after)) = inside.split_once('"') else {
                return Head::Perhaps { is_named };
            };
            (called, rest) = (Some(name), after);
        } else if let Some(after) = rest.strip_prefix(expected) {
            is_named |= expected == key;
            rest = after;
        } else {
            let may_come = expected.starts_with(rest);
            return if may_come { Head::Perhaps { is_named } } else { Head::Never };
        }
    }
    Head::Whole { name: called.unwrap_or_default().to_owned(), end: text.len() - rest.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manner(marker: &str, is_forced: bool) -> Manner {
        Manner { marker: marker.to_owned(), arguments: "arguments", is_forced, closing: None }
    }

    /// The text, the name and the arguments of an answer whose letters come `at_once`.
    fn told(
        manner: &Manner,
        answer: &str,
        at_once: usize,
    ) -> (String, Option<String>, String, bool) {
        let mut reader = Reader::new(Some(manner));
        let (mut text, mut name, mut arguments) = (String::new(), None, String::new());
        let letters: Vec<char> = answer.chars().collect();
        for piece in letters.chunks(at_once) {
            for part in reader.push(&piece.iter().collect::<String>()) {
                match part {
                    Part::Text(piece) => text += &piece,
                    Part::Name(called) => name = Some(called),
                    Part::Arguments(piece) => arguments += &piece,
                }
            }
        }
        text += &reader.rest().unwrap_or_default();
        (text, name, arguments, reader.is_over())
    }

    #[test]
    fn a_call_is_told_apart_wherever_its_pieces_end() {
        let arguments = r#"{"a": "}\"{", "b": [{}, 1]}"#;
        let call = format!("{{\"name\": \"f-1\", \"arguments\": {arguments}}}");
        let whole =
            |text: &str| (text.to_owned(), Some("f-1".to_owned()), arguments.to_owned(), true);
        for at_once in [1, 2, 3, 7, 1_000] {
            assert_eq!(told(&manner("", true), &call, at_once), whole(""));
            assert_eq!(told(&manner("", false), &call, at_once), whole(""));
            let answer = format!("Look < here:\n<call>\n{call}\n</call>");
            assert_eq!(told(&manner("<call>", false), &answer, at_once), whole("Look < here:\n"));
        }
    }

    #[test]
    fn several_calls_are_told_one_after_the_other() {
        let call =
            |name: &str| format!("{{\"name\": \"{name}\", \"arguments\": {{\"a\": \"}}\"}}}}");
        let (f, g) = (call("f"), call("g"));
        let several =
            |is_forced| Manner { closing: Some("</call>".into()), ..manner("<call>", is_forced) };
        let told = |manner: &Manner, answer: &str, at_once: usize| {
            let (mut reader, mut all) = (Reader::new(Some(manner)), String::new());
            let letters: Vec<char> = answer.chars().collect();
            for piece in letters.chunks(at_once) {
                for part in reader.push(&piece.iter().collect::<String>()) {
                    match part {
                        Part::Text(piece) => all += &piece,
                        Part::Name(name) => all += &format!("[{name}]"),
                        Part::Arguments(piece) => all += &piece,
                    }
                }
            }
            assert!(!reader.is_over());
            let has_called = reader.has_called();
            (all + &reader.rest().unwrap_or_default(), has_called)
        };
        let arguments = "{\"a\": \"}\"}";
        let both = format!("[f]{arguments}[g]{arguments}");
        for at_once in [1, 2, 5, 1_000] {
            let free = |answer: &str| told(&several(false), answer, at_once);
            let two = format!("<call>\n{f}\n</call>\n<call>\n{g}\n</call>\n");
            assert_eq!(free(&two), (both.clone(), true));
            assert_eq!(free(&format!("Look: {two}")), (format!("Look: {both}"), true));
            let words = format!("<call>{f}</call> and <call>{g}</call> done");
            let expected = format!("[f]{arguments}and[g]{arguments}done");
            assert_eq!(free(&words), (expected, true));
            assert_eq!(free("no call at all"), ("no call at all".into(), false));
            let cut = format!("<call>{f}</call><call>{{\"na");
            assert_eq!(free(&cut), (format!("[f]{arguments}"), false));
            let forced = format!("{f}\n</call>\n<call>\n{g}");
            assert_eq!(told(&several(true), &forced, at_once), (both.clone(), true));
        }
    }

    #[test]
    fn what_is_no_call_is_text() {
        for at_once in [1, 3, 1_000] {
            for answer in ["{\"names\": 1}", "{}", " {\"na", "a {\"name\": \"f\"", "<call", ""] {
                let text = (answer.to_owned(), None, String::new(), false);
                assert_eq!(told(&manner("", false), answer, at_once), text);
                assert_eq!(told(&manner("<call>", false), answer, at_once), text);
            }
        }
    }

    #[test]
    fn a_call_that_was_cut_tells_what_there_is() {
        let cut = |answer: &str| told(&manner("", true), answer, 2);
        let none = String::new;
        assert_eq!(cut("{\"name\": \"f"), (none(), None, none(), false));
        assert_eq!(
            cut("{\"name\": \"f\", \"arguments\": {\"a\": [1"),
            (none(), Some("f".into()), "{\"a\": [1".into(), false)
        );
    }
}
