//! The regular expressions of PEFT's configuration: what people write to name modules, and no more.
//!
//! - In: a Python pattern of literals, `.`, classes, groups, `|`, `*`, `+`, `?`, `{m,n}`, `^` and `$`.
//! - Out: whether all of a module's name matches, or a reason why the pattern is not read here.
//! - Never here: captures, look-around, back-references. They are refused by name, not guessed.
//! - Invariant: time is bounded by `STEPS_MAX` and `FILE_STEPS_MAX`, whatever the patterns.

use std::cell::Cell;

/// Longest pattern, in bytes: ten thousand module names joined by `|` stay under it.
const PATTERN_BYTES_MAX: usize = 1 << 19;
/// Deepest nesting of groups; recursion follows it.
const DEPTH_MAX: usize = 16;
/// Longest name: one bit of a `u128` for each place in it and for its end.
const NAME_BYTES_MAX: usize = 127;
/// Nodes visited for one name before the pattern is called too costly.
const STEPS_MAX: usize = 1 << 20;
/// The same for all patterns and names of one file: patterns for each module of 120 layers are less.
const FILE_STEPS_MAX: usize = 1 << 26;

/// What the patterns of one file may still cost.
pub(super) struct Steps(Cell<usize>);

impl Default for Steps {
    fn default() -> Self {
        Self(Cell::new(FILE_STEPS_MAX))
    }
}

impl Steps {
    /// Takes the cost of one step, or of reading `steps` bytes of a pattern.
    pub(super) fn spend(&self, steps: usize) -> Result<(), String> {
        let left = self.0.get().checked_sub(steps);
        self.0.set(left.unwrap_or(0));
        left.map(drop).ok_or_else(|| {
            format!("the file's patterns take more than {FILE_STEPS_MAX} steps together")
        })
    }
}

/// A checked pattern.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern(Node);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// One ASCII character of the set, bit by bit.
    Class(u128),
    Start,
    End,
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat {
        node: Box<Node>,
        least: u32,
        most: u32,
    },
}

impl Pattern {
    /// Reads a pattern; the error says what in it is not read here.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("{} bytes, expected at most {PATTERN_BYTES_MAX}", text.len()));
        }
        if let Some(other) = text.chars().find(|letter| !letter.is_ascii()) {
            return Err(format!("{other:?} is not ASCII, and no module's name has it"));
        }
        let mut parser = Parser { text: text.as_bytes(), at: 0, depth: 0 };
        let node = parser.choice()?;
        match parser.peek() {
            None => Ok(Self(node)),
            Some(_) => Err(format!("unbalanced `)` at byte {}", parser.at)),
        }
    }

    /// Whether the whole of `name` matches, as Python's `re.fullmatch`.
    ///
    /// # Errors
    /// The reason when the pattern takes more than `STEPS_MAX` steps, or more than `left`.
    pub(super) fn matches(&self, name: &str, left: &Steps) -> Result<bool, String> {
        let name = name.as_bytes();
        if name.len() > NAME_BYTES_MAX || !name.is_ascii() {
            return Ok(false);
        }
        let mut search = Search { name, steps: 0, left };
        Ok(search.reach(&self.0, 1)? & (1 << name.len()) != 0)
    }
}

/// One walk over a name; places in it are the bits of a set, so that no choice is tried twice.
struct Search<'a> {
    name: &'a [u8],
    steps: usize,
    left: &'a Steps,
}

