//! Filters, tests and functions as Jinja2 and transformers have them, where the engine's are others.
//!
//! - In: an environment. Out: the same with the names of Jinja2 alone.
//! - Never here: chance and the clock. `random`, `lipsum`, `urlize` and `wordwrap` are refused as unknown.
//! - Source: Jinja2 3.1's `filters.py`, `tests.py` and `defaults.py`, by what they give.

#![expect(clippy::needless_pass_by_value, reason = "the engine gives arguments away")]

use super::methods::{Many, centred, percent, strip};
use super::python::{Dumps, dumps, items, repr, text};
use super::source::{PERCENT, SAID};
use super::strftime::strftime;
use minijinja::value::{
    Kwargs, Object, ObjectRepr, Rest, Value, ValueKind, ValueOrKwargs, from_args,
};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::{filters, globals};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Around what a template marks as said by the assistant. Unicode gives these to nobody.
pub(super) const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];
/// Names that the engine has and Jinja2 does not.
const FOREIGN_FILTERS: [&str; 5] = ["split", "lines", "bool", "chain", "zip"];
/// The same of tests.
const FOREIGN_TESTS: [&str; 2] = ["startingwith", "endingwith"];

/// Gives an environment the names of Jinja2 in transformers' sandbox.
pub(super) fn furnish(environment: &mut Environment<'static>) {
    environment.set_formatter(|out, _, value| Ok(out.write_str(&text(value))?));
    FOREIGN_FILTERS.iter().for_each(|name| environment.remove_filter(name));
    FOREIGN_TESTS.iter().for_each(|name| environment.remove_test(name));
    environment.remove_global("debug");
    strings(environment);
    numbers(environment);
    tests(environment);
    environment.add_filter(SAID, |said: &str| format!("{}{said}{}", MARKS[0], MARKS[1]));
    environment.add_filter("tojson", tojson);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_function("raise_exception", |message: Value| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, text(&message)))
    });
    environment.add_function("strftime_now", |format: &str| strftime(format));
    environment.add_function("cycler", |items: Many| cycler(items.0));
    environment.add_function("joiner", globals::joiner);
}

fn strings(environment: &mut Environment<'static>) {
    environment.add_filter(PERCENT, |format: &Value, values: &Value| match format.as_str() {
        Some(format) => percent(format, values),
        None => Err(refused("%: expected a string before it")),
    });
    environment.add_filter("string", |value: &Value| {
        if value.as_str().is_some() { value.clone() } else { Value::from(text(value)) }
    });
    environment.add_filter("join", join);
    environment.add_filter("pprint", |value: &Value| {
        let written = repr(value);
        // Python breaks what is longer into lines.
        let fits = written.chars().count() <= 80;
        if fits { Ok(written) } else { Err(refused("pprint: a value of more than 80 characters")) }
    });
    environment.add_filter("trim", |value: &Value, letters: Option<Value>, named: Kwargs| {
        let letters = letters.or(named.get("chars")?).filter(|letters| !letters.is_none());
        named.assert_all_used()?;
        let letters = letters.as_ref().map(text);
        Ok::<_, Error>(strip(&text(value), letters.as_deref(), [true, true]).to_owned())
    });
    environment.add_filter("center", |value: &Value, width: Option<usize>| {
        centred(&text(value), width.unwrap_or(80).min(1_000_000), " ")
    });
    environment.add_filter("wordcount", |value: &Value| words(&text(value)));
    environment.add_filter("truncate", truncate);
    environment.add_filter("indent", indent);
    environment.add_filter(
        "replace",
        |value: &Value, old: &str, new: &str, most: Option<usize>| {
            let value = text(value);
            most.map_or_else(|| value.replace(old, new), |most| value.replacen(old, new, most))
        },
    );
    // Of attributes alone, which no value of a template has.
    environment.add_filter("attr", |_: &Value, _: &str| Value::UNDEFINED);
    environment.add_filter("striptags", |value: &Value| striptags(&text(value)));
    environment.add_filter("urlencode", |value: &Value| urlencode(value));
    environment.add_filter("xmlattr", xmlattr);
    environment.add_filter("filesizeformat", filters::filesizeformat);
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, move |value: &Value| {
            let is_done = name != "forceescape" && value.is_safe();
            Value::from_safe_string(if is_done { text(value) } else { escaped(&text(value)) })
        });
    }
}

fn numbers(environment: &mut Environment<'static>) {
    environment.add_filter("int", int);
    environment.add_filter("float", |value: &Value, other: Option<Value>, named: Kwargs| {
        let other = other.or(named.get("default")?).unwrap_or_else(|| Value::from(0.0));
        named.assert_all_used()?;
        let number = match value.as_str() {
            Some(text) => text.trim().replace('_', "").parse().ok(),
            None if value.is_none() || value.is_undefined() => None,
            None => f64::try_from(value.clone()).ok(),
        };
        Ok::<_, Error>(number.map_or(other, Value::from))
    });
}

