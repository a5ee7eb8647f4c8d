//! The regular expressions of PEFT's configuration: written for Python's `re`, run by `regex`.
//!
//! - In: all the patterns of one setting. Out: the first of them that matches the whole of a name,
//!   as `re.fullmatch` would, or a reason why one is not read here.
//! - Invariant: the patterns of a setting are one program of at most [`PROGRAM_BYTES_MAX`], and a
//!   name is walked over once: no pattern makes that slower than program times name.
//! - Source: PEFT 0.21, which asks Python's `re`; the `regex` crate, "Untrusted input".

use super::python;
use regex::Error;
use regex::bytes::{RegexSet, RegexSetBuilder};

/// Most bytes of all patterns of a setting: one for each module of 400 layers stays under it.
const PATTERN_BYTES_MAX: usize = 1 << 17;
/// What they may take when they are compiled.
const PROGRAM_BYTES_MAX: usize = 1 << 22;
/// Deepest nesting, in which a group counts with what stands in it; recursion follows it.
const DEPTH_MAX: u32 = 64;

/// The checked patterns of one setting, in the order of the file.
pub(super) struct Patterns(RegexSet);

impl Patterns {
    /// Reads patterns; the error is the place of the one that is not read here, and the reason.
    pub(super) fn parse(texts: &[String]) -> Result<Self, (usize, String)> {
        let (mut read, mut bytes) = (Vec::with_capacity(texts.len()), 0);
        for (place, text) in texts.iter().enumerate() {
            bytes += text.len();
            if bytes > PATTERN_BYTES_MAX {
                let reason = format!("up to here more than {PATTERN_BYTES_MAX} bytes of patterns");
                return Err((place, reason));
            }
            read.push(python::read(text).map_err(|reason| (place, reason))?);
        }
        compile(&read).map(Self).map_err(|error| {
            let alone = |text| compile([text]).err();
            let one = read.iter().enumerate().find_map(|(place, text)| Some((place, alone(text)?)));
            let (place, error) = one.unwrap_or((read.len().saturating_sub(1), error));
            (place, reason(&error))
        })
    }

    /// The place of the first pattern that the whole of `name` matches.
    pub(super) fn first(&self, name: &str) -> Option<usize> {
        self.0.matches(name.as_bytes()).iter().next()
    }
}

/// Without Unicode: patterns and names are ASCII, where every class means the same with and without.
fn compile<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<RegexSet, Error> {
    RegexSetBuilder::new(texts)
        .unicode(false)
        .nest_limit(DEPTH_MAX)
        .size_limit(PROGRAM_BYTES_MAX)
        .dfa_size_limit(PROGRAM_BYTES_MAX)
        .build()
}

