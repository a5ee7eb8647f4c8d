//! JSON whose objects keep the order in which they were written, as Python's dictionaries do.
//!
//! - In: text. Out: [`Json`], which a chat template writes again in that order.
//! - Invariant: a key that stands twice has its first place and its last value.

use super::LineProblem;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::fmt;

/// Any JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, whole or not as it was written.
    Number(Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(Object),
}

/// A JSON object in the order of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object(pub Vec<(String, Json)>);

impl Json {
    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The items of an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// An object.
    pub fn as_object(&self) -> Option<&Object> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    /// Whether it says nothing: null, or an empty string, array or object.
    pub fn is_blank(&self) -> bool {
        match self {
            Self::Null => true,
            Self::String(text) => text.is_empty(),
            Self::Array(items) => items.is_empty(),
            Self::Object(object) => object.0.is_empty(),
            Self::Bool(_) | Self::Number(_) => false,
        }
    }
}

impl Object {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Whether it has a key.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn set(&mut self, key: String, value: Json) {
        match self.0.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }
}

/// The text of a field that must be a string.
pub(super) fn string(object: &Object, key: &'static str) -> Result<String, LineProblem> {
    match object.get(key) {
        Some(Json::String(text)) => Ok(text.clone()),
        _ => Err(field(object, key, "a string")),
    }
}

/// A field that is not what it must be; what it is comes along, shortened.
pub(super) fn field(object: &Object, key: &'static str, expected: &'static str) -> LineProblem {
    let got = object.get(key).map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let short: String = got.chars().take(60).collect();
    let got = if short.len() < got.len() { format!("{short}...") } else { short };
    LineProblem::Field { key, expected, got }
}

/// Compact, as it would be sent.
impl fmt::Display for Json {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => to.write_str("null"),
            Self::Bool(is) => write!(to, "{is}"),
            Self::Number(number) => write!(to, "{number}"),
            Self::String(text) => write!(to, "{}", serde_json::Value::from(text.as_str())),
            Self::Array(items) => {
                to.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(to, "{}{item}", if at > 0 { "," } else { "" })?;
                }
                to.write_str("]")
            }
            Self::Object(Object(pairs)) => {
                to.write_str("{")?;
                for (at, (key, value)) in pairs.iter().enumerate() {
                    let key = serde_json::Value::from(key.as_str());
                    write!(to, "{}{key}:{value}", if at > 0 { "," } else { "" })?;
                }
                to.write_str("}")
            }
        }
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, is: bool) -> Result<Json, E> {
        Ok(Json::Bool(is))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Json, E> {
        let number = Number::from_f64(number).ok_or_else(|| E::custom("number out of range"))?;
        Ok(Json::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Json, A::Error> {
        ObjectReader.visit_map(map).map(Json::Object)
    }
}

struct ObjectReader;

impl<'de> Visitor<'de> for ObjectReader {
    type Value = Object;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object::default();
        while let Some((key, value)) = map.next_entry()? {
            object.set(key, value);
        }
        Ok(object)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(ObjectReader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_numbers_and_the_last_of_two_values_are_kept() -> Result<(), serde_json::Error> {
        let text = r#"{"b":1,"a":[1.0,-2,18446744073709551615,null,true],"c":{"z":"\n","y":""}}"#;
        assert_eq!(serde_json::from_str::<Json>(text)?.to_string(), text);
        let twice = serde_json::from_str::<Object>(r#"{"a":1,"b":2,"a":3}"#)?;
        assert_eq!(Json::Object(twice).to_string(), r#"{"a":3,"b":2}"#);
        assert!(serde_json::from_str::<Object>("[1]").is_err());
        assert!(serde_json::from_str::<Json>(&"[".repeat(1000)).is_err());
        Ok(())
    }
}