impl Search<'_> {
    /// The places that `node` can end at when it may start at any place of `from`.
    fn reach(&mut self, node: &Node, from: u128) -> Result<u128, String> {
        self.steps += 1;
        self.left.spend(1)?;
        if self.steps > STEPS_MAX {
            return Err(format!("it takes more than {STEPS_MAX} steps on one name"));
        }
        Ok(match node {
            Node::Class(set) => self.step(*set, from),
            Node::Start => from & 1,
            Node::End => from & (1 << self.name.len()),
            Node::Sequence(nodes) => {
                let mut places = from;
                for node in nodes {
                    places = if places == 0 { 0 } else { self.reach(node, places)? };
                }
                places
            }
            Node::Choice(nodes) => {
                let mut places = 0;
                for node in nodes {
                    places |= self.reach(node, from)?;
                }
                places
            }
            Node::Repeat { node, least, most } => self.repeat(node, *least, *most, from)?,
        })
    }

    fn step(&self, set: u128, from: u128) -> u128 {
        let ends = |(place, letter): (usize, &u8)| {
            let here = from & (1 << place) != 0 && set & (1 << letter) != 0;
            u128::from(here) << (place + 1)
        };
        self.name.iter().enumerate().map(ends).fold(0, |places, end| places | end)
    }

    fn repeat(&mut self, node: &Node, least: u32, most: u32, from: u128) -> Result<u128, String> {
        let mut places = from;
        let mut found = if least == 0 { from } else { 0 };
        for count in 1..=most {
            let next = self.reach(node, places)?;
            // Once the places stand still, every further repetition ends at the same ones.
            let still = next == places;
            places = next;
            if count >= least || still {
                found |= places;
            }
            if still || places == 0 {
                break;
            }
        }
        Ok(found)
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
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

    fn choice(&mut self) -> Result<Node, String> {
        let mut choices = vec![self.sequence()?];
        while self.take("|") {
            choices.push(self.sequence()?);
        }
        Ok(Node::Choice(choices))
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while let Some(letter) = self.peek() {
            if letter == b'|' || letter == b')' {
                break;
            }
            let node = self.atom()?;
            nodes.push(self.repeated(node)?);
        }
        Ok(Node::Sequence(nodes))
    }

    fn atom(&mut self) -> Result<Node, String> {
        let at = self.at;
        Ok(match self.next() {
            Some(b'.') => Node::Class(!(1 << b'\n')),
            Some(b'^') => Node::Start,
            Some(b'$') => Node::End,
            Some(b'(') => self.group(at)?,
            Some(b'[') => self.class(at)?,
            Some(b'\\') => Node::Class(self.escape(at)?),
            Some(letter @ (b'*' | b'+' | b'?' | b'{')) => {
                return Err(format!("nothing for `{}` at byte {at} to repeat", letter as char));
            }
            Some(letter) => Node::Class(1 << letter),
            None => return Err("it ends too early".to_owned()),
        })
    }

    fn group(&mut self, at: usize) -> Result<Node, String> {
        if self.take("?P<") {
            while self.next().ok_or("a group's name has no end")? != b'>' {}
        } else if self.peek() == Some(b'?') && !self.take("?:") {
            return Err(format!("the group at byte {at} begins with `(?`: only `(?:` is read"));
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("groups nest deeper than {DEPTH_MAX}"));
        }
        let node = self.choice()?;
        self.depth -= 1;
        if self.take(")") { Ok(node) } else { Err(format!("no `)` for the `(` at byte {at}")) }
    }

    fn class(&mut self, at: usize) -> Result<Node, String> {
        let negated = self.take("^");
        let (mut set, mut first) = (0, true);
        loop {
            let Some(low) = self.next() else { return Err(format!("no `]` for `[` at byte {at}")) };
            if low == b']' && !first {
                break;
            }
            first = false;
            let ranged = self.peek() == Some(b'-') && self.text.get(self.at + 1) != Some(&b']');
            if low == b'\\' {
                set |= self.escape(self.at - 1)?;
            } else if ranged {
                self.at += 1;
                let high = self.next().filter(|high| *high >= low && *high != b'\\');
                let high = high.ok_or_else(|| format!("a broken range in `[` at byte {at}"))?;
                set |= (low..=high).fold(0, |set, letter| set | 1 << letter);
            } else {
                set |= 1 << low;
            }
        }
        Ok(Node::Class(if negated { !set } else { set }))
    }

    fn escape(&mut self, at: usize) -> Result<u128, String> {
        let range = |letters: std::ops::RangeInclusive<u8>| letters.fold(0, |set, x| set | 1 << x);
        let digits: u128 = range(b'0'..=b'9');
        let word = digits | range(b'a'..=b'z') | range(b'A'..=b'Z') | 1 << b'_';
        let space = range(9..=13) | 1 << b' ';
        match self.next() {
            Some(b'd') => Ok(digits),
            Some(b'D') => Ok(!digits),
            Some(b'w') => Ok(word),
            Some(b'W') => Ok(!word),
            Some(b's') => Ok(space),
            Some(b'S') => Ok(!space),
            Some(letter) if letter.is_ascii_punctuation() => Ok(1 << letter),
            Some(letter) => {
                Err(format!("`\\{}` at byte {at} is not read here", letter.escape_ascii()))
            }
            None => Err("it ends in a backslash".to_owned()),
        }
    }

    fn repeated(&mut self, node: Node) -> Result<Node, String> {
        let (least, most) = match self.peek() {
            Some(b'*') => (0, u32::MAX),
            Some(b'+') => (1, u32::MAX),
            Some(b'?') => (0, 1),
            Some(b'{') => return self.counted(node),
            _ => return Ok(node),
        };
        self.at += 1;
        self.once(node, least, most)
    }

    fn counted(&mut self, node: Node) -> Result<Node, String> {
        let at = self.at;
        let broken = || format!("`{{` at byte {at} is not a count `{{m}}`, `{{m,}}` or `{{m,n}}`");
        let rest = &self.text[at + 1..];
        let end = rest.iter().position(|letter| *letter == b'}').ok_or_else(broken)?;
        let inside = std::str::from_utf8(&rest[..end]).map_err(|_| broken())?;
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| broken());
        let (least, most) = match inside.split_once(',') {
            None => (number(inside)?, number(inside)?),
            Some((least, "")) => (number(least)?, u32::MAX),
            Some((least, most)) => (number(least)?, number(most)?),
        };
        if least > most {
            return Err(broken());
        }
        self.at += end + 2;
        self.once(node, least, most)
    }

    /// A lazy mark changes which match is found first, not whether there is one.
    fn once(&mut self, node: Node, least: u32, most: u32) -> Result<Node, String> {
        self.take("?");
        match self.peek() {
            Some(b'*' | b'+' | b'?' | b'{') => {
                Err(format!("a repetition of a repetition at byte {}", self.at))
            }
            _ => Ok(Node::Repeat { node: Box::new(node), least, most }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(name, &Steps::default()).unwrap()
    }

    /// Oracle: `re.fullmatch(pattern, name) is not None` of CPython 3.
    #[test]
    fn the_whole_name_matches_as_in_python() {
        let name = "model.layers.12.self_attn.q_proj";
        for (pattern, expected) in [
            (r".*\.(q|v)_proj", true),
            (r".*q_proj", true),
            (r"q_proj", false),
            (r"(.*\.)?(q_proj)$", true),
            (r"(.*\.)?(_proj)$", false),
            (r"(.*\.)?(^model.layers.12.self_attn.q_proj)$", true),
            (r"(.*\.)?(^layers.12.self_attn.q_proj)$", false),
            (r"model\.layers\.\d+\..*_proj", true),
            (r"model\.layers\.\d\..*_proj", false),
            (r"model\.layers\.(1|12)\.(?:self_attn|mlp)\.[qkv]_proj", true),
            (r".*layers\.1[0-2]\.[^.]*\.q.*?", true),
            (r".*layers\.1[^0-2]\..*", false),
            (r"model\.layers\.\d{2}\.\w+\.q_proj", true),
            (r"model\.layers\.\d{3,}\.\w+\.q_proj", false),
            (r"(model|)(\.[a-z0-9_]+){1,4}", true),
            (r"(model|)(\.[a-z0-9_]+){1,3}", false),
            (r"((m*)*)*odel.*", true),
            (r"(?P<x>model).*[]_-]proj", true),
            (r"a{0}model.*", true),
            (r".*\Dq_proj|nothing", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_not_read_is_refused_with_a_reason() {
        let deep = format!("{}a{}", "(".repeat(17), ")".repeat(17));
        for (pattern, reason) in [
            (r".*(?!q)_proj", "begins with `(?`"),
            (r"\bq_proj", "not read here"),
            (r"(q_proj", "no `)`"),
            (r"q_proj)", "unbalanced"),
            (r"[a-", "broken range"),
            (r"[ab", "no `]`"),
            (r"[z-a]", "broken range"),
            (r"*a", "to repeat"),
            (r"a**", "repetition of a repetition"),
            (r"a{2,1}", "not a count"),
            (r"a{2", "not a count"),
            (r"a{99999999999}", "not a count"),
            ("a\\", "backslash"),
            ("ä", "ASCII"),
            (deep.as_str(), "deeper"),
        ] {
            let got = Pattern::parse(pattern).unwrap_err();
            assert!(got.contains(reason), "{pattern}: {got}");
        }
    }

    #[test]
    fn a_hostile_pattern_costs_bounded_time() {
        let hostile = (0..12).fold("a".to_owned(), |inner, _| format!("({inner})+"));
        let (name, left) = ("a".repeat(NAME_BYTES_MAX), Steps::default());
        let hostile = Pattern::parse(&hostile).unwrap();
        assert!(!hostile.matches(&(name + "b"), &left).unwrap_or(false));
        let name = "a".repeat(NAME_BYTES_MAX - 1) + "b";
        assert!(hostile.matches(&name, &left).unwrap_err().contains("steps on one name"));
    }

    #[test]
    fn many_patterns_cost_bounded_time_together() {
        let (pattern, left) = (Pattern::parse("a*b").unwrap(), Steps::default());
        assert_eq!(pattern.matches("aab", &left), Ok(true));
        left.spend(FILE_STEPS_MAX - 20).unwrap();
        let refused = (0..9).find_map(|_| pattern.matches("aab", &left).err()).unwrap();
        assert!(refused.contains("together"), "{refused}");
    }
}
