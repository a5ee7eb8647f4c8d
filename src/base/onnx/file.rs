//! An ONNX file on disk: decoded, and its tensors read as numbers when asked for.
//!
//! - In: the path of a `model.onnx`; its external data lies in the same folder or below it.
//! - Out: the graph, and each tensor's elements as f32, i64 or bytes.
//! - Never here: what a tensor is for.
//! - Invariant: every count and every offset of the file is compared with what is really there
//!   before a byte is allocated for it, so a lying file costs an error and no memory.

use super::{GraphProto, LOCATION_EXTERNAL, ModelProto, NodeProto, TensorProto, data_type, scan};
use crate::base::error::BaseError;
use half::{bf16, f16};
use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Most bytes of one protobuf message, and so of a `model.onnx`.
pub const FILE_BYTES_MAX: u64 = 2_147_483_647;

/// Bytes that are read at a time: a multiple of every number's.
const SOME_BYTES: usize = 1 << 18;

/// An opened ONNX file. Weights stay on disk until they are asked for.
#[derive(Debug)]
pub struct OnnxFile {
    path: PathBuf,
    model: ModelProto,
    graph: GraphProto,
}

impl OnnxFile {
    /// Reads and decodes a `model.onnx`, all but its weights.
    ///
    /// # Errors
    /// [`BaseError::Read`], [`BaseError::TooBig`], and [`BaseError::Onnx`] for a file that is cut
    /// off or is no ONNX model.
    pub fn open(path: &Path) -> Result<Self, BaseError> {
        let foreign = |what: String| BaseError::Onnx { path: path.to_owned(), what };
        let mut model = scan::model(path)?;
        let graph = model.graph.take().ok_or_else(|| foreign("it has no graph".into()))?;
        if graph.node.is_empty() || graph.output.is_empty() {
            return Err(foreign("its graph has no nodes or no outputs".into()));
        }
        if model.opset_import.is_empty() {
            return Err(foreign("it names no operator set".into()));
        }
        Ok(Self { path: path.to_owned(), model, graph })
    }

    /// A file that is still in memory; `path` is where its external data would be looked for.
    ///
    /// # Errors
    /// [`BaseError::Onnx`] when the model has no graph.
    pub fn from_model(path: &Path, mut model: ModelProto) -> Result<Self, BaseError> {
        let graph = model.graph.take().ok_or_else(|| BaseError::Onnx {
            path: path.to_owned(),
            what: "it has no graph".into(),
        })?;
        Ok(Self { path: path.to_owned(), model, graph })
    }

    /// The graph.
    pub fn graph(&self) -> &GraphProto {
        &self.graph
    }

    /// The constant tensor of that name: an initializer, or the value of a Constant node.
    pub fn constant(&self, name: &str) -> Option<&TensorProto> {
        let weights = &self.graph.initializer;
        weights.iter().find(|tensor| tensor.name == name).or_else(|| {
            let writes = |node: &&NodeProto| node.output.first().is_some_and(|out| out == name);
            let node = self.graph.node.iter().find(writes).filter(|n| n.op_type == "Constant")?;
            node.attribute.iter().find(|entry| entry.name == "value")?.t.as_ref()
        })
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that weights lie in, each once a weight.
    pub fn external_files(&self) -> impl Iterator<Item = PathBuf> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let own = self.graph.initializer.iter().filter(|t| t.data_location == LOCATION_EXTERNAL);
        own.filter_map(|tensor| Place::of(tensor).ok()).map(|place| folder.join(place.location))
    }

