//! Methods of Python's strings, lists and dictionaries that the engine does not have as Python has them.
//!
//! - In: a value, the name of a method, arguments. Out: what Python gives, or a refusal by that name.
//! - Never here: methods that change a value, which transformers' sandbox refuses.

use super::python::{items, text};
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Calls `method` of `value`.
///
/// # Errors
/// A method that is not known, or arguments that Python refuses too.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let known = match (value.as_str(), value.kind()) {
        (Some(string), _) => of_string(string, method, args)?,
        (None, ValueKind::Seq | ValueKind::Iterable) => of_list(value, method, args)?,
        (None, ValueKind::Map) if method == "copy" => Some(value.clone()),
        _ => None,
    };
    match known {
        Some(known) => Ok(known),
        None => unknown_method_callback(state, value, method, args),
    }
}

/// What Python takes for a blank.
fn is_blank(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

/// `str.strip`, of either side or both; blanks where no letters are named.
pub(super) fn strip<'t>(text: &'t str, letters: Option<&str>, sides: [bool; 2]) -> &'t str {
    let is = |letter: char| match letters {
        Some(letters) => letters.contains(letter),
        None => is_blank(letter),
    };
    let text = if sides[0] { text.trim_start_matches(is) } else { text };
    if sides[1] { text.trim_end_matches(is) } else { text }
}

fn of_string(string: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (letters,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(string, letters, [method != "rstrip", method != "lstrip"]))
        }
        "split" | "rsplit" => split(string, method == "rsplit", args)?,
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(named.get("keepends")?).unwrap_or(false);
            named.assert_all_used()?;
            lines(string, keep)
        }
        "partition" | "rpartition" => {
            let (mark,): (&str,) = from_args(args)?;
            partition(string, mark, method == "rpartition")?
        }
        "removeprefix" => {
            let (start,): (&str,) = from_args(args)?;
            Value::from(string.strip_prefix(start).unwrap_or(string))
        }
        "removesuffix" => {
            let (end,): (&str,) = from_args(args)?;
            Value::from(string.strip_suffix(end).unwrap_or(string))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(string, method, args)?,
        "center" | "ljust" | "rjust" | "zfill" => pad(string, method, args)?,
        "swapcase" => {
            let () = from_args(args)?;
            let swapped = |letter: char| -> String {
                if letter.is_uppercase() {
                    letter.to_lowercase().collect()
                } else {
                    letter.to_uppercase().collect()
                }
            };
            Value::from(string.chars().map(swapped).collect::<String>())
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(string))
        }
        "join" => {
            let (list,): (Value,) = from_args(args)?;
            let mut parts = Vec::new();
            for item in items(&list) {
                match item.as_str() {
                    Some(part) => parts.push(part.to_owned()),
                    None => return Err(refused("join: expected a list of strings")),
                }
            }
            Value::from(parts.join(string))
        }
        "isdecimal" => {
            Value::from(!string.is_empty() && string.chars().all(|c| c.is_ascii_digit()))
        }
        _ => return Ok(None),
    }))
}

fn of_list(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "index" => {
            let (what,): (Value,) = from_args(args)?;
            let at = items(list).iter().position(|item| *item == what);
            Value::from(at.ok_or_else(|| refused("index: the value is not in the list"))?)
        }
        "copy" => Value::from(items(list)),
        _ => return Ok(None),
    }))
}

fn refused(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.to_owned())
}

