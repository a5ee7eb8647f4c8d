//! An adapter as devices and the fleet server send it: one safetensors file, half as large as PEFT's.
//!
//! - In: an [`Adapter`] of one rank and its [`Meta`], or bytes that may come from anywhere. Out: the other.
//! - f16 under PEFT's names, the scale folded into B, so that what is read has scale 1. A row of A and the
//!   column of B beside it are made alike in length by a power of two, which is exact and keeps both
//!   away from the ends of f16.
//! - Invariant: the same adapter gives the same bytes on every machine, and what is written would be taken.
//! - Never here: files on a disk, who sent them.

use super::peft::{Factor, by_place, finite, tensor_name, widen};
use super::{Adapter, AdapterError, Module, Spec, Strength, Target};
use half::f16;
use safetensors::SafeTensors;
use sapwood_protocol::fleet::update::{Expected, Finite, Header, Meta, Shape, header_bytes};
use std::fmt::Write as _;
use std::ops::Range;

/// Bytes before the header: its length.
const PREFIX: usize = 8;

/// The file of an adapter.
///
/// # Errors
/// [`AdapterError::Wire`] for one that others would not take: of several ranks, or of other linear layers
/// in some layers; [`AdapterError::NotFinite`] where f16 cannot hold a number.
pub fn encode(adapter: &Adapter, meta: &Meta) -> Result<Vec<u8>, AdapterError> {
    let (expected, got) = (adapter.spec.len(), adapter.values.len());
    if expected != got {
        return Err(AdapterError::Length { expected, got });
    }
    let mut header = metadata(meta);
    let mut body = Vec::with_capacity(2 * got);
    for module in &adapter.spec.modules {
        let (a, b) = balanced(adapter, module);
        for (factor, shape, numbers) in [
            (Factor::A, [module.rank, module.fan_in], a),
            (Factor::B, [module.fan_out, module.rank], b),
        ] {
            let name = tensor_name(module.layer, module.target, factor);
            let narrow: Vec<f16> = numbers.iter().map(|number| f16::from_f32(*number)).collect();
            let wide: Vec<f32> = narrow.iter().map(|number| number.to_f32()).collect();
            finite(&name, &wide)?;
            let begin = body.len();
            body.extend(narrow.iter().flat_map(|number| number.to_le_bytes()));
            let ([rows, columns], end) = (shape, body.len());
            // Into a String, which takes everything.
            let _ = write!(
                header,
                r#","{name}":{{"dtype":"F16","shape":[{rows},{columns}],"data_offsets":[{begin},{end}]}}"#
            );
        }
    }
    header.push('}');
    // Tensors begin where 8 bytes divide, as in every safetensors file.
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    let file = [&(padded as u64).to_le_bytes()[..], header.as_bytes(), &body].concat();
    Header::read(header.as_bytes(), file.len() as u64)?;
    Ok(file)
}

/// What is said of an adapter, as the beginning of a header.
fn metadata(meta: &Meta) -> String {
    let Meta { kind, base, cohort, from, generation, steps, tokens } = meta;
    let format = kind.format();
    format!(
        r#"{{"__metadata__":{{"base":"{base}","cohort":"{cohort}","format":"{format}","from":"{from}","generation":"{generation}","steps":"{steps}","tokens":"{tokens}"}}"#
    )
}

/// What a file says of itself, before its numbers are looked at.
///
/// # Errors
/// [`AdapterError::Wire`].
pub fn header(bytes: &[u8]) -> Result<Header, AdapterError> {
    Ok(parts(bytes)?.0)
}

/// A file that is what was expected, checked to its last number before anything of it is used.
///
/// # Errors
/// [`AdapterError::Wire`] says what is wrong with it.
pub fn decode(bytes: &[u8], expected: &Expected<'_>) -> Result<(Adapter, Header), AdapterError> {
    let (header, body) = parts(bytes)?;
    header.fits(expected)?;
    Finite::new(&header).feed(body)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(AdapterError::Tensors)?;
    let tensors = by_place(&tensors)?;
    let spec = spec(&header);
    let mut values = Vec::with_capacity(spec.len());
    for module in &spec.modules {
        for factor in [Factor::A, Factor::B] {
            let name = tensor_name(module.layer, module.target, factor);
            let Some(view) = tensors.get(&(module.layer, module.target, factor)) else {
                return Err(AdapterError::MissingTensor { name });
            };
            widen(&name, view, &mut values)?;
        }
    }
    Ok((Adapter { spec, values }, header))
}