    /// The value of a key of the model's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let entry = self.model.metadata_props.iter().find(|entry| entry.key == key);
        entry.map(|entry| entry.value.as_str())
    }

    /// The elements of a floating point tensor as f32, row-major: FLOAT, FLOAT16, BFLOAT16, DOUBLE.
    ///
    /// # Errors
    /// [`BaseError::Tensor`] for another type; [`BaseError::Elements`] and the external data errors
    /// when the bytes are not those that the shape asks for.
    pub fn floats(&self, tensor: &TensorProto) -> Result<Vec<f32>, BaseError> {
        let count = elements(tensor)?;
        let values = match tensor.data_type {
            data_type::FLOAT => match self.numbers(tensor, count, f32::from_le_bytes)? {
                Some(numbers) => numbers,
                None => tensor.float_data.clone(),
            },
            data_type::DOUBLE => {
                match self.numbers(tensor, count, |b| f64::from_le_bytes(b) as f32)? {
                    Some(numbers) => numbers,
                    None => tensor.double_data.iter().map(|&value| value as f32).collect(),
                }
            }
            data_type::FLOAT16 => {
                self.halves(tensor, count, |bits| f16::from_bits(bits).to_f32())?
            }
            data_type::BFLOAT16 => {
                self.halves(tensor, count, |bits| bf16::from_bits(bits).to_f32())?
            }
            other => return Err(unreadable(tensor, other, "FLOAT, FLOAT16, BFLOAT16 or DOUBLE")),
        };
        counted(tensor, count, values)
    }

    /// The elements of an INT64 or INT32 tensor, row-major.
    ///
    /// # Errors
    /// As [`Self::floats`].
    pub fn integers(&self, tensor: &TensorProto) -> Result<Vec<i64>, BaseError> {
        let count = elements(tensor)?;
        let values = match tensor.data_type {
            data_type::INT64 => match self.bytes(tensor, count, 8)? {
                Some(bytes) => numbers(&bytes, i64::from_le_bytes),
                None => tensor.int64_data.clone(),
            },
            data_type::INT32 => match self.bytes(tensor, count, 4)? {
                Some(bytes) => numbers(&bytes, |b| i64::from(i32::from_le_bytes(b))),
                None => tensor.int32_data.iter().map(|&value| i64::from(value)).collect(),
            },
            other => return Err(unreadable(tensor, other, "INT64 or INT32")),
        };
        counted(tensor, count, values)
    }

    /// The elements of a UINT8 tensor.
    ///
    /// # Errors
    /// As [`Self::floats`].
    pub fn octets(&self, tensor: &TensorProto) -> Result<Vec<u8>, BaseError> {
        let count = elements(tensor)?;
        if tensor.data_type != data_type::UINT8 {
            return Err(unreadable(tensor, tensor.data_type, "UINT8"));
        }
        let values = match self.bytes(tensor, count, 1)? {
            Some(bytes) => bytes.into_owned(),
            None => tensor.int32_data.iter().map(|&value| value as u8).collect(),
        };
        counted(tensor, count, values)
    }

    fn halves(
        &self,
        tensor: &TensorProto,
        count: usize,
        widen: impl Fn(u16) -> f32,
    ) -> Result<Vec<f32>, BaseError> {
        Ok(match self.numbers(tensor, count, |b| widen(u16::from_le_bytes(b)))? {
            Some(numbers) => numbers,
            None => tensor.int32_data.iter().map(|&bits| widen(bits as u16)).collect(),
        })
    }

    /// `count` numbers of a tensor, or none when its elements lie in a typed field. A file is read some at
    /// a time: a large weight is in memory once.
    fn numbers<const WIDTH: usize>(
        &self,
        tensor: &TensorProto,
        count: usize,
        number: impl Fn([u8; WIDTH]) -> f32,
    ) -> Result<Option<Vec<f32>>, BaseError> {
        if tensor.data_location != LOCATION_EXTERNAL {
            let bytes = self.bytes(tensor, count, WIDTH)?;
            return Ok(bytes.map(|bytes| numbers(&bytes, number)));
        }
        let expected = count.checked_mul(WIDTH).ok_or_else(|| uncountable(tensor))?;
        let (mut file, path) = self.external(tensor, expected)?;
        let mut buffer = vec![0; expected.min(SOME_BYTES)];
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            let bytes = (WIDTH * (count - values.len())).min(SOME_BYTES);
            let some = &mut buffer[..bytes];
            file.read_exact(some).map_err(|source| missing(tensor, &path, source))?;
            values.extend(some.as_chunks::<WIDTH>().0.iter().map(|&bytes| number(bytes)));
        }
        Ok(Some(values))
    }

    /// The little-endian bytes of a tensor, `count * width` of them, or none when its elements lie
    /// in a typed field.
    fn bytes<'a>(
        &self,
        tensor: &'a TensorProto,
        count: usize,
        width: usize,
    ) -> Result<Option<Cow<'a, [u8]>>, BaseError> {
        let expected = count.checked_mul(width).ok_or_else(|| uncountable(tensor))?;
        if tensor.data_location == LOCATION_EXTERNAL {
            let (mut file, path) = self.external(tensor, expected)?;
            let mut bytes = vec![0; expected];
            file.read_exact(&mut bytes).map_err(|source| missing(tensor, &path, source))?;
            return Ok(Some(Cow::Owned(bytes)));
        }
        if tensor.raw_data.is_empty() {
            return Ok(None);
        }
        if tensor.raw_data.len() != expected {
            return Err(miscounted(tensor, "bytes", expected, tensor.raw_data.len()));
        }
        Ok(Some(Cow::Borrowed(&tensor.raw_data)))
    }

    /// The file that a tensor's `expected` bytes lie in, at the first of them, and its path.
    fn external(
        &self,
        tensor: &TensorProto,
        expected: usize,
    ) -> Result<(File, PathBuf), BaseError> {
        let place = Place::of(tensor)?;
        let path = self.path.parent().unwrap_or(Path::new("")).join(&place.location);
        let missing = |source| missing(tensor, &path, source);
        if let Some(length) = place.length
            && length != expected as u64
        {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            return Err(miscounted(tensor, "bytes", expected, length));
        }
        let mut file = File::open(&path).map_err(missing)?;
        let got = file.metadata().map_err(missing)?.len();
        let end = place.offset.checked_add(expected as u64);
        if end.is_none_or(|end| end > got) {
            return Err(BaseError::ExternalDataShort {
                tensor: tensor.name.clone(),
                path,
                offset: place.offset,
                length: expected as u64,
                got,
            });
        }
        file.seek(SeekFrom::Start(place.offset)).map_err(missing)?;
        Ok((file, path))
    }
}

