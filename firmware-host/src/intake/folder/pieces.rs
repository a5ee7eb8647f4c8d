//! The text of one file to samples: a line of JSON is one, other text is cut into pieces of about a block.
//!
//! - Invariant: the pieces of a text, joined, are that text without its blank pieces.

use sapwood::intake::{self, IntakeError, Sample};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Bytes of the smallest piece that may be asked for.
const PIECE_BYTES_MIN: usize = 64;
/// Where a text is best cut, best first.
const SEAMS: [&str; 4] = ["\n\n", "\n", ". ", " "];

/// What of a file is no sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusals {
    pub(super) count: usize,
    /// Why the first is none.
    pub(super) first: Option<String>,
}

impl Refusals {
    pub(super) fn add(&mut self, why: String) {
        self.join(Self { count: 1, first: Some(why) });
    }

    pub(super) fn join(&mut self, more: Self) {
        self.count += more.count;
        if self.first.is_none() {
            self.first = more.first;
        }
    }
}

/// The pieces of a file of text, each with the number of the line it begins in, from 1; or why it has
/// none. `is_json`: its name says that it is JSON, whole or not.
pub(super) fn pieces(
    bytes: Vec<u8>,
    piece_bytes: usize,
    is_json: bool,
) -> Result<Vec<(usize, String)>, String> {
    let text = text(bytes)?;
    let begins = text.trim_start().starts_with(['{', '[']);
    if is_json || (begins && serde_json::from_str::<IgnoredAny>(&text).is_ok()) {
        return Err(
            "expected JSON lines, one object a line, or text; got another kind of JSON".into()
        );
    }
    let pieces = cut(&text, piece_bytes);
    if pieces.is_empty() {
        return Err("expected text, got nothing but blanks".into());
    }
    Ok(pieces)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    let line = |at: usize| 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
    let nul = bytes.iter().position(|&byte| byte == 0);
    let foreign = std::str::from_utf8(&bytes).err().map(|error| error.valid_up_to());
    if let Some(at) = nul.into_iter().chain(foreign).min() {
        let got = if nul == Some(at) { "a NUL byte" } else { "a byte that is not UTF-8" };
        return Err(format!("line {}: expected UTF-8 text, got {got}", line(at)));
    }
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
}

/// The sample of a line of JSON; none in a blank one.
pub(super) fn line(line: &str) -> Result<Option<Sample>, String> {
    match intake::samples(line.trim(), "line") {
        Ok(mut samples) => Ok(samples.pop()),
        Err(IntakeError::Line { problem, .. }) => Err(problem.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn cut(text: &str, piece_bytes: usize) -> Vec<(usize, String)> {
    let (mut rest, mut number, mut pieces) = (text, 1, Vec::new());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(seam(rest, piece_bytes.max(PIECE_BYTES_MIN)));
        if !piece.trim().is_empty() {
            pieces.push((number, piece.to_owned()));
        }
        number += piece.matches('\n').count();
        rest = after;
    }
    pieces
}

/// Where the first piece of at most `most` bytes ends: the last seam of the best kind that does not
/// leave a piece of less than a quarter.
fn seam(text: &str, most: usize) -> usize {
    if text.len() <= most {
        return text.len();
    }
    let window = &text[..text.floor_char_boundary(most)];
    let ends = SEAMS.iter().filter_map(|seam| window.rfind(seam).map(|at| at + seam.len()));
    ends.into_iter().find(|&end| end >= most / 4).unwrap_or(window.len())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn texts(text: &str, most: usize) -> Vec<String> {
        let found = pieces(text.as_bytes().to_vec(), most, false).unwrap();
        found.into_iter().map(|(_, piece)| piece).collect()
    }

    #[test]
    fn a_short_text_is_one_sample_and_a_long_one_is_cut_at_paragraphs_without_loss() {
        assert_eq!(texts("one\n\ntwo\n", 64), ["one\n\ntwo\n"]);
        let paragraph =
            "A sentence about the pump. Another, longer one about its valve.\nA line.\n\n";
        let text = paragraph.repeat(20);
        let pieces = texts(&text, 200);
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| piece.len() <= 200 && piece.ends_with("\n\n")));
    }

    #[test]
    fn text_without_seams_is_cut_between_characters() {
        let text = "🙂".repeat(100);
        let pieces = texts(&text, 66);
        assert_eq!(pieces.concat(), text);
        assert!(pieces[..6].iter().all(|piece| piece.len() == 64));
    }

    #[test]
    fn what_is_not_text_is_refused_by_line() {
        let refusal = |bytes: &[u8]| pieces(bytes.to_vec(), 64, false).unwrap_err();
        assert!(pieces(b"{\"text\": \"cut o".to_vec(), 64, true).is_err(), "a .json that was cut");
        assert_eq!(refusal(b"a\nb\0"), "line 2: expected UTF-8 text, got a NUL byte");
        assert_eq!(refusal(b"\xff"), "line 1: expected UTF-8 text, got a byte that is not UTF-8");
        assert_eq!(refusal(b" \n\n "), "expected text, got nothing but blanks");
        assert_eq!(texts("\u{feff}marked", 64), ["marked"]);
        assert!(refusal(b"[{\"text\": \"a\"}]").contains("another kind of JSON"));
        assert!(refusal(b"{\n \"text\": \"a\"\n}\n").contains("another kind of JSON"));
        assert_eq!(texts("[note] the pump", 64), ["[note] the pump"]);
    }
}
