//! From a place in the file to numbers in one layout.
//!
//! - In: a location. Out: f32, row-major; linear layers as `[in, out]`.
//! - Never here: finding the location.
//! - Invariant: the shape that `shape_of` promises is the shape that `weight` gives.
//!
//! Source of the packed format: ONNX Runtime, ContribOperators.md, com.microsoft.MatMulNBits.

use super::{Layout, Location, Quantised};
use crate::base::error::BaseError;
use crate::base::onnx::{OnnxFile, TensorProto, data_type, shape};
use std::ops::Range;

/// The shape in which a weight is read, without reading it.
pub(super) fn shape_of(file: &OnnxFile, place: &Location) -> Result<Vec<usize>, BaseError> {
    let stored = match &place.quantised {
        Some(packed) => vec![packed.fan_out, packed.fan_in],
        None => shape(constant(file, &place.tensor)?)?,
    };
    match (place.layout, stored.as_slice(), &place.outputs) {
        (Layout::InOut, &[fan_in, fan_out], outputs)
        | (Layout::OutIn, &[fan_out, fan_in], outputs) => {
            Ok(vec![fan_in, part(place, outputs.as_ref(), fan_out)?.len()])
        }
        (Layout::AsRead, &[size], Some(outputs)) => {
            Ok(vec![part(place, Some(outputs), size)?.len()])
        }
        _ => Ok(stored),
    }
}

/// A weight's shape and elements.
pub(super) fn weight(
    file: &OnnxFile,
    place: &Location,
) -> Result<(Vec<usize>, Vec<f32>), BaseError> {
    let goal = shape_of(file, place)?;
    let values = match &place.quantised {
        Some(packed) => dequantise(file, &place.tensor, packed)?,
        None => file.floats(constant(file, &place.tensor)?)?,
    };
    let values = match (goal.as_slice(), place.layout) {
        (&[fan_in, _], Layout::OutIn) => {
            let fan_out = values.len().checked_div(fan_in).unwrap_or(0);
            transposed(&values, fan_in, part(place, place.outputs.as_ref(), fan_out)?)
        }
        (&[fan_in, _], Layout::InOut) if place.outputs.is_some() => {
            let fan_out = values.len().checked_div(fan_in).unwrap_or(0);
            columns(&values, fan_out, part(place, place.outputs.as_ref(), fan_out)?)
        }
        (&[_], _) => {
            let outputs = part(place, place.outputs.as_ref(), values.len())?;
            values.get(outputs).unwrap_or_default().to_vec()
        }
        _ => values,
    };
    Ok((goal, values))
}

fn constant<'a>(file: &'a OnnxFile, name: &str) -> Result<&'a TensorProto, BaseError> {
    file.constant(name).ok_or_else(|| BaseError::NoWeight { name: name.to_owned() })
}

/// The outputs that a place takes of `fan_out`.
fn part(
    place: &Location,
    outputs: Option<&Range<usize>>,
    fan_out: usize,
) -> Result<Range<usize>, BaseError> {
    let outputs = outputs.cloned().unwrap_or(0..fan_out);
    if outputs.end <= fan_out {
        return Ok(outputs);
    }
    let what = format!("it has {fan_out} outputs, expected at least {}", outputs.end);
    Err(BaseError::Tensor { tensor: place.tensor.clone(), what })
}

/// Rows `outputs` of `[out, in]` as `[in, outputs]`.
fn transposed(values: &[f32], fan_in: usize, outputs: Range<usize>) -> Vec<f32> {
    let (first, width) = (outputs.start, outputs.len());
    let mut goal = vec![0.0; fan_in * width];
    // Square tiles: both sides of a big matrix stay in the cache.
    const TILE: usize = 32;
    for row in (0..width).step_by(TILE) {
        for column in (0..fan_in).step_by(TILE) {
            for output in row..width.min(row + TILE) {
                for input in column..fan_in.min(column + TILE) {
                    goal[input * width + output] = values[(first + output) * fan_in + input];
                }
            }
        }
    }
    goal
}

/// Columns `outputs` of `[in, out]`.
fn columns(values: &[f32], fan_out: usize, outputs: Range<usize>) -> Vec<f32> {
    let rows = values.chunks_exact(fan_out.max(1));
    rows.flat_map(|row| row.get(outputs.clone()).unwrap_or_default()).copied().collect()
}

/// The numbers behind packed 4 bit integers, `[out, in]`.
fn dequantise(file: &OnnxFile, tensor: &str, packed: &Quantised) -> Result<Vec<f32>, BaseError> {
    let (rows, fan_in, block) = (packed.fan_out, packed.fan_in, packed.block);
    let blocks = fan_in.div_ceil(block);
    let block_bytes = block.div_ceil(2);
    let scales = file.floats(constant(file, &packed.scales)?)?;
    let bytes = file.octets(constant(file, tensor)?)?;
    let points = ZeroPoints::read(file, packed.zero_points.as_deref(), rows, blocks)?;
    counted(&packed.scales, scales.len(), rows.checked_mul(blocks))?;
    let all = rows.checked_mul(blocks).and_then(|count| count.checked_mul(block_bytes));
    counted(tensor, bytes.len(), all)?;
    let mut values = Vec::with_capacity(rows * fan_in);
    for row in 0..rows {
        for input in 0..fan_in {
            let (at, inside) = (row * blocks + input / block, input % block);
            let byte = bytes[at * block_bytes + inside / 2];
            let quantum = f32::from(if inside % 2 == 0 { byte & 15 } else { byte >> 4 });
            values.push((quantum - points.at(row, input / block)) * scales[at]);
        }
    }
    Ok(values)
}

/// What stands for zero in each block of each output.
enum ZeroPoints {
    Middle,
    Packed { bytes: Vec<u8>, row_bytes: usize },
    Floats { values: Vec<f32>, blocks: usize },
}

impl ZeroPoints {
    fn read(
        file: &OnnxFile,
        name: Option<&str>,
        rows: usize,
        blocks: usize,
    ) -> Result<Self, BaseError> {
        let Some(name) = name else { return Ok(Self::Middle) };
        let tensor = constant(file, name)?;
        if tensor.data_type == data_type::UINT8 {
            let (bytes, row_bytes) = (file.octets(tensor)?, blocks.div_ceil(2));
            counted(name, bytes.len(), rows.checked_mul(row_bytes))?;
            return Ok(Self::Packed { bytes, row_bytes });
        }
        let values = file.floats(tensor)?;
        counted(name, values.len(), rows.checked_mul(blocks))?;
        Ok(Self::Floats { values, blocks })
    }

    fn at(&self, row: usize, block: usize) -> f32 {
        match self {
            Self::Middle => 8.0,
            Self::Packed { bytes, row_bytes } => {
                let byte = bytes[row * row_bytes + block / 2];
                f32::from(if block.is_multiple_of(2) { byte & 15 } else { byte >> 4 })
            }
            Self::Floats { values, blocks } => values[row * blocks + block],
        }
    }
}

fn counted(tensor: &str, got: usize, expected: Option<usize>) -> Result<(), BaseError> {
    if expected == Some(got) {
        return Ok(());
    }
    let expected = expected.map_or("more than memory".into(), |count| count.to_string());
    let what = format!("{got} packed elements, expected {expected} for its K, N and block_size");
    Err(BaseError::Tensor { tensor: tensor.to_owned(), what })
}
