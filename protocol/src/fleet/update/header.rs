//! The header of an adapter's file: read, compared with itself, then with what is expected.

use super::entries::{Entries, Entry, SHOWN_BYTES_MAX};
use super::shape::{MODULES, Place, Shape};
use super::{ADAPTER_BYTES_MIN, Kind, Meta, UpdateError};
use crate::fleet::id::{CohortId, Hash, IdError};
use crate::fleet::message::one_line;
use crate::fleet::request::decimal;
use crate::limits::{
    FLEET_ADAPTER_BYTES_MAX, FLEET_HEADER_BYTES_MAX, FLEET_LAYERS_MAX, FLEET_RANK_MAX,
    FLEET_TENSORS_MAX,
};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::str::FromStr;

/// Bytes in front of the header.
const PREFIX_BYTES: u64 = 8;

/// An adapter's header whose claims agree with each other and with the file's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the adapter comes from.
    pub meta: Meta,
    /// Its rank.
    pub rank: u32,
    /// What it adapts.
    pub shape: Shape,
    /// Its tensors in the order of the body.
    pub(super) tensors: Vec<Tensor>,
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) place: Place,
    /// f32, not f16.
    pub(super) is_f32: bool,
    pub(super) bytes: u64,
}

/// What a file must be to be taken.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// An update or a global adapter.
    pub kind: Kind,
    /// BLAKE3 of the base.
    pub base: Hash,
    /// The cohort.
    pub cohort: CohortId,
    /// What it must go on from, if that is known.
    pub from: Option<Hash>,
    /// The cohort's modules.
    pub shape: &'a Shape,
    /// Highest rank.
    pub rank_max: u32,
}

/// Bytes of the header, from the first eight bytes of a file of so many.
///
/// # Errors
/// [`UpdateError::Long`], [`UpdateError::Short`], [`UpdateError::HeaderBytes`].
pub fn header_bytes(prefix: [u8; 8], file_bytes: u64) -> Result<usize, UpdateError> {
    if file_bytes > FLEET_ADAPTER_BYTES_MAX {
        return Err(UpdateError::Long { got: file_bytes });
    }
    if file_bytes < ADAPTER_BYTES_MIN {
        return Err(UpdateError::Short { got: file_bytes });
    }
    let got = u64::from_le_bytes(prefix);
    let max = file_bytes.saturating_sub(PREFIX_BYTES).min(FLEET_HEADER_BYTES_MAX);
    let fits = usize::try_from(got).ok().filter(|_| (2..=max).contains(&got));
    fits.ok_or(UpdateError::HeaderBytes { got, max })
}

impl Header {
    /// Reads the JSON of the header of a file of so many bytes.
    ///
    /// # Errors
    /// An [`UpdateError`] that names the tensor or the metadata.
    pub fn read(json: &[u8], file_bytes: u64) -> Result<Self, UpdateError> {
        header_bytes((json.len() as u64).to_le_bytes(), file_bytes)?;
        let body_bytes = file_bytes - PREFIX_BYTES - json.len() as u64;
        let Entries { metadata, tensors } = Entries::read(json)?;
        let meta = Meta::read(&metadata)?;
        let count = tensors.len();
        if !(2..=FLEET_TENSORS_MAX).contains(&count) {
            return Err(UpdateError::Count { got: count });
        }
        let mut found = Vec::with_capacity(count);
        for (name, entry) in tensors {
            found.push(Claim::read(&name, &entry)?);
        }
        found.sort_by_key(|claim| (claim.begin, claim.end));
        in_order(&found, body_bytes)?;
        let tensors = found.iter().map(Claim::tensor).collect();
        found.sort_by_key(|claim| claim.place);
        let (rank, shape) = agreed(&found)?;
        Ok(Self { meta, rank, shape, tensors })
    }

