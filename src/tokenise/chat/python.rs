//! Values as Python writes them: `str`, `repr` and `json.dumps`.
//!
//! - In: values of a template. Out: text, to the letter what CPython 3 makes of the same values.
//! - Source: Python's library reference; `json.encoder` for [`dumps`]. `tools/golden/templates.py` is the oracle.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Most levels of lists and dictionaries in one another.
const DEPTH_MAX: usize = 200;

/// How [`dumps`] writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Dumps {
    /// Escape what is not ASCII.
    pub(super) ensure_ascii: bool,
    /// What stands before a level, once for each level; none writes one line.
    pub(super) indent: Option<String>,
    /// Between items, and between key and value.
    pub(super) separators: Option<(String, String)>,
    /// Keys in order.
    pub(super) sort_keys: bool,
}

/// `str(value)`; nothing for a value that is undefined.
pub(super) fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => repr(value),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(value, &mut out, 0);
    out
}

fn write_repr(value: &Value, out: &mut String, depth: usize) {
    let list = |out: &mut String, open: &str, close: &str| {
        out.push_str(open);
        for (at, item) in items(value).iter().enumerate() {
            out.push_str(if at > 0 { ", " } else { "" });
            write_repr(item, out, depth + 1);
        }
        out.push_str(close);
    };
    match value.kind() {
        _ if depth > DEPTH_MAX => out.push_str("..."),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Number if !value.is_integer() => out.push_str(&float(value)),
        ValueKind::Seq if value.is_tuple() => {
            list(out, "(", if value.len() == Some(1) { ",)" } else { ")" });
        }
        ValueKind::Seq | ValueKind::Iterable => list(out, "[", "]"),
        ValueKind::Map => {
            out.push('{');
            for (at, key) in items(value).iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write_repr(key, out, depth + 1);
                out.push_str(": ");
                write_repr(&value.get_item(key).unwrap_or_default(), out, depth + 1);
            }
            out.push('}');
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        _ => out.push_str(&value.to_string()),
    }
}

/// The items of a list, the keys of a dictionary, the characters of a string.
pub(super) fn items(value: &Value) -> Vec<Value> {
    value.try_iter().map(Iterator::collect).unwrap_or_default()
}

/// A string in quotes as Python chooses them.
fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if letter == mark => out.extend(['\\', letter]),
            _ if is_printable(letter) => out.push(letter),
            _ => out.push_str(&match u32::from(letter) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(mark);
}

/// Whether Python prints a character as it is: not controls, blanks but the space, marks of format, nor
/// what has no character.
fn is_printable(letter: char) -> bool {
    let is_format = matches!(letter,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}'
        | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..);
    letter == ' ' || !(letter.is_control() || letter.is_whitespace() || is_format)
}

/// A float as `repr` writes it: the shortest digits that give it back.
fn float(value: &Value) -> String {
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    if !number.is_finite() {
        let name = if number.is_nan() { "nan" } else { "inf" };
        return if number < 0.0 { format!("-{name}") } else { name.to_owned() };
    }
    let written = format!("{number:e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) || number == 0.0 {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// `json.dumps(value)`.
///
/// # Errors
/// What JSON cannot say, as Python refuses it.
pub(super) fn dumps(value: &Value, how: &Dumps) -> Result<String, Error> {
    let mut out = String::new();
    write_json(value, how, 0, &mut out)?;
    Ok(out)
}

fn write_json(value: &Value, how: &Dumps, depth: usize, out: &mut String) -> Result<(), Error> {
    let refused = |what: &str| {
        Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {what} is no JSON")))
    };
    if depth > DEPTH_MAX {
        return refused("so deep a value");
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => string(value.as_str().unwrap_or_default(), how, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let each = |item: &Value, out: &mut String| write_json(item, how, depth + 1, out);
            many(['[', ']'], &items(value), how, depth, out, each)?;
        }
        ValueKind::Map => {
            let mut keys = items(value);
            if how.sort_keys {
                keys.sort();
            }
            let (_, colon) = separators(how);
            many(['{', '}'], &keys, how, depth, out, |key, out| {
                match key.kind() {
                    ValueKind::String => string(key.as_str().unwrap_or_default(), how, out),
                    ValueKind::Number | ValueKind::Bool | ValueKind::None => {
                        out.push('"');
                        write_json(key, how, depth + 1, out)?;
                        out.push('"');
                    }
                    _ => return refused("such a key"),
                }
                out.push_str(colon);
                write_json(&value.get_item(key)?, how, depth + 1, out)
            })?;
        }
        kind => return refused(&format!("a value that is {kind}")),
    }
    Ok(())
}

fn separators(how: &Dumps) -> (&str, &str) {
    match (&how.separators, &how.indent) {
        (Some((comma, colon)), _) => (comma, colon),
        (None, None) => (", ", ": "),
        (None, Some(_)) => (",", ": "),
    }
}

/// What stands between the brackets, on lines of its own where there is an indent.
fn many(
    [open, close]: [char; 2],
    items: &[Value],
    how: &Dumps,
    depth: usize,
    out: &mut String,
    mut each: impl FnMut(&Value, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = &how.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    out.push(open);
    for (at, item) in items.iter().enumerate() {
        out.push_str(if at > 0 { separators(how).0 } else { "" });
        line(out, depth + 1);
        each(item, out)?;
    }
    if !items.is_empty() {
        line(out, depth);
    }
    out.push(close);
    Ok(())
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match float(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        number => number.to_owned(),
    }
}

fn string(text: &str, how: &Dumps, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            _ if letter < ' ' || (how.ensure_ascii && !(' '..='~').contains(&letter)) => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
}
