//! The header's JSON: metadata and tensors in the order in which they stand.
//!
//! - In: at most 1 MiB that may come from anywhere. Out: names and claims, none of which was compared.
//! - A key that stands twice is kept twice: the last one would win without a word otherwise.

use super::UpdateError;
use crate::fleet::message::one_line;
use crate::limits::FLEET_TENSORS_MAX;
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Bytes that a foreign name or a fault of JSON is told in.
pub(super) const SHOWN_BYTES_MAX: usize = 120;

const METADATA: &str = "__metadata__";

/// What a header says.
pub(super) struct Entries {
    pub(super) metadata: Vec<(String, String)>,
    pub(super) tensors: Vec<(String, Entry)>,
}

impl Entries {
    pub(super) fn read(json: &[u8]) -> Result<Self, UpdateError> {
        // The format has no blanks in front; some readers take them, others do not.
        if json.first() != Some(&b'{') {
            return Err(UpdateError::Json { problem: "expected { as its first byte".to_owned() });
        }
        serde_json::from_slice(json).map_err(|error| UpdateError::Json {
            problem: one_line(&error.to_string(), SHOWN_BYTES_MAX),
        })
    }
}

/// What a header says of a tensor.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) dtype: String,
    pub(super) shape: Dimensions,
    pub(super) data_offsets: [u64; 2],
}

/// A shape: its first two dimensions, and how many there are.
pub(super) struct Dimensions {
    pub(super) first: [u64; 2],
    pub(super) count: usize,
}

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = Dimensions;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the dimensions of a tensor")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Dimensions, A::Error> {
                let mut found = Dimensions { first: [0; 2], count: 0 };
                while let Some(dimension) = items.next_element::<u64>()? {
                    if let Some(place) = found.first.get_mut(found.count) {
                        *place = dimension;
                    }
                    found.count += 1;
                }
                Ok(found)
            }
        }
        deserializer.deserialize_seq(Numbers)
    }
}

/// An object's entries with texts as values.
struct Texts(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Texts;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Texts(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Entries;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut metadata, mut tensors) = (None, Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        if metadata.replace(map.next_value::<Texts>()?.0).is_some() {
                            return Err(A::Error::duplicate_field(METADATA));
                        }
                    } else if tensors.len() <= FLEET_TENSORS_MAX {
                        let named = |error| A::Error::custom(format_args!("{name:?}: {error}"));
                        let entry = map.next_value().map_err(named)?;
                        tensors.push((name, entry));
                    } else {
                        // One too many is enough to know.
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Entries { metadata: metadata.unwrap_or_default(), tensors })
            }
        }
        deserializer.deserialize_map(All)
    }
}