/// `str.split` and `str.rsplit`: at blanks, or at `sep`; at most `maxsplit` times where that is not negative.
fn split(string: &str, from_end: bool, args: &[Value]) -> Result<Value, Error> {
    let (mark, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let mark = mark.or(named.get("sep")?).filter(|mark| !mark.is_none());
    let most = most.or(named.get("maxsplit")?).and_then(|most| usize::try_from(most).ok());
    named.assert_all_used()?;
    let parts: Vec<&str> = match mark.as_ref().map(|mark| mark.as_str()) {
        None => at_blanks(string, from_end, most.unwrap_or(usize::MAX)),
        Some(None) => return Err(refused("split: expected a string to split at")),
        Some(Some("")) => return Err(refused("split: empty separator")),
        Some(Some(mark)) => match (most.map(|most| most.saturating_add(1)), from_end) {
            (None, _) => string.split(mark).collect(),
            (Some(parts), false) => string.splitn(parts, mark).collect(),
            (Some(parts), true) => {
                let mut parts: Vec<&str> = string.rsplitn(parts, mark).collect();
                parts.reverse();
                parts
            }
        },
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn at_blanks(string: &str, from_end: bool, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(string, None, [!from_end, from_end]);
    while !rest.is_empty() {
        let at = if from_end { rest.rfind(is_blank) } else { rest.find(is_blank) };
        match at.filter(|_| parts.len() < most) {
            None => {
                // Only where the splits were not used up are the blanks at its outer side no part of it.
                parts.push(if parts.len() < most { strip(rest, None, [true, true]) } else { rest });
                break;
            }
            Some(at) if from_end => {
                let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                parts.push(&rest[at + width..]);
                rest = strip(&rest[..at], None, [false, true]);
            }
            Some(at) => {
                parts.push(&rest[..at]);
                rest = strip(&rest[at..], None, [true, false]);
            }
        }
    }
    if from_end {
        parts.reverse();
    }
    parts
}

/// `str.splitlines`, which knows more ends of a line than `\n`.
fn lines(string: &str, keep: bool) -> Value {
    let is_end = |letter: char| {
        matches!(
            letter,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut parts = Vec::new();
    let mut rest = string;
    while let Some(at) = rest.find(is_end) {
        let end = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = if rest[at..].starts_with("\r\n") { 2 } else { end };
        parts.push(Value::from(&rest[..if keep { at + end } else { at }]));
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        parts.push(Value::from(rest));
    }
    Value::from(parts)
}

fn partition(string: &str, mark: &str, from_end: bool) -> Result<Value, Error> {
    if mark.is_empty() {
        return Err(refused("partition: empty separator"));
    }
    let at = if from_end { string.rfind(mark) } else { string.find(mark) };
    let parts = match at {
        Some(at) => [&string[..at], mark, &string[at + mark.len()..]],
        None if from_end => ["", "", string],
        None => [string, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

/// `find`, `rfind`, `index`, `rindex` and `count`, in characters, between `start` and `end`.
fn search(string: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let letters: Vec<usize> =
        string.char_indices().map(|(at, _)| at).chain([string.len()]).collect();
    let length = letters.len() - 1;
    let place = |index: i64| match usize::try_from(index) {
        Ok(index) => index.min(length),
        Err(_) => length.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(length)),
    };
    let (start, end) = (place(start.unwrap_or(0)), end.map_or(length, place));
    let part = string.get(letters[start]..letters[end.max(start)]).filter(|_| start <= end);
    if method == "count" {
        return Ok(Value::from(part.map_or(0, |part| part.matches(what).count())));
    }
    let at = part
        .and_then(|part| if method.starts_with('r') { part.rfind(what) } else { part.find(what) });
    match (at, method.ends_with("index")) {
        (Some(at), _) => {
            let before =
                part.and_then(|part| part.get(..at)).map_or(0, |text| text.chars().count());
            Ok(Value::from(start + before))
        }
        (None, true) => Err(refused(&format!("{method}: substring not found"))),
        (None, false) => Ok(Value::from(-1)),
    }
}

fn pad(string: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let fill = if method == "zfill" { "0" } else { fill.unwrap_or(" ") };
    if fill.chars().count() != 1 || width > 1_000_000 {
        return Err(refused(&format!("{method}: expected a width and one character")));
    }
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(string.chars().count());
    Ok(Value::from(match method {
        "ljust" => format!("{string}{}", fill.repeat(missing)),
        "rjust" => format!("{}{string}", fill.repeat(missing)),
        "zfill" => {
            let (sign, digits) = string.split_at(usize::from(string.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", fill.repeat(missing))
        }
        _ => centred(string, usize::try_from(width).unwrap_or(0), fill),
    }))
}

/// `str.center`: of an odd number of fillings, the one more stands where CPython puts it.
pub(super) fn centred(string: &str, width: usize, fill: &str) -> String {
    let missing = width.saturating_sub(string.chars().count());
    let left = missing / 2 + (missing & width & 1);
    format!("{}{string}{}", fill.repeat(left), fill.repeat(missing - left))
}

/// `str.title`: a letter is large where none stands before it.
fn title(string: &str) -> String {
    let mut is_within = false;
    let mut titled = String::new();
    for letter in string.chars() {
        if is_within {
            titled.extend(letter.to_lowercase());
        } else {
            titled.extend(letter.to_uppercase());
        }
        is_within = letter.is_alphabetic();
    }
    titled
}

/// `format % values`: a tuple has several, a dictionary is read by name.
///
/// # Errors
/// What does not fit the format.
pub(super) fn percent(format: &str, values: &Value) -> Result<Value, Error> {
    use minijinja::formatting::{FormatStyle, format as write};
    let values = if values.is_tuple() { items(values) } else { vec![values.clone()] };
    // The engine writes lists and numbers its own way; `%s` is of text.
    let is_text = !format.contains("%(");
    let as_text = |value: &Value| match value.kind() {
        ValueKind::Number if format.contains("%s") && value.is_integer() => value.clone(),
        ValueKind::Number | ValueKind::Bool if !format.contains("%s") => value.clone(),
        _ if is_text => Value::from(text(value)),
        _ => value.clone(),
    };
    let values: Vec<Value> = values.iter().map(as_text).collect();
    write(FormatStyle::Printf, format, &values).map(Value::from)
}

/// All arguments of a call that takes any number.
pub(super) type Many = Rest<Value>;
