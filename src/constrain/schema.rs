//! A JSON schema from a stranger: bounded, every keyword known, ready to be compiled.
//!
//! - In: JSON. Out: a [`Schema`] of the keywords that are followed to the letter, or a [`SchemaError`]
//!   that names the place and the keyword.
//! - A keyword that only describes is left out; one that would say more about an answer than can be
//!   held to is refused, never passed over.
//! - References go to the root, `$defs` and `definitions` of the same schema.
//! - What a schema leaves open is any JSON, but that numbers stay within [`NUMBER_MAX`]: JSON has no
//!   bound for them, and what most programs read does.
//!
//! Source: JSON Schema, draft 2020-12; what of it drafts 6 to 2019-09 say in the same words.

use super::SchemaError;
use super::references::ends;
use super::refused::{short, shown, wrong};
use serde_json::{Map, Value, json};

/// Schemas within a schema, itself included.
const SCHEMAS_MAX: usize = 2_000;
/// How deep they lie within each other.
const DEPTH_MAX: usize = 32;
/// Values of all `enum`s.
const VALUES_MAX: usize = 2_000;
/// Bytes of all names, values and patterns.
const BYTES_MAX: usize = 64 << 10;
/// Bytes of one pattern, and most patterns.
const PATTERN_BYTES_MAX: usize = 256;
const PATTERNS_MAX: usize = 64;
/// Highest bound of a length in characters, and of a number of items or properties.
const CHARACTERS_MAX: u64 = 10_000;
const ITEMS_MAX: u64 = 1_000;
/// Highest bound of a number: whole ones are exact in f64 up to there.
const NUMBER_MAX: f64 = 1e15;

/// The name of any JSON among `$defs`; no reference of a person's leads there.
const ANY: &str = "\0any";
/// Keywords that say of the same value what other schemas say.
const APPLIES: [&str; 6] = ["$ref", "const", "enum", "anyOf", "oneOf", "allOf"];
/// Keywords that describe, and leave what fits as it is.
const DESCRIBES: [&str; 13] = [
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "contentMediaType",
    "contentEncoding",
    "discriminator",
    "strict",
];
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
/// Meta-schemas in whose words the keywords here mean the same.
const DRAFTS: [&str; 4] =
    ["draft-06/schema", "draft-07/schema", "draft/2019-09/schema", "draft/2020-12/schema"];

/// A schema that is bounded, and of which every keyword is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema(Value);

impl Schema {
    /// Walks all of a schema.
    ///
    /// # Errors
    /// [`SchemaError`] names the first thing that cannot be held to.
    pub fn read(schema: &Value) -> Result<Self, SchemaError> {
        let mut walk =
            Walk { root: schema, schemas: 0, values: 0, bytes: 0, patterns: 0, leaves_open: false };
        let mut read = walk.schema(schema, "", 0)?;
        if walk.leaves_open
            && let Some(read) = read.as_object_mut()
        {
            let named = read.entry("$defs").or_insert_with(|| json!({}));
            named[ANY] = any();
        }
        ends(&read)?;
        Ok(Self(read))
    }

    /// Any object.
    pub fn object() -> Self {
        let named = json!({ ANY: any() });
        Self(json!({ "type": "object", "additionalProperties": to_any(), "$defs": named }))
    }

    /// The schema, without what only describes.
    pub fn value(&self) -> &Value {
        &self.0
    }
}

/// What was met so far.
struct Walk<'a> {
    root: &'a Value,
    schemas: usize,
    values: usize,
    bytes: usize,
    patterns: usize,
    /// Whether any JSON is meant somewhere.
    leaves_open: bool,
}