    /// Whether the file is what is expected.
    ///
    /// # Errors
    /// [`UpdateError::Other`], [`UpdateError::Foreign`], [`UpdateError::Missing`],
    /// [`UpdateError::Shape`], [`UpdateError::Rank`].
    pub fn fits(&self, expected: &Expected<'_>) -> Result<(), UpdateError> {
        let (meta, shape) = (&self.meta, expected.shape);
        same("format", expected.kind.format(), meta.kind.format())?;
        same("base", expected.base, meta.base)?;
        same("cohort", expected.cohort, meta.cohort)?;
        same("from", expected.from.unwrap_or(meta.from), meta.from)?;
        if let Some(place) = self.shape.places().find(|place| !shape.has(*place)) {
            return Err(UpdateError::Foreign { tensor: place.name() });
        }
        if let Some(place) = shape.places().find(|place| !self.shape.has(*place)) {
            return Err(UpdateError::Missing { tensor: place.name() });
        }
        let rank = u64::from(self.rank);
        for place in shape.places() {
            let (expected, got) = (shape.width(place), self.shape.width(place));
            if expected != got {
                let [expected, got] = [expected, got].map(|width| place.shape(rank, width));
                return Err(UpdateError::Shape { tensor: place.name(), expected, got });
            }
        }
        if self.rank > expected.rank_max
            && let Some(place) = shape.places().next()
        {
            let max = expected.rank_max;
            return Err(UpdateError::Rank { tensor: place.name(), max, got: rank });
        }
        Ok(())
    }
}

fn same<T: Copy + PartialEq + ToString>(
    key: &'static str,
    expected: T,
    got: T,
) -> Result<(), UpdateError> {
    match expected == got {
        true => Ok(()),
        false => {
            Err(UpdateError::Other { key, expected: expected.to_string(), got: got.to_string() })
        }
    }
}

impl Meta {
    fn read(pairs: &[(String, String)]) -> Result<Self, UpdateError> {
        let kinds = [Kind::Update, Kind::Global];
        let format = value(pairs, "format")?;
        let kind = kinds.into_iter().find(|kind| kind.format() == format);
        let expected = "sapwood-update/1 or sapwood-global/1";
        let kind = kind.ok_or_else(|| wrong("format", format, expected))?;
        let number = |key, least| {
            let text = value(pairs, key)?;
            let expected = "decimal digits below 2^53, above 0 in an update's steps and tokens";
            let number = decimal(text).filter(|number| *number >= least);
            number.ok_or_else(|| wrong(key, text, expected))
        };
        // What learned nothing has no weight in a mean.
        let least = u64::from(kind == Kind::Update);
        Ok(Self {
            kind,
            base: name(pairs, "base")?,
            cohort: name(pairs, "cohort")?,
            from: name(pairs, "from")?,
            generation: number("generation", 0)?,
            steps: number("steps", least)?,
            tokens: number("tokens", least)?,
        })
    }
}

fn value<'a>(pairs: &'a [(String, String)], key: &'static str) -> Result<&'a str, UpdateError> {
    let mut values = pairs.iter().filter(|(name, _)| name == key).map(|(_, value)| value);
    match (values.next(), values.count()) {
        (Some(value), 0) => Ok(value),
        (first, more) => {
            Err(UpdateError::Metadata { key, got: usize::from(first.is_some()) + more })
        }
    }
}

fn name<T: FromStr<Err = IdError>>(
    pairs: &[(String, String)],
    key: &'static str,
) -> Result<T, UpdateError> {
    value(pairs, key)?.parse().map_err(|problem| UpdateError::Name { key, problem })
}

fn wrong(key: &'static str, got: &str, expected: &'static str) -> UpdateError {
    UpdateError::Value { key, expected, got: one_line(got, SHOWN_BYTES_MAX) }
}

/// A tensor as its entry claims it, with a length that its shape gives.
struct Claim {
    place: Place,
    is_f32: bool,
    shape: [u64; 2],
    begin: u64,
    end: u64,
}