/// One line of what `regex` says on many.
fn reason(error: &Error) -> String {
    match error {
        Error::CompiledTooBig(most) => format!("compiled it takes more than {most} bytes"),
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.trim_start_matches("error: ").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use serde_json::Value;

    fn parse(pattern: &str) -> Result<Patterns, String> {
        Patterns::parse(&[pattern.to_owned()]).map_err(|(place, reason)| {
            assert!(place == 0 && !reason.contains('\n') && !reason.is_empty(), "{reason}");
            reason
        })
    }

    /// Oracle: `tools/golden/patterns.py`, `re.fullmatch` of CPython.
    fn golden() -> Value {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read(path.join("tests/golden/patterns/patterns.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn the_whole_name_matches_as_in_python() {
        let golden = golden();
        let names = golden["names"].as_array().unwrap();
        for (pattern, expected) in golden["read"].as_object().unwrap() {
            let read = parse(pattern).map_err(|reason| format!("{pattern}: {reason}")).unwrap();
            let got = names.iter().map(|name| match read.first(name.as_str().unwrap()) {
                None => '0',
                Some(_) => '1',
            });
            assert_eq!(&got.collect::<String>(), expected.as_str().unwrap(), "{pattern}");
        }
    }

    #[test]
    fn what_python_reads_otherwise_or_not_at_all_is_refused() {
        let golden = golden();
        for kind in ["refused", "broken"] {
            for pattern in golden[kind].as_object().unwrap().keys() {
                assert!(parse(pattern).is_err(), "{kind}: {pattern}");
            }
        }
    }

    #[test]
    fn what_is_not_read_is_refused_with_a_reason() {
        let deep = format!("{}a{}", "(".repeat(65), ")".repeat(65));
        for (pattern, reason) in [
            (r".*(?!q)_proj", "begins with `(?`: it is look-around"),
            (r"(?<=x)_proj", "look-around"),
            (r"(?P<x>q)(?P=x)", "back-reference"),
            (r"(q)\1", "back-reference"),
            (r"(?>q)", "atomic"),
            (r"(?i)q", "a flag"),
            (r"\x61", "not read here"),
            (r"(q_proj", "no `)`"),
            (r"q_proj)", "unbalanced"),
            (r"a)|(?:b", "unbalanced"),
            (r"[a-", "no `]`"),
            (r"[ab", "no `]`"),
            (r"[z-a]", "broken range"),
            (r"*a", "to repeat"),
            (r"a**", "repetition of a repetition"),
            (r"a++", "possessive"),
            (r"a{2,1}", "not a count"),
            (r"a{2", "not a count"),
            (r"a{99999999999}", "not a count"),
            (r"(?P<x>a)(?P<x>a)", "duplicate"),
            ("a\\", "backslash"),
            ("ä", "ASCII"),
            (deep.as_str(), "nested"),
        ] {
            let got = parse(pattern).err().unwrap();
            assert!(got.contains(reason), "{pattern}: {got}");
        }
    }

    #[test]
    fn the_first_of_many_wins_and_the_one_that_is_wrong_is_named() {
        let texts = ["b+", "a.*", ".*", "a"].map(str::to_owned);
        let read = Patterns::parse(&texts).unwrap();
        assert_eq!(["bb", "a", "c"].map(|name| read.first(name)), [Some(0), Some(1), Some(2)]);
        assert_eq!(Patterns::parse(&[]).unwrap().first("a"), None);
        for (wrong, reason) in
            [("(", "no `)`"), ("a{9999}{9}", "repetition"), ("(a{999}){999}", "compiled")]
        {
            let texts = ["b+", wrong, ".*"].map(str::to_owned);
            let (place, got) = Patterns::parse(&texts).err().unwrap();
            assert!(place == 1 && got.contains(reason), "{wrong}: {place}, {got}");
        }
    }

    /// Names of all linear layers of a decoder of 120 layers.
    fn names() -> Vec<String> {
        let name = |place| format!("model.layers.{}.self_attn.{}_proj", place / 7, place % 7);
        (0..840).map(name).collect()
    }

    #[test]
    fn patterns_for_each_module_of_many_layers_are_read() {
        let texts: Vec<String> = names().iter().map(|name| format!(r"(.*\.)?({name})$")).collect();
        let read = Patterns::parse(&texts).unwrap();
        assert!(names().iter().enumerate().all(|(place, name)| read.first(name) == Some(place)));
    }

    #[test]
    fn hostile_patterns_cost_bounded_time_and_memory() {
        let nested = (0..12).fold("a".to_owned(), |inner, _| format!("({inner})+"));
        let read = parse(&nested).unwrap();
        assert_eq!(read.first(&("a".repeat(4_000) + "b")), None);
        assert!(read.first(&"a".repeat(4_000)).is_some());
        assert!(parse("((a{1000}){1000}){1000}").err().unwrap().contains("compiled"));
        assert!(parse(&"a|".repeat(1 << 17)).err().unwrap().contains("bytes of patterns"));
        let texts = vec!["(a{100}){100}".to_owned(); 100];
        assert_eq!(Patterns::parse(&texts).err().unwrap().0, 99);
        let blind = parse("(.*[a-y]){400}z").unwrap();
        assert!(names().iter().all(|name| blind.first(name).is_none()));
    }
}
