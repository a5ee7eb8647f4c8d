//! What a file holds, told by its name: text, JSON lines, a JSON array, a table; any of them packed by gzip.
//!
//! - In: a file's name and its bytes. Out: examples, and what kind of file it was.
//! - A file that somebody named is what its name says, or is refused. One of many in a folder is text where
//!   it is no data that is known: a folder of programs has tables and arrays too.
//! - Invariant: what is unpacked is bounded as what is read is.

use super::json::{Json, Object};
use super::{Example, IntakeError, LineProblem, bytes, lines};
use std::fs;
use std::io::Read;
use std::path::Path;

/// What kind of file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A document.
    Text,
    /// An example a line.
    Lines,
    /// An example an item.
    Array,
    /// An example a row.
    Table,
}

impl Kind {
    /// As it is named in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Lines => "JSON lines",
            Self::Array => "JSON array",
            Self::Table => "table",
        }
    }
}

/// Endings of files that are packed or hold columns, and that nothing here reads.
const FOREIGN: [&str; 3] = ["parquet", "arrow", "feather"];
/// The ending of what gzip has packed.
const PACKED: &str = "gz";

/// The ending that says what a file holds, in small letters, without that of gzip; and whether that is there.
pub(super) fn ending(path: &Path) -> (String, bool) {
    let of = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match of(path) {
        packed if packed == PACKED => (of(Path::new(path.file_stem().unwrap_or_default())), true),
        plain => (plain, false),
    }
}

/// The examples of a file. With `is_named` somebody named it, and it is refused where it does not hold what
/// its name says.
pub(super) fn examples(path: &Path, is_named: bool) -> Result<(Vec<Example>, Kind), IntakeError> {
    let name = path.display().to_string();
    let (ending, is_packed) = ending(path);
    if FOREIGN.contains(&ending.as_str()) {
        return Err(IntakeError::Foreign { name, ending });
    }
    let file = fs::File::open(path).map_err(|source| bytes::unreadable(path, source))?;
    let text = match is_packed {
        true => bytes::text_of(flate2::read::MultiGzDecoder::new(file), &name)?,
        false => bytes::text_of(file, &name)?,
    };
    let known = match ending.as_str() {
        "jsonl" | "ndjson" => return Ok((lines::examples(&text, &name)?, Kind::Lines)),
        "json" => array(&text, &name, is_named)?,
        "csv" => table(&text, b',', &name, is_named)?,
        "tsv" => table(&text, b'\t', &name, is_named)?,
        _ if is_named => told(&text, &name)?,
        _ => None,
    };
    Ok(known.unwrap_or_else(|| (vec![Example::Text(text)], Kind::Text)))
}

/// The examples of a text whose name says nothing: JSON lines by a first line that is an object, an array
/// by a first item that is an example.
pub(super) fn told(text: &str, name: &str) -> Result<Option<(Vec<Example>, Kind)>, IntakeError> {
    if text.trim_start().starts_with('[') {
        return array(text, name, false);
    }
    match serde_json::from_str::<Object>(first_line(text)) {
        Ok(_) => Ok(Some((lines::examples(text, name)?, Kind::Lines))),
        Err(_) => Ok(None),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()
}

/// A `.json` file: an array of objects, one object, or JSON lines under that name.
fn array(
    text: &str,
    name: &str,
    is_named: bool,
) -> Result<Option<(Vec<Example>, Kind)>, IntakeError> {
    let item = |(at, object): (usize, &Object)| {
        let problem = |problem| IntakeError::Item { name: name.to_owned(), item: at + 1, problem };
        lines::example_of(object).map_err(problem)
    };
    if let Ok(first) = serde_json::from_str::<Object>(first_line(text)) {
        let is_data = is_named || lines::example_of(&first).is_ok();
        return match is_data {
            true => Ok(Some((lines::examples(text, name)?, Kind::Lines))),
            false => Ok(None),
        };
    }
    let objects = match text.trim_start().starts_with('{') {
        true => serde_json::from_str::<Object>(text).map(|object| vec![object]),
        false => serde_json::from_str::<Vec<Object>>(text),
    };
    let objects = match objects {
        Ok(objects) if objects.is_empty() && is_named => {
            return Err(IntakeError::Empty { name: name.to_owned() });
        }
        Err(source) if is_named => {
            return Err(IntakeError::Array { name: name.to_owned(), source });
        }
        Ok(objects) => objects,
        Err(_) => return Ok(None),
    };
    let is_data = objects.first().is_some_and(|first| lines::example_of(first).is_ok());
    if !is_data && !is_named {
        return Ok(None);
    }
    let examples = objects.iter().enumerate().map(item).collect::<Result<_, _>>()?;
    Ok(Some((examples, Kind::Array)))
}

/// A table whose first row names its columns, as the keys of a line are named.
fn table(
    text: &str,
    between: u8,
    name: &str,
    is_named: bool,
) -> Result<Option<(Vec<Example>, Kind)>, IntakeError> {
    let broken = |source| IntakeError::Table { name: name.to_owned(), source };
    let mut rows = csv::ReaderBuilder::new().delimiter(between).from_reader(text.as_bytes());
    let columns = rows.headers().map_err(broken)?.clone();
    let object = |row: &csv::StringRecord| {
        let cells = columns.iter().zip(row);
        Object(
            cells
                .map(|(key, cell)| (key.trim().to_owned(), Json::String(cell.to_owned())))
                .collect(),
        )
    };
    if let Err(problem) = lines::example_of(&object(&columns)) {
        return match is_named {
            true => Err(IntakeError::Line { name: name.to_owned(), line: 1, problem }),
            false => Ok(None),
        };
    }
    let mut examples = Vec::new();
    for row in rows.records() {
        let row = row.map_err(broken)?;
        let line = row.position().map_or(0, |place| usize::try_from(place.line()).unwrap_or(0));
        let located =
            |problem: LineProblem| IntakeError::Line { name: name.to_owned(), line, problem };
        examples.push(lines::example_of(&object(&row)).map_err(located)?);
    }
    match examples.is_empty() {
        true => Err(IntakeError::Empty { name: name.to_owned() }),
        false => Ok(Some((examples, Kind::Table))),
    }
}

/// Reads one stream to the end, and tells what it holds.
pub(super) fn of_stream(
    reader: impl Read,
    name: &str,
) -> Result<(Vec<Example>, Kind), IntakeError> {
    let text = bytes::text_of(reader, name)?;
    Ok(told(&text, name)?.unwrap_or_else(|| (vec![Example::Text(text)], Kind::Text)))
}