impl Claim {
    fn read(name: &str, entry: &Entry) -> Result<Self, UpdateError> {
        let shown = || one_line(name, SHOWN_BYTES_MAX);
        let place = Place::parse(name).ok_or_else(|| UpdateError::Unknown { tensor: shown() })?;
        let tensor = || place.name();
        let is_f32 = match entry.dtype.as_str() {
            "F16" => false,
            "F32" => true,
            other => {
                let got = one_line(other, SHOWN_BYTES_MAX);
                return Err(UpdateError::Dtype { tensor: tensor(), got });
            }
        };
        if entry.shape.count != 2 {
            return Err(UpdateError::Dimensions { tensor: tensor(), got: entry.shape.count });
        }
        let (shape, [begin, end]) = (entry.shape.first, entry.data_offsets);
        let bytes = if is_f32 { 4 } else { 2 };
        let bytes = shape.iter().try_fold(bytes, |product: u64, side| product.checked_mul(*side));
        let expected = bytes.and_then(|bytes| begin.checked_add(bytes)).unwrap_or(u64::MAX);
        if end != expected || end == u64::MAX {
            return Err(UpdateError::End { tensor: tensor(), expected, got: end });
        }
        let (rank, max) = (place.sides(shape).0, FLEET_RANK_MAX);
        if !(1..=u64::from(max)).contains(&rank) {
            return Err(UpdateError::Rank { tensor: tensor(), max, got: rank });
        }
        Ok(Self { place, is_f32, shape, begin, end })
    }

    fn tensor(&self) -> Tensor {
        Tensor { place: self.place, is_f32: self.is_f32, bytes: self.end - self.begin }
    }
}

/// Whether tensors, sorted by where they begin, fill the body without holes.
fn in_order(claims: &[Claim], body_bytes: u64) -> Result<(), UpdateError> {
    let mut expected = 0;
    for claim in claims {
        if claim.begin != expected {
            let (tensor, got) = (claim.place.name(), claim.begin);
            return Err(UpdateError::Begin { tensor, expected, got });
        }
        expected = claim.end;
    }
    match expected == body_bytes {
        true => Ok(()),
        false => Err(UpdateError::Body { expected, got: body_bytes }),
    }
}

/// The one rank and the one shape of tensors that are sorted by place.
fn agreed(claims: &[Claim]) -> Result<(u32, Shape), UpdateError> {
    let mut shape = Shape { first_layer: 0, layers: 0, targets: 0, fans: [[0; 2]; MODULES.len()] };
    let (Some(first), Some(last)) = (claims.first(), claims.last()) else {
        return Err(UpdateError::Count { got: 0 });
    };
    shape.first_layer = first.place.layer;
    let layers = u32::from(last.place.layer - first.place.layer) + 1;
    shape.layers = u16::try_from(layers)
        .ok()
        .filter(|layers| *layers <= FLEET_LAYERS_MAX)
        .ok_or(UpdateError::Layers { got: layers })?;
    if let Some(pair) = claims.windows(2).find(|pair| pair[0].place == pair[1].place) {
        return Err(UpdateError::Twice { tensor: pair[0].place.name() });
    }
    let rank = first.place.sides(first.shape).0;
    for claim in claims {
        let (place, got) = (claim.place, claim.shape);
        let known = shape.width(place);
        let width = if known == 0 { place.sides(got).1 } else { known };
        let fits = u32::try_from(width).ok().filter(|width| *width > 0);
        let expected = place.shape(rank, width.max(1));
        let Some(fits) = fits.filter(|_| got == expected) else {
            return Err(UpdateError::Shape { tensor: place.name(), expected, got });
        };
        shape.fans[place.target][usize::from(place.is_b)] = fits;
        shape.targets |= 1 << place.target;
    }
    let mut there = claims.iter().map(|claim| claim.place).peekable();
    let missing = shape.places().find(|place| there.next_if_eq(place).is_none());
    match missing {
        None => Ok((rank as u32, shape)),
        Some(place) => Err(UpdateError::Missing { tensor: place.name() }),
    }
}
