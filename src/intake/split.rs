//! What is held out when nobody said: the end of the data, so that it is never learned.

use super::{Example, HeldOut};
use crate::settings::HELD_OUT_BYTES_MAX;

/// Takes the last tenth of the bytes, at most [`HELD_OUT_BYTES_MAX`], at least one example, from `train`.
///
/// Whole examples go; a document is cut at a blank line, else at a newline, else between characters.
pub(super) fn hold_out(train: &mut Vec<Example>) -> (Vec<Example>, HeldOut) {
    let total: usize = train.iter().map(Example::bytes).sum();
    let wanted = (total / 10).clamp(1, HELD_OUT_BYTES_MAX);
    let (mut held, mut bytes) = (Vec::new(), 0);
    while bytes < wanted {
        let only = train.len() == 1;
        let Some(last) = train.last_mut() else { break };
        let size = last.bytes();
        let room = wanted - bytes;
        if size > room {
            // A short text among many stays whole: a piece of a line is nothing to judge by.
            let tail = if size > wanted || only { tail_of(last, room) } else { None };
            if let Some(tail) = tail {
                bytes += tail.len();
                held.push(Example::Text(tail));
                break;
            }
            if !held.is_empty() {
                break;
            }
        }
        if only {
            break;
        }
        bytes += size;
        held.extend(train.pop());
    }
    held.reverse();
    let held_out = match held.len() {
        0 => HeldOut::None,
        examples => HeldOut::Split { examples, bytes },
    };
    (held, held_out)
}

/// The end of a document, about `room` bytes and never more; the document keeps the rest.
fn tail_of(example: &mut Example, room: usize) -> Option<String> {
    let Example::Text(text) = example else { return None };
    let mut from = text.len().checked_sub(room)?;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let tail = text.get(from..)?;
    // A cut that leaves less than half of what is wanted is worse than one between lines or characters.
    let cut = ["\n\n", "\n"]
        .iter()
        .filter_map(|end| tail.find(end).map(|at| at + end.len()))
        .find(|&cut| cut <= tail.len() / 2)
        .unwrap_or(0);
    let at = from + cut;
    (0 < at && at < text.len()).then(|| text.split_off(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(examples: &[Example]) -> String {
        examples.iter().flat_map(Example::parts).collect()
    }

    #[test]
    fn the_last_tenth_of_one_document_is_held_out_at_a_blank_line_and_nothing_is_lost() {
        let whole: String =
            (0..500).map(|number| format!("Note {number}: ok.\nDone.\n\n")).collect();
        let mut train = vec![Example::Text(whole.clone())];
        let (held, held_out) = hold_out(&mut train);
        let bytes = texts(&held).len();
        assert_eq!(held_out, HeldOut::Split { examples: 1, bytes });
        assert!(bytes > whole.len() / 11 && bytes <= whole.len() / 10);
        assert!(texts(&held).starts_with("Note "));
        assert_eq!(texts(&train) + &texts(&held), whole);
    }

    #[test]
    fn whole_examples_are_held_out_in_order_and_at_least_one() {
        let line = |number: usize| Example::Completion {
            prompt: format!("{number:04}"),
            completion: "yes".into(),
        };
        let mut train: Vec<_> = (0..100).map(line).collect();
        let (held, _) = hold_out(&mut train);
        assert_eq!((train.len(), held.len()), (90, 10));
        assert_eq!((&held[0], &held[9]), (&line(90), &line(99)));
        let mut two = vec![line(0), line(1)];
        assert_eq!(hold_out(&mut two).0, vec![line(1)]);
        let mut one = vec![line(0)];
        assert_eq!((hold_out(&mut one).1, one.len()), (HeldOut::None, 1));
    }

    #[test]
    fn a_large_document_gives_no_more_than_the_limit_and_characters_stay_whole() {
        let whole = "é".repeat(HELD_OUT_BYTES_MAX * 10 + 1);
        let mut train = vec![Example::Text(whole.clone())];
        let (held, _) = hold_out(&mut train);
        assert!(texts(&held).len() <= HELD_OUT_BYTES_MAX);
        assert_eq!(texts(&train) + &texts(&held), whole);
        for tiny in ["", "a", "é"] {
            let mut train = vec![Example::Text(tiny.into())];
            assert_eq!(hold_out(&mut train).1, HeldOut::None);
        }
    }
}