impl Walk<'_> {
    fn schema(&mut self, schema: &Value, place: &str, depth: usize) -> Result<Value, SchemaError> {
        self.schemas += 1;
        if self.schemas > SCHEMAS_MAX {
            return Err(SchemaError::Large { what: "schemas within it", max: SCHEMAS_MAX });
        }
        if depth > DEPTH_MAX {
            return Err(SchemaError::Large { what: "schemas in one another", max: DEPTH_MAX });
        }
        let keywords = match schema {
            Value::Bool(true) => return Ok(self.any()),
            Value::Bool(false) => return Ok(Value::Bool(false)),
            Value::Object(keywords) => keywords,
            _ => return Err(wrong(place, "a schema: an object, true or false")),
        };
        let mut read = Map::new();
        for (keyword, value) in keywords {
            if DESCRIBES.contains(&keyword.as_str()) {
                continue;
            }
            let at = format!("{}/{}", short(place), short(keyword));
            if let Some(value) = self.keyword(keyword, value, place, &at, depth)? {
                read.insert(keyword.clone(), value);
            }
        }
        self.close(&mut read);
        Ok(Value::Object(read))
    }

    fn any(&mut self) -> Value {
        self.leaves_open = true;
        to_any()
    }

    /// Says of a schema what it leaves open.
    fn close(&mut self, read: &mut Map<String, Value>) {
        if APPLIES.iter().any(|keyword| read.contains_key(*keyword)) {
            return;
        }
        if read.keys().all(|keyword| ["$defs", "definitions"].contains(&keyword.as_str())) {
            let any = self.any();
            read.extend(any.as_object().cloned().into_iter().flatten());
            return;
        }
        let types = read.get("type").cloned();
        let may_be = |kind: &str| match &types {
            None => true,
            Some(Value::Array(all)) => all.iter().any(|one| one == kind),
            Some(one) => one == kind,
        };
        for (kind, keyword) in [("object", "additionalProperties"), ("array", "items")] {
            if may_be(kind) && !read.contains_key(keyword) {
                read.insert(keyword.to_owned(), self.any());
            }
        }
        if may_be("number") || may_be("integer") {
            for (keyword, other, bound) in [
                ("minimum", "exclusiveMinimum", -NUMBER_MAX),
                ("maximum", "exclusiveMaximum", NUMBER_MAX),
            ] {
                if !read.contains_key(keyword) && !read.contains_key(other) {
                    read.insert(keyword.to_owned(), bound.into());
                }
            }
        }
    }

    /// One keyword as it is compiled; none where it only describes.
    fn keyword(
        &mut self,
        keyword: &str,
        value: &Value,
        place: &str,
        at: &str,
        depth: usize,
    ) -> Result<Option<Value>, SchemaError> {
        let is_root = depth == 0;
        let read = match keyword {
            "$schema" if is_root => return draft(value, at),
            "$id" | "id" if is_root && value.is_string() => return Ok(None),
            "$ref" => self.reference(value, at)?,
            "$defs" | "definitions" if is_root => self.named(value, at, depth)?,
            "properties" | "patternProperties" => {
                if keyword == "patternProperties" {
                    let patterns = value.as_object().into_iter().flat_map(Map::keys);
                    patterns.into_iter().try_for_each(|pattern| self.pattern(pattern, at))?;
                }
                self.named(value, at, depth)?
            }
            "additionalProperties" | "items" => self.schema(value, at, depth + 1)?,
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => self.list(value, at, depth)?,
            "type" => types(value, at)?,
            "const" => self.constant(value, at, depth)?,
            "enum" => {
                let expected = "a list of values, at least one";
                let all = value.as_array().filter(|all| !all.is_empty());
                let all = all.ok_or_else(|| wrong(at, expected))?;
                let all = all.iter().map(|one| self.constant(one, at, depth));
                Value::Array(all.collect::<Result<_, _>>()?)
            }
            "required" => {
                let names = value.as_array().ok_or_else(|| wrong(at, "a list of names"))?;
                for name in names {
                    let name = name.as_str().ok_or_else(|| wrong(at, "a list of names"))?;
                    self.value(name.len())?;
                }
                value.clone()
            }
            "pattern" => {
                let expected = "a regular expression of at most 256 bytes";
                let pattern = value.as_str().ok_or_else(|| wrong(at, expected))?;
                self.pattern(pattern, at)?;
                value.clone()
            }
            "format" => {
                let expected = "date-time, time, date, duration, email, hostname, ipv4, ipv6, uuid \
                                or uri";
                let known = value.as_str().is_some_and(|format| FORMATS.contains(&format));
                if known { value.clone() } else { return Err(wrong(at, expected)) }
            }
            "minLength" | "maxLength" => {
                count(value, CHARACTERS_MAX, at, "a number of characters from 0 to 10000")?
            }
            "minItems" | "maxItems" | "maxProperties" => {
                count(value, ITEMS_MAX, at, "a number from 0 to 1000")?
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                let fits = |number: &f64| number.abs() <= NUMBER_MAX;
                number(value, fits, at, "a number from -1e15 to 1e15")?
            }
            "multipleOf" => {
                let fits = |number: &f64| (1e-9..=1e9).contains(number);
                number(value, fits, at, "a number from 1e-9 to 1e9")?
            }
            _ => {
                let (place, keyword) = (shown(place), short(keyword));
                return Err(SchemaError::Keyword { place, keyword });
            }
        };
        Ok(Some(read))
    }

    /// Schemas under names.
    fn named(&mut self, value: &Value, at: &str, depth: usize) -> Result<Value, SchemaError> {
        let all = value.as_object().ok_or_else(|| wrong(at, "an object of schemas"))?;
        let mut read = Map::new();
        for (name, schema) in all {
            self.value(name.len())?;
            let at = format!("{at}/{}", short(name));
            read.insert(name.clone(), self.schema(schema, &at, depth + 1)?);
        }
        Ok(Value::Object(read))
    }

    fn list(&mut self, value: &Value, at: &str, depth: usize) -> Result<Value, SchemaError> {
        let expected = "a list of schemas, at least one";
        let all = value.as_array().filter(|all| !all.is_empty());
        let all = all.ok_or_else(|| wrong(at, expected))?;
        let one = |(number, schema)| self.schema(schema, &format!("{at}/{number}"), depth + 1);
        Ok(Value::Array(all.iter().enumerate().map(one).collect::<Result<_, _>>()?))
    }

    /// A value that is compared with, down to its last part.
    fn constant(&mut self, value: &Value, at: &str, depth: usize) -> Result<Value, SchemaError> {
        if depth > DEPTH_MAX {
            return Err(SchemaError::Large { what: "values in one another", max: DEPTH_MAX });
        }
        match value {
            Value::String(text) => self.value(text.len())?,
            Value::Number(number) => {
                let exact = number.as_f64().is_some_and(|number| number.abs() <= NUMBER_MAX);
                if !exact {
                    return Err(wrong(at, "numbers from -1e15 to 1e15"));
                }
                self.value(1)?;
            }
            Value::Array(all) => {
                self.value(1)?;
                for one in all {
                    self.constant(one, at, depth + 1)?;
                }
            }
            Value::Object(all) => {
                self.value(1)?;
                for (name, one) in all {
                    self.value(name.len())?;
                    self.constant(one, at, depth + 1)?;
                }
            }
            Value::Null | Value::Bool(_) => self.value(1)?,
        }
        Ok(value.clone())
    }

    /// Counts a name or a value of so many bytes.
    fn value(&mut self, bytes: usize) -> Result<(), SchemaError> {
        self.values += 1;
        self.bytes += bytes;
        if self.values > VALUES_MAX {
            return Err(SchemaError::Large { what: "names and values", max: VALUES_MAX });
        }
        if self.bytes > BYTES_MAX {
            return Err(SchemaError::Large { what: "bytes of names and values", max: BYTES_MAX });
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str, at: &str) -> Result<(), SchemaError> {
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX {
            return Err(SchemaError::Large { what: "patterns", max: PATTERNS_MAX });
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(wrong(at, "a regular expression of at most 256 bytes"));
        }
        self.value(pattern.len())
    }

    /// A reference to the root or to one of its named schemas, all of which are walked.
    fn reference(&self, value: &Value, at: &str) -> Result<Value, SchemaError> {
        let reference = value.as_str().ok_or_else(|| wrong(at, "a string"))?;
        let refused = |problem| {
            let (place, reference) = (short(at), short(reference));
            Err(SchemaError::Reference { place, reference, problem })
        };
        if reference == "#" {
            return Ok(value.clone());
        }
        let named = ["$defs", "definitions"].iter().find_map(|part| {
            let name = reference.strip_prefix("#/")?.strip_prefix(part)?.strip_prefix('/')?;
            Some((part, name))
        });
        let Some((part, name)) = named.filter(|(_, name)| !name.contains(['/', '~', '%'])) else {
            return refused("is none to `#`, `#/$defs/NAME` or `#/definitions/NAME`");
        };
        match self.root.get(part).and_then(|all| all.get(name)) {
            Some(_) => Ok(value.clone()),
            None => refused("leads nowhere"),
        }
    }
}

