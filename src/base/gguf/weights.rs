//! The weights of a GGUF file, widened to f32 in our layout; the door to candle's quantised types.
//!
//! - A few rows are in memory as they lie, the weight as f32 once.
//! - llama.cpp turns neighbours of a head where Hugging Face turns its two halves, so the rows of q and k
//!   of `llama` lie in another order there: halves by turns.

use super::super::{BaseError, Family, Source, Weight};
use super::Gguf;
use super::encoding::Encoding;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Error};
use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Rows that are widened at once: their columns are written side by side.
const ROWS: usize = 32;

impl Source for Gguf {
    fn weight(&self, name: &str) -> Result<Weight, BaseError> {
        self.weight(name)
    }
}

impl Gguf {
    /// One weight by its Hugging Face name.
    /// # Errors
    /// [`BaseError::NoWeight`], [`BaseError::Read`], or [`BaseError::Range`] when a value is infinite or
    /// not a number.
    pub fn weight(&self, name: &str) -> Result<Weight, BaseError> {
        let tensor = self.tensor(name).ok_or_else(|| BaseError::NoWeight { name: name.into() })?;
        let unread = |source| BaseError::Read { path: self.path().to_owned(), source };
        let columns = tensor.shape.first().copied().unwrap_or_default();
        let rows: usize = tensor.shape.iter().skip(1).product();
        let mut file = File::open(self.path()).map_err(unread)?;
        file.seek(SeekFrom::Start(tensor.offset)).map_err(unread)?;
        let row_bytes = tensor.bytes as usize / rows;
        let mut data = vec![0.0; rows * columns];
        let turned = tensor.shape.len() == 2 && name != "model.embed_tokens.weight";
        for first in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - first);
            let mut bytes = vec![0; count * row_bytes];
            file.read_exact(&mut bytes).map_err(unread)?;
            let wide = widen(tensor.encoding, &bytes, count, columns).map_err(|error| {
                let what = format!("weight {name:?} cannot be widened: {error}");
                BaseError::GgufModel { path: self.path().to_owned(), what }
            })?;
            if let Some(&value) = wide.iter().find(|value| !value.is_finite()) {
                let (tensor, target) = (name.into(), "a model");
                return Err(BaseError::Range { tensor, value, target, hint: "" });
            }
            if !turned {
                data[first * columns..(first + count) * columns].copy_from_slice(&wide);
                continue;
            }
            let places: Vec<usize> =
                (first..first + count).map(|row| self.place(name, row)).collect();
            for column in 0..columns {
                for (row, place) in places.iter().enumerate() {
                    data[column * rows + place] = wide[row * columns + column];
                }
            }
        }
        let shape = match turned {
            true => vec![columns, rows],
            false => tensor.shape.iter().rev().copied().collect(),
        };
        Ok(Weight { shape, data })
    }

    /// Where a row of the file belongs.
    fn place(&self, name: &str, row: usize) -> usize {
        let halves = [".self_attn.q_proj.", ".self_attn.k_proj."];
        let by_turns = halves.iter().any(|part| name.contains(part));
        let head = self.config().head_dim;
        match by_turns && self.config().family == Family::Llama {
            true => row / head * head + row % 2 * (head / 2) + row % head / 2,
            false => row,
        }
    }
}

/// `rows` rows as f32.
fn widen(encoding: Encoding, bytes: &[u8], rows: usize, columns: usize) -> Result<Vec<f32>, Error> {
    let kind = match encoding {
        Encoding::F32 => GgmlDType::F32,
        Encoding::F16 => GgmlDType::F16,
        Encoding::Bf16 => GgmlDType::BF16,
        Encoding::Q4_0 => GgmlDType::Q4_0,
        Encoding::Q4_1 => GgmlDType::Q4_1,
        Encoding::Q5_0 => GgmlDType::Q5_0,
        Encoding::Q5_1 => GgmlDType::Q5_1,
        Encoding::Q8_0 => GgmlDType::Q8_0,
        Encoding::Q2K => GgmlDType::Q2K,
        Encoding::Q3K => GgmlDType::Q3K,
        Encoding::Q4K => GgmlDType::Q4K,
        Encoding::Q5K => GgmlDType::Q5K,
        Encoding::Q6K => GgmlDType::Q6K,
    };
    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, kind)?;
    QTensor::new(storage, (rows, columns))?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
}