fn tests(environment: &mut Environment<'static>) {
    let is_many = |value: &Value| {
        let kind = value.kind();
        matches!(kind, ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
    };
    let is_truth = |value: &Value| value.kind() == ValueKind::Bool;
    environment.add_test("sequence", move |value: &Value| is_many(value));
    environment.add_test("iterable", move |value: &Value| is_many(value) || value.is_undefined());
    environment.add_test("number", move |value: &Value| value.is_number() || is_truth(value));
    environment.add_test("integer", move |value: &Value| value.is_integer() && !is_truth(value));
    environment.add_test("callable", |value: &Value| {
        value.kind() == ValueKind::Plain && value.as_object().is_some()
    });
}

fn refused(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.to_owned())
}

/// transformers' own: `json.dumps` with its four choices.
fn tojson(value: &Value, ascii: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let ascii = ascii.or(named.get("ensure_ascii")?).is_some_and(|ascii| ascii.is_true());
    let indent: Option<Value> = named.get("indent")?;
    let separators: Option<Value> = named.get("separators")?;
    let sort_keys: Option<Value> = named.get("sort_keys")?;
    named.assert_all_used()?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(blanks)) if blanks <= 1000 => " ".repeat(blanks),
            _ => return Err(refused("tojson: indent: expected a number of blanks or a string")),
        }),
    };
    let separators = match separators.filter(|pair| !pair.is_none()) {
        None => None,
        Some(pair) => match items(&pair).as_slice() {
            [comma, colon] => Some((text(comma), text(colon))),
            _ => return Err(refused("tojson: separators: expected two strings")),
        },
    };
    let sort_keys = sort_keys.is_some_and(|sort| sort.is_true());
    dumps(value, &Dumps { ensure_ascii: ascii, indent, separators, sort_keys }).map(Value::from)
}

fn default(
    value: &Value,
    other: Option<Value>,
    lax: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let other = other.or(named.get("default_value")?).unwrap_or_else(|| Value::from(""));
    let lax = lax.or(named.get("boolean")?).is_some_and(|lax| lax.is_true());
    named.assert_all_used()?;
    Ok(if value.is_undefined() || (lax && !value.is_true()) { other } else { value.clone() })
}

fn join(
    list: &Value,
    between: Option<Value>,
    by: Option<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let between = between.or(named.get("d")?).map_or_else(String::new, |between| text(&between));
    let by: Option<Value> = by.or(named.get("attribute")?);
    named.assert_all_used()?;
    if list.try_iter().is_err() && !list.is_undefined() {
        return Err(refused(&format!("join: expected a list, got {}", list.kind())));
    }
    let part = |item: &Value| match &by {
        None => Ok(text(item)),
        Some(key) => Ok::<_, Error>(text(&item.get_item(key)?)),
    };
    let parts: Vec<String> = items(list).iter().map(part).collect::<Result<_, _>>()?;
    Ok(parts.join(&between))
}

fn int(
    value: &Value,
    other: Option<Value>,
    base: Option<u32>,
    named: Kwargs,
) -> Result<Value, Error> {
    let other = other.or(named.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(named.get("base")?).unwrap_or(10);
    named.assert_all_used()?;
    if !(2..=36).contains(&base) {
        return Err(refused("int: base: expected 2 to 36"));
    }
    let Some(text) = value.as_str() else {
        let number = match value.kind() {
            ValueKind::Number if value.is_integer() => return Ok(value.clone()),
            ValueKind::Number => {
                f64::try_from(value.clone()).ok().filter(|number| number.is_finite())
            }
            ValueKind::Bool => return Ok(Value::from(i64::from(value.is_true()))),
            _ => None,
        };
        // Toward zero, as Python's.
        #[expect(clippy::cast_possible_truncation, reason = "what is larger saturates")]
        return Ok(number.map_or(other, |number| Value::from(number as i64)));
    };
    let digits = text.trim().replace('_', "");
    let digits = digits.strip_prefix('+').unwrap_or(&digits);
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let whole = i64::from_str_radix(digits.strip_prefix(prefix).unwrap_or(digits), base).ok();
    // A string that is a float counts as its whole part.
    #[expect(clippy::cast_possible_truncation, reason = "what is larger saturates")]
    let whole =
        whole.or_else(|| Some(text.trim().parse::<f64>().ok().filter(|_| base == 10)? as i64));
    Ok(whole.map_or(other, Value::from))
}

/// Words as `\w+` finds them.
fn words(text: &str) -> usize {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.split(|letter| !is_word(letter)).filter(|word| !word.is_empty()).count()
}

fn truncate(value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    type Args = (Option<usize>, Option<Value>, Option<String>, Option<usize>, Kwargs);
    let args = args.into_values();
    let (length, cut, end, leeway, named): Args = from_args(&args)?;
    let length = length.or(named.get("length")?).unwrap_or(255);
    let cut = cut.or(named.get("killwords")?).is_some_and(|cut| cut.is_true());
    let end = end.or(named.get("end")?).unwrap_or_else(|| "...".to_owned());
    let leeway = leeway.or(named.get::<Option<usize>>("leeway")?).unwrap_or(5);
    named.assert_all_used()?;
    let text = text(value);
    let Some(room) = length.checked_sub(end.chars().count()) else {
        return Err(refused("truncate: the end is longer than the length"));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take(room).collect();
    let kept =
        if cut { &kept } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(kept, _)| kept) };
    Ok(format!("{kept}{end}"))
}