/// Header and body of a file of any length.
fn parts(bytes: &[u8]) -> Result<(Header, &[u8]), AdapterError> {
    // A file too short for a length has none.
    let prefix = bytes.first_chunk::<PREFIX>().copied().unwrap_or_default();
    let rest = bytes.get(PREFIX..).unwrap_or_default();
    let length = header_bytes(prefix, bytes.len() as u64)?;
    let (json, body) = rest.split_at(length.min(rest.len()));
    Ok((Header::read(json, bytes.len() as u64)?, body))
}

/// The spec of a checked file: one rank, scale 1.
fn spec(header: &Header) -> Spec {
    let Shape { first_layer, layers, targets, fans } = header.shape;
    let first = usize::from(first_layer);
    let rank = header.rank as usize;
    Spec::placed(first..first + usize::from(layers), |_, target| {
        let at = Target::ALL.iter().position(|other| *other == target)?;
        let [fan_in, fan_out] = fans[at].map(|width| width as usize);
        let strength = Strength { rank, alpha: rank as f32 };
        (targets >> at & 1 == 1).then_some((strength, (fan_in, fan_out)))
    })
}

/// What an adapter adapts, as a cohort has it: from the first of its layers to the last.
pub fn shape(spec: &Spec) -> Shape {
    let narrow = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let layers = layers(spec);
    let (first_layer, layers) = (narrow(layers.start), narrow(layers.len()));
    let mut shape = Shape { first_layer, layers, targets: 0, fans: [[0; 2]; Target::ALL.len()] };
    for module in &spec.modules {
        if let Some(at) = Target::ALL.iter().position(|target| *target == module.target) {
            shape.targets |= 1 << at;
            shape.fans[at] = [module.fan_in as u32, module.fan_out as u32];
        }
    }
    shape
}

fn layers(spec: &Spec) -> Range<usize> {
    let ends = spec.modules.first().zip(spec.modules.last());
    ends.map_or(0..0, |(first, last)| first.layer..last.layer + 1)
}

/// A and B of a module with its scale in B, each rank's row and column alike in length.
fn balanced(adapter: &Adapter, module: &Module) -> (Vec<f32>, Vec<f32>) {
    let Module { rank, fan_in, scale, .. } = *module;
    let mut a = adapter.a(module).to_vec();
    let mut b: Vec<f32> = adapter.b(module).iter().map(|number| scale * number).collect();
    for at in 0..rank {
        let row = &mut a[at * fan_in..(at + 1) * fan_in];
        let long = square(row.iter());
        let wide = square(b.iter().skip(at).step_by(rank));
        let (raised, lowered) = factors(long, wide);
        row.iter_mut().for_each(|number| *number *= raised);
        b.iter_mut().skip(at).step_by(rank).for_each(|number| *number *= lowered);
    }
    (a, b)
}

/// The square of a vector's length, summed in order.
fn square<'a>(numbers: impl Iterator<Item = &'a f32>) -> f64 {
    numbers.map(|&number| f64::from(number) * f64::from(number)).sum()
}

/// What a row and the column beside it are multiplied by, from the squares of their lengths: powers of two
/// whose product is 1 where both are there. One that stands beside zeros comes to a length of about 1.
fn factors(long: f64, wide: f64) -> (f32, f32) {
    if long == 0.0 || wide == 0.0 {
        return (power(-half(long)), power(-half(wide)));
    }
    // Half of the exponent of the quotient of the lengths, rounded.
    let shared = (half(wide / long) + 1).div_euclid(2);
    (power(shared), power(-shared))
}

/// Half of the exponent of a square, rounded down: that of its root; 0 for what has none.
fn half(square: f64) -> i32 {
    const MANTISSA_BITS: u32 = 52;
    const BIAS: i32 = 1023;
    match square.is_normal() && square > 0.0 {
        true => ((square.to_bits() >> MANTISSA_BITS) as i32 - BIAS).div_euclid(2),
        false => 0,
    }
}

/// A power of two that f32 holds, and its inverse too.
fn power(exponent: i32) -> f32 {
    const MANTISSA_BITS: u32 = 23;
    const BIAS: i32 = 127;
    let exponent = exponent.clamp(1 - BIAS, BIAS - 1);
    f32::from_bits(((exponent + BIAS) as u32) << MANTISSA_BITS)
}

#[cfg(test)]
mod tests;
