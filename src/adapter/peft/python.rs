//! Python's regular expressions, written again for the `regex` crate.
//!
//! - In: a pattern of Python's `re`, ASCII. Out: the same for `regex`, anchored at both ends.
//! - Only what means the same to both is passed on, and a character by its number, so that it is
//!   nothing but itself; what `regex` cannot do or reads otherwise is refused by name: look-around,
//!   back-references, atomic groups, possessive repetitions, flags.
//! - Never here: what is wrong within the rules of both; `regex` says it.
//! - Source: Python 3.11, module `re`; the `regex` crate, "Syntax".

use std::fmt::Write;

/// The pattern for `regex` that matches exactly what `re.fullmatch` does; the error is the reason
/// why it is not read.
pub(super) fn read(text: &str) -> Result<String, String> {
    if let Some(other) = text.chars().find(|letter| !letter.is_ascii()) {
        return Err(format!("{other:?} is not ASCII, and no module's name has it"));
    }
    let (text, out) = (text.as_bytes(), r"\A(?:".to_owned());
    let mut reader = Reader { text, at: 0, depth: 0, before: Before::Nothing, out };
    while let Some(letter) = reader.next() {
        reader.item(letter)?;
    }
    if reader.depth > 0 {
        return Err(format!("no `)` for {} of its `(`", reader.depth));
    }
    Ok(reader.out + r")\z")
}

/// What a repetition would repeat.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Item,
    Repetition,
}

