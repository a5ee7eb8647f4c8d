//! Strings that end a text, found in what comes piece by piece.
//!
//! - In: pieces of text. Out: what may be shown already: never a part of a string that ends it.
//! - Invariant: what is held back is shorter than the longest of the strings.

/// Looks for the first of some strings in a text as it is written.
pub(super) struct Stops<'a> {
    stops: &'a [String],
    held: String,
    found: bool,
}

impl<'a> Stops<'a> {
    /// Looks for any of `stops`, none of them empty.
    pub(super) fn new(stops: &'a [String]) -> Self {
        Self { stops, held: String::new(), found: false }
    }

    /// Whether the text has ended.
    pub(super) fn found(&self) -> bool {
        self.found
    }

    /// What may be shown once `piece` has come.
    pub(super) fn push(&mut self, piece: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held.push_str(piece);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        self.found = first.is_some();
        let shown = first.unwrap_or_else(|| self.undecided());
        let rest = self.held.split_off(shown);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back and is shown after all, because no text follows.
    pub(super) fn rest(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        if self.found { String::new() } else { held }
    }

    /// Where the longest end begins that one of the strings may go on from.
    fn undecided(&self) -> usize {
        let begins = |at: &usize| {
            let end = self.held.get(*at..).unwrap_or_default();
            self.stops.iter().any(|stop| stop.starts_with(end))
        };
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(begins)
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text shown, piece by piece, and whether it was ended.
    fn shown(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut looking = Stops::new(&stops);
        let mut shown: Vec<String> = pieces.iter().map(|piece| looking.push(piece)).collect();
        let found = looking.found();
        shown.push(looking.rest());
        (shown, found)
    }

    #[test]
    fn a_stop_across_pieces_is_found_and_no_part_of_it_is_shown() {
        let (text, found) = shown(&["END"], &["ab", "cE", "N", "Dx", "y"]);
        assert_eq!(
            (text.as_slice(), found),
            (&["ab", "c", "", "", "", ""].map(str::to_owned)[..], true)
        );
    }

    #[test]
    fn what_only_looked_like_a_stop_is_shown() {
        let (text, found) = shown(&["\n\n", "END"], &["a\n", "b EN", "T", "\n"]);
        assert_eq!((text.concat(), found), ("a\nb ENT\n".to_owned(), false));
        assert_eq!(text[0], "a");
    }

    #[test]
    fn the_first_of_several_ends_the_text() {
        assert_eq!(shown(&["c", "ab"], &["xabc"]).0.concat(), "x");
        assert_eq!(shown(&["aab"], &["a", "a", "a", "b"]).0.concat(), "a");
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        let (text, found) = shown(&["→é"], &["é→", "→", "é"]);
        assert_eq!((text.concat(), found), ("é→".to_owned(), true));
    }

    #[test]
    fn without_stops_nothing_is_held_back() {
        assert_eq!(shown(&[], &["a", "b"]).0, ["a", "b", ""]);
    }
}