fn indent(
    value: &Value,
    width: Option<Value>,
    first: Option<Value>,
    blank: Option<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = width.or(named.get("width")?).unwrap_or_else(|| Value::from(4));
    let first = first.or(named.get("first")?).is_some_and(|first| first.is_true());
    let blank = blank.or(named.get("blank")?).is_some_and(|blank| blank.is_true());
    named.assert_all_used()?;
    let indent = match (width.as_str(), width.as_usize()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(blanks)) if blanks <= 1000 => " ".repeat(blanks),
        _ => return Err(refused("indent: width: expected a number of blanks or a string")),
    };
    let text = text(value);
    let line = |(at, line): (usize, &str)| match at == 0 || (line.is_empty() && !blank) {
        true => line.to_owned(),
        false => format!("{indent}{line}"),
    };
    let lines: Vec<String> = text.split('\n').enumerate().map(line).collect();
    Ok(format!("{}{}", if first { indent.as_str() } else { "" }, lines.join("\n")))
}

/// Without tags and comments of markup, blanks joined.
fn striptags(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("<!--") {
        kept.push_str(&rest[..at]);
        rest = rest[at..].find("-->").map_or("", |end| &rest[at + end + 3..]);
    }
    kept.push_str(rest);
    let mut plain = String::new();
    let mut rest = kept.as_str();
    while let Some((before, after)) = rest.split_once('<') {
        let Some((_, tail)) = after.split_once('>') else { break };
        plain.push_str(before);
        rest = tail;
    }
    plain.push_str(rest);
    let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(plain, |plain, (name, letter)| plain.replace(name, letter))
}

fn urlencode(value: &Value) -> Result<String, Error> {
    let quoted = |text: &str, safe: &str| -> String {
        let letter = |byte: u8| match char::from(byte) {
            letter if letter.is_ascii_alphanumeric() || "_.-~".contains(letter) => {
                letter.to_string()
            }
            letter if safe.contains(letter) => letter.to_string(),
            _ => format!("%{byte:02X}"),
        };
        text.bytes().map(letter).collect()
    };
    let pair = |key: &Value, value: &Value| {
        let [key, value] = [key, value].map(|part| quoted(&text(part), "").replace("%20", "+"));
        format!("{key}={value}")
    };
    Ok(match value.kind() {
        ValueKind::Map => {
            let pairs = items(value);
            let pairs = pairs.iter().map(|key| Ok::<_, Error>(pair(key, &value.get_item(key)?)));
            pairs.collect::<Result<Vec<_>, _>>()?.join("&")
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let pairs = items(value);
            let pairs = pairs.iter().map(|item| match items(item).as_slice() {
                [key, value] => Ok(pair(key, value)),
                _ => Err(refused("urlencode: expected pairs")),
            });
            pairs.collect::<Result<Vec<_>, _>>()?.join("&")
        }
        _ => quoted(&text(value), "/"),
    })
}

fn xmlattr(value: &Value, space: Option<bool>) -> Result<Value, Error> {
    let mut written = String::new();
    for key in items(value) {
        let of = value.get_item(&key)?;
        if of.is_none() || of.is_undefined() {
            continue;
        }
        let name = text(&key);
        if name.contains([' ', '\t', '\n', '\u{c}', '\r', '/', '>', '=']) {
            return Err(refused(&format!("xmlattr: {name:?} is no name of an attribute")));
        }
        let between = if written.is_empty() { "" } else { " " };
        written.push_str(&format!("{between}{}=\"{}\"", escaped(&name), escaped(&text(&of))));
    }
    if !written.is_empty() && space.unwrap_or(true) {
        written.insert(0, ' ');
    }
    Ok(Value::from_safe_string(written))
}

/// As MarkupSafe escapes.
fn escaped(text: &str) -> String {
    [("&", "&amp;"), (">", "&gt;"), ("<", "&lt;"), ("'", "&#39;"), ("\"", "&#34;")]
        .iter()
        .fold(text.to_owned(), |text, (letter, name)| text.replace(letter, name))
}

/// Jinja2's `cycler`: one item after the other, again and again.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

fn cycler(items: Vec<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(refused("cycler: expected an item"));
    }
    Ok(Value::from_object(Cycler { items, at: AtomicUsize::new(0) }))
}

impl Cycler {
    fn current(&self) -> Value {
        self.items.get(self.at.load(Ordering::Relaxed)).cloned().unwrap_or_default()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let () = from_args(args)?;
        match method {
            "next" => {
                let item = self.current();
                self.at.store(
                    (self.at.load(Ordering::Relaxed) + 1) % self.items.len(),
                    Ordering::Relaxed,
                );
                Ok(item)
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}