/// One walk over a pattern of Python, which writes the same for `regex`.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    before: Before,
    out: String,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let letter = self.peek()?;
        self.at += 1;
        Some(letter)
    }

    fn take(&mut self, wanted: &str) -> bool {
        let here = self.text[self.at..].starts_with(wanted.as_bytes());
        self.at += if here { wanted.len() } else { 0 };
        here
    }

    fn push(&mut self, text: &str, before: Before) {
        self.out.push_str(text);
        self.before = before;
    }

    /// A character for itself, by its number: so it has no other meaning anywhere.
    fn literal(&mut self, letter: u8) {
        // Writing to a string does not fail.
        let _ = write!(self.out, r"\x{letter:02x}");
    }

    fn item(&mut self, letter: u8) -> Result<(), String> {
        match letter {
            b'.' => self.push(".", Before::Item),
            b'^' => self.push(r"\A", Before::Nothing),
            // Python lets a line break follow; no module's name has one.
            b'$' => self.push(r"\z", Before::Nothing),
            b'|' => self.push("|", Before::Nothing),
            b'(' => self.group()?,
            b')' if self.depth == 0 => {
                return Err(format!("unbalanced `)` at byte {}", self.at - 1));
            }
            b')' => {
                self.depth -= 1;
                self.push(")", Before::Item);
            }
            b'[' => self.class()?,
            b'\\' => self.escape()?,
            b'*' => self.repeat(self.at - 1, "*")?,
            b'+' => self.repeat(self.at - 1, "+")?,
            b'?' => self.repeat(self.at - 1, "?")?,
            b'{' => self.counted()?,
            letter => {
                self.literal(letter);
                self.before = Before::Item;
            }
        }
        Ok(())
    }

    fn group(&mut self) -> Result<(), String> {
        let at = self.at - 1;
        let rest = &self.text[self.at..];
        let what = match rest {
            [b'?', b'=' | b'!', ..] | [b'?', b'<', b'=' | b'!', ..] => Some("look-around"),
            [b'?', b'P', b'=', ..] => Some("a back-reference"),
            [b'?', b'P', b'<', ..] | [b'?', b':', ..] => None,
            [b'?', b'>', ..] => Some("an atomic group"),
            [b'?', b'(', ..] => Some("a condition"),
            [b'?', b'#', ..] => Some("a comment"),
            [b'?', ..] => Some("a flag or not a group of Python's"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(format!("the group at byte {at} begins with `(?`: it is {what}, not read"));
        }
        self.push("(", Before::Nothing);
        if self.take("?:") {
            self.out.push_str("?:");
        } else if self.take("?P<") {
            let rest = &self.text[self.at..];
            let name = rest.split(|letter| *letter == b'>').next().unwrap_or_default();
            let lawful = |letter: &u8| letter.is_ascii_alphanumeric() || *letter == b'_';
            let first = name.first().is_some_and(|letter| !letter.is_ascii_digit());
            if !first || !name.iter().all(lawful) || name.len() == rest.len() {
                return Err(format!(
                    "the group at byte {at} has no name of letters and `>` after it"
                ));
            }
            self.at += name.len() + 1;
            self.out.push_str("?P<");
            self.out.extend(name.iter().map(|letter| char::from(*letter)));
            self.out.push('>');
        }
        self.depth += 1;
        Ok(())
    }

    fn class(&mut self) -> Result<(), String> {
        let at = self.at - 1;
        self.push("[", Before::Item);
        if self.take("^") {
            self.out.push('^');
        }
        let start = self.at;
        loop {
            let Some(low) = self.next() else { return Err(format!("no `]` for `[` at byte {at}")) };
            if low == b']' && self.at - 1 > start {
                self.out.push(']');
                return Ok(());
            }
            let low = self.member(low)?;
            if self.peek() != Some(b'-') || matches!(self.text.get(self.at + 1), None | Some(b']'))
            {
                continue;
            }
            self.at += 1;
            self.out.push('-');
            let high = self.next().unwrap_or_default();
            let high = self.member(high)?;
            if low.is_none() || high.is_none() || low > high {
                return Err(format!("a broken range in `[` at byte {at}"));
            }
        }
    }

    /// One character of a class, or none for a set like `\d`.
    fn member(&mut self, letter: u8) -> Result<Option<u8>, String> {
        let letter = match (letter, self.peek()) {
            (b'\\', Some(b'b')) => {
                self.at += 1;
                8
            }
            (b'\\', _) => match self.escaped()? {
                Escaped::Set(set) => {
                    self.out.push_str(set);
                    return Ok(None);
                }
                Escaped::Letter(letter) => letter,
            },
            _ => letter,
        };
        self.literal(letter);
        Ok(Some(letter))
    }

    fn escape(&mut self) -> Result<(), String> {
        for (written, read) in [(b'A', r"\A"), (b'Z', r"\z"), (b'b', r"\b"), (b'B', r"\B")] {
            if self.peek() == Some(written) {
                self.at += 1;
                self.push(read, Before::Nothing);
                return Ok(());
            }
        }
        match self.escaped()? {
            Escaped::Set(set) => self.out.push_str(set),
            Escaped::Letter(letter) => self.literal(letter),
        }
        self.before = Before::Item;
        Ok(())
    }

    /// What follows a backslash, in a class or outside.
    fn escaped(&mut self) -> Result<Escaped, String> {
        let at = self.at - 1;
        let letter = self.next().ok_or("it ends in a backslash")?;
        Ok(match letter {
            b'd' => Escaped::Set(r"\d"),
            b'D' => Escaped::Set(r"\D"),
            b'w' => Escaped::Set(r"\w"),
            b'W' => Escaped::Set(r"\W"),
            b's' => Escaped::Set(r"\s"),
            b'S' => Escaped::Set(r"\S"),
            b'0'..=b'9' => {
                let letter = char::from(letter);
                return Err(format!(
                    "`\\{letter}` at byte {at} is a back-reference, not read here"
                ));
            }
            b'a'..=b'z' | b'A'..=b'Z' => {
                return Err(format!("`\\{}` at byte {at} is not read here", char::from(letter)));
            }
            letter => Escaped::Letter(letter),
        })
    }

    /// A repetition; a lazy mark changes which match is found first, not whether there is one.
    fn repeat(&mut self, at: usize, written: &str) -> Result<(), String> {
        match self.before {
            Before::Nothing => {
                return Err(format!("nothing for `{written}` at byte {at} to repeat"));
            }
            Before::Repetition => {
                let reason = "a repetition of a repetition, or a possessive one,";
                return Err(format!("{reason} at byte {at} is not read here"));
            }
            Before::Item => self.push(written, Before::Repetition),
        }
        self.take("?");
        Ok(())
    }

    fn counted(&mut self) -> Result<(), String> {
        let at = self.at - 1;
        let broken = || format!("`{{` at byte {at} is not a count `{{m}}`, `{{m,}}` or `{{m,n}}`");
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|letter| *letter == b'}').ok_or_else(broken)?;
        let inside = std::str::from_utf8(&rest[..end]).map_err(|_| broken())?;
        let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
        let digits = |text: &str| text.bytes().all(|letter| letter.is_ascii_digit());
        if inside.is_empty() || !digits(least) || !digits(most) {
            return Err(broken());
        }
        let number = |text: &str| text.parse::<u32>().map_err(|_| broken());
        let least = if least.is_empty() { 0 } else { number(least)? };
        let count = if most.is_empty() {
            format!("{{{least},}}")
        } else {
            format!(
                "{{{least},{}}}",
                Some(number(most)?).filter(|n| *n >= least).ok_or_else(broken)?
            )
        };
        self.at += end + 1;
        self.repeat(at, &count)
    }
}

enum Escaped {
    /// Many characters, by the name that both know.
    Set(&'static str),
    Letter(u8),
}