/// A schema that any JSON fits.
fn to_any() -> Value {
    json!({ "$ref": format!("#/$defs/{ANY}") })
}

/// Any JSON, written out.
fn any() -> Value {
    let (least, most) = (-NUMBER_MAX, NUMBER_MAX);
    json!({ "anyOf": [
        { "type": "null" },
        { "type": "boolean" },
        { "type": "number", "minimum": least, "maximum": most },
        { "type": "string" },
        { "type": "array", "items": to_any() },
        { "type": "object", "additionalProperties": to_any() },
    ] })
}

fn draft(value: &Value, at: &str) -> Result<Option<Value>, SchemaError> {
    let name = value.as_str().unwrap_or_default().trim_end_matches('#');
    match DRAFTS.iter().any(|draft| name.ends_with(draft)) {
        true => Ok(None),
        false => Err(wrong(at, "draft 6, 7, 2019-09 or 2020-12")),
    }
}

fn types(value: &Value, at: &str) -> Result<Value, SchemaError> {
    let expected = "null, boolean, integer, number, string, array or object, or a list of them";
    let known = |one: &Value| one.as_str().is_some_and(|name| TYPES.contains(&name));
    let fits = match value {
        Value::Array(all) => !all.is_empty() && all.len() <= TYPES.len() && all.iter().all(known),
        one => known(one),
    };
    if fits { Ok(value.clone()) } else { Err(wrong(at, expected)) }
}

fn count(value: &Value, max: u64, at: &str, expected: &'static str) -> Result<Value, SchemaError> {
    match value.as_u64().filter(|count| *count <= max) {
        Some(_) => Ok(value.clone()),
        None => Err(wrong(at, expected)),
    }
}

fn number(
    value: &Value,
    fits: impl Fn(&f64) -> bool,
    at: &str,
    expected: &'static str,
) -> Result<Value, SchemaError> {
    match value.as_f64().filter(fits) {
        Some(_) => Ok(value.clone()),
        None => Err(wrong(at, expected)),
    }
}

#[cfg(test)]
mod tests;
