//! Names for people: of devices, of fleets, and an operator's labels.
//!
//! - In: a text that somebody typed or sent. Out: whether all of it is seen as it stands.
//! - What moves, hides or joins other characters makes two names look like one, or a line read backwards.
//! - Never here: names that are bytes (`id`); words for programs.

/// Format characters (Cf of Unicode 16), first and last of each run: nothing of them is seen.
const FORMAT: [(u32, u32); 21] = [
    (0xad, 0xad),
    (0x600, 0x605),
    (0x61c, 0x61c),
    (0x6dd, 0x6dd),
    (0x70f, 0x70f),
    (0x890, 0x891),
    (0x8e2, 0x8e2),
    (0x180e, 0x180e),
    (0x200b, 0x200f),
    (0x202a, 0x202e),
    (0x2060, 0x2064),
    (0x2066, 0x206f),
    (0xfeff, 0xfeff),
    (0xfff9, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0001, 0xe0001),
    (0xe0020, 0xe007f),
];

/// Whether a character is none that is seen where it stands: a control or format character, or one that
/// breaks a line.
pub fn is_hidden(character: char) -> bool {
    let code = u32::from(character);
    let breaks = matches!(character, '\u{2028}' | '\u{2029}');
    let formats = FORMAT.iter().any(|(first, last)| (*first..=*last).contains(&code));
    character.is_control() || breaks || formats
}
