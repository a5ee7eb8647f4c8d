//! Where a text that is free begins to be held to something: after a marker, or with an object that begins
//! with a name.
//!
//! - In: the bytes of a text as they come. Out: from which byte on it is held.
//! - Never here: tokens, masks.
//! - Invariant: what is kept of a text is what a beginning may still lie in.

/// How an object begins that is a call, where a model has no marker for one.
const NAMED: &[u8] = b"\"name\"";

/// A text before it is held to anything.
#[derive(Clone, Debug)]
pub(super) struct Waits {
    /// What a call begins after; without one a call is the whole text.
    marker: Vec<u8>,
    /// The end of the text, as far as a call may begin in it.
    text: Vec<u8>,
    /// Whether a call can still begin.
    may_begin: bool,
}

impl Waits {
    pub(super) fn new(marker: &str) -> Self {
        Self { marker: marker.as_bytes().to_vec(), text: Vec::new(), may_begin: true }
    }

    /// The last byte of what a call begins with: a token without it begins none.
    pub(super) fn last(&self) -> u8 {
        self.marker.last().or(NAMED.last()).copied().unwrap_or_default()
    }

    /// Whether a call can still begin in this text.
    pub(super) fn may_begin(&self) -> bool {
        self.may_begin
    }

    /// What of the text would be held once `more` has come: all after the marker, or the object; none
    /// while it is free.
    pub(super) fn held(&self, more: &[u8]) -> Option<Vec<u8>> {
        if !self.may_begin {
            return None;
        }
        let text = [&self.text, more].concat();
        if self.marker.is_empty() {
            return match object(&text) {
                Begins::At(at) => text.get(at..).map(<[u8]>::to_vec),
                Begins::Perhaps | Begins::Never => None,
            };
        }
        let at = text.windows(self.marker.len()).position(|part| part == self.marker)?;
        text.get(at + self.marker.len()..).map(<[u8]>::to_vec)
    }

    /// Takes in bytes with which no call has begun.
    pub(super) fn take(&mut self, more: &[u8]) {
        self.text.extend_from_slice(more);
        if self.marker.is_empty() {
            self.may_begin = matches!(object(&self.text), Begins::Perhaps);
        }
        let kept = match self.marker.len() {
            0 if self.may_begin => self.text.len(),
            length => length.saturating_sub(1),
        };
        self.text.drain(..self.text.len().saturating_sub(kept));
    }
}

enum Begins {
    At(usize),
    Perhaps,
    Never,
}

/// Whether a text begins with an object whose first key is a name.
fn object(text: &[u8]) -> Begins {
    let blanks = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let at = blanks(text);
    let inside = match text.get(at) {
        None => return Begins::Perhaps,
        Some(b'{') => text.get(at + 1..).unwrap_or_default(),
        Some(_) => return Begins::Never,
    };
    let key = inside.get(blanks(inside)..).unwrap_or_default();
    match () {
        () if key.starts_with(NAMED) => Begins::At(at),
        () if NAMED.starts_with(key) => Begins::Perhaps,
        () => Begins::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is held of a text that comes in pieces, and the piece with which that begins.
    fn held(marker: &str, pieces: &[&str]) -> Option<(usize, String)> {
        let mut waits = Waits::new(marker);
        for (at, piece) in pieces.iter().enumerate() {
            if let Some(held) = waits.held(piece.as_bytes()) {
                return Some((at, String::from_utf8_lossy(&held).into_owned()));
            }
            waits.take(piece.as_bytes());
            assert!(!waits.may_begin() || marker.is_empty() || waits.text.len() < marker.len());
        }
        None
    }

    #[test]
    fn a_marker_is_found_wherever_tokens_cut_it() {
        assert_eq!(held("<call>", &["a <ca", "ll", "> {", "x"]), Some((2, " {".into())));
        assert_eq!(held("<call>", &["<call>"]), Some((0, String::new())));
        assert_eq!(held("<call>", &["<<call", ">"]), Some((1, String::new())));
        assert_eq!(held("<call>", &["<call", " >", "<", "call"]), None);
    }

    #[test]
    fn without_a_marker_a_call_is_the_whole_text() {
        assert_eq!(held("", &["\n ", "{", " \"na", "me\":"]), Some((3, "{ \"name\":".into())));
        assert_eq!(held("", &["{\"name", "s\": 1, {\"name\""]), None);
        assert_eq!(held("", &["a {\"name\""]), None);
        assert_eq!(held("", &["{}", "{\"name\""]), None);
    }
}