fn missing(tensor: &TensorProto, path: &Path, source: std::io::Error) -> BaseError {
    BaseError::MissingExternalData { tensor: tensor.name.clone(), path: path.to_owned(), source }
}

/// The sizes of a tensor's axes.
///
/// # Errors
/// [`BaseError::Tensor`] when one is negative or does not fit.
pub fn shape(tensor: &TensorProto) -> Result<Vec<usize>, BaseError> {
    let sizes: Result<Vec<usize>, _> = tensor.dims.iter().map(|&dim| dim.try_into()).collect();
    sizes.map_err(|_| uncountable(tensor))
}

fn elements(tensor: &TensorProto) -> Result<usize, BaseError> {
    let product = shape(tensor)?.into_iter().try_fold(1_usize, usize::checked_mul);
    product.ok_or_else(|| uncountable(tensor))
}

fn numbers<T, const WIDTH: usize>(bytes: &[u8], number: impl Fn([u8; WIDTH]) -> T) -> Vec<T> {
    bytes.as_chunks::<WIDTH>().0.iter().map(|&chunk| number(chunk)).collect()
}

fn counted<T>(tensor: &TensorProto, count: usize, values: Vec<T>) -> Result<Vec<T>, BaseError> {
    if values.len() == count {
        Ok(values)
    } else {
        Err(miscounted(tensor, "elements", count, values.len()))
    }
}

fn miscounted(tensor: &TensorProto, unit: &'static str, expected: usize, got: usize) -> BaseError {
    let (tensor, dims) = (tensor.name.clone(), tensor.dims.clone());
    BaseError::Elements { tensor, dims, unit, expected, got }
}

fn uncountable(tensor: &TensorProto) -> BaseError {
    let what = format!("shape {:?} has a negative size or more elements than memory", tensor.dims);
    BaseError::Tensor { tensor: tensor.name.clone(), what }
}

fn unreadable(tensor: &TensorProto, got: i32, expected: &str) -> BaseError {
    let what = format!("element type {} ({got}), expected {expected}", data_type::name(got));
    BaseError::Tensor { tensor: tensor.name.clone(), what }
}

/// Where a tensor's bytes lie: a file below the model folder.
struct Place {
    location: PathBuf,
    offset: u64,
    length: Option<u64>,
}

impl Place {
    fn of(tensor: &TensorProto) -> Result<Self, BaseError> {
        let value = |key: &str| {
            let entry = tensor.external_data.iter().find(|entry| entry.key == key);
            entry.map(|entry| entry.value.as_str())
        };
        let location = value("location").unwrap_or_default();
        let refused = |what| BaseError::ExternalData {
            tensor: tensor.name.clone(),
            location: location.to_owned(),
            what,
        };
        let number = |key: &str| {
            value(key)
                .map(|text| text.parse::<u64>())
                .transpose()
                .map_err(|_| refused("its offset or length is not a whole number"))
        };
        let inside = Path::new(location)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || !inside {
            return Err(refused("expected a file inside the model folder"));
        }
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        Ok(Self { location: location.into(), offset, length })
    }
}
