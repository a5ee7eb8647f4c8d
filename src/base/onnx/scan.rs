//! A `model.onnx` decoded without its weights: they stay in the file until they are asked for.
//!
//! - In: the path. Out: the whole model, except that the bytes of every big initializer are
//!   replaced by external data that names their place in this same file.
//! - Never here: what a tensor means.
//! - Invariant: every length is held against the bytes left in its message before it is believed,
//!   so a lying file costs an error and no memory.
//!
//! Source: the protobuf wire format, <https://protobuf.dev/programming-guides/encoding>.

use super::{
    FILE_BYTES_MAX, GraphProto, LOCATION_EXTERNAL, ModelProto, StringStringEntryProto, TensorProto,
};
use crate::base::error::BaseError;
use prost::Message;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Initializers of at most this many bytes are decoded as they are.
const KEPT_BYTES_MAX: u64 = 4096;

/// Field numbers of `onnx.proto`.
const MODEL_GRAPH: u64 = 7;
const GRAPH_INITIALIZER: u64 = 5;
const TENSOR_RAW_DATA: u64 = 9;

/// Decodes a file, leaving its weights where they are.
pub(super) fn model(path: &Path) -> Result<ModelProto, BaseError> {
    let unread = |source| BaseError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unread)?;
    let metadata = file.metadata().map_err(unread)?;
    if metadata.is_dir() {
        return Err(unread(io::ErrorKind::IsADirectory.into()));
    }
    let bytes = metadata.len();
    if bytes > FILE_BYTES_MAX {
        return Err(BaseError::TooBig { path: path.to_owned(), limit: FILE_BYTES_MAX, got: bytes });
    }
    let location = path.file_name().and_then(|name| name.to_str());
    let mut scan = Scan { file: BufReader::new(file), at: 0, location };
    scan.model(bytes).map_err(|stop| match stop {
        Stop::Unread(source) => unread(source),
        Stop::Odd(what) => BaseError::Onnx { path: path.to_owned(), what },
    })
}

/// Why a scan ends early.
enum Stop {
    Unread(io::Error),
    Odd(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Unread(error)
    }
}

impl From<prost::DecodeError> for Stop {
    fn from(error: prost::DecodeError) -> Self {
        Self::Odd(error.to_string())
    }
}

/// A field whose bytes have not been read.
struct Field {
    number: u64,
    /// As written: number and wire type, and the length if there is one.
    head: Vec<u8>,
    bytes: u64,
}

struct Scan<'a> {
    file: BufReader<File>,
    /// Bytes read so far.
    at: u64,
    /// The file's own name, when external data can say it.
    location: Option<&'a str>,
}

impl Scan<'_> {
    fn model(&mut self, end: u64) -> Result<ModelProto, Stop> {
        let (mut rest, mut graph, mut tensors) = (Vec::new(), None, Vec::new());
        while self.at < end {
            let field = self.field(end)?;
            if field.number == MODEL_GRAPH {
                // A message that comes twice is merged, which for its bytes is to be joined.
                let graph = graph.get_or_insert_with(Vec::new);
                self.graph(self.at + field.bytes, graph, &mut tensors)?;
            } else {
                self.copy(&field, &mut rest)?;
            }
        }
        let mut model = ModelProto::decode(rest.as_slice())?;
        if let Some(graph) = graph {
            let graph = GraphProto::decode(graph.as_slice())?;
            model.graph = Some(GraphProto { initializer: tensors, ..graph });
        }
        Ok(model)
    }

    fn graph(
        &mut self,
        end: u64,
        rest: &mut Vec<u8>,
        tensors: &mut Vec<TensorProto>,
    ) -> Result<(), Stop> {
        while self.at < end {
            let field = self.field(end)?;
            if field.number == GRAPH_INITIALIZER {
                tensors.push(self.tensor(self.at + field.bytes)?);
            } else {
                self.copy(&field, rest)?;
            }
        }
        Ok(())
    }

    fn tensor(&mut self, end: u64) -> Result<TensorProto, Stop> {
        let (mut rest, mut place) = (Vec::new(), None);
        while self.at < end {
            let field = self.field(end)?;
            let big = field.number == TENSOR_RAW_DATA && field.bytes > KEPT_BYTES_MAX;
            match self.location {
                Some(location) if big => {
                    place = Some([location.into(), self.at.to_string(), field.bytes.to_string()]);
                    self.skip(field.bytes)?;
                }
                _ => self.copy(&field, &mut rest)?,
            }
        }
        let mut tensor = TensorProto::decode(rest.as_slice())?;
        // A tensor that says its bytes lie elsewhere is taken at its word.
        if let Some(place) = place.filter(|_| tensor.data_location != LOCATION_EXTERNAL) {
            let entry = |(key, value)| StringStringEntryProto { key: String::from(key), value };
            tensor.data_location = LOCATION_EXTERNAL;
            tensor.external_data =
                ["location", "offset", "length"].into_iter().zip(place).map(entry).collect();
        }
        Ok(tensor)
    }

    /// The next field of a message that ends at `end`.
    fn field(&mut self, end: u64) -> Result<Field, Stop> {
        let mut head = Vec::new();
        let key = self.varint(end, &mut head)?;
        let bytes = match key & 7 {
            0 => {
                self.varint(end, &mut head)?;
                0
            }
            1 => 8,
            2 => self.varint(end, &mut head)?,
            5 => 4,
            other => return Err(Stop::Odd(format!("wire type {other} at byte {}", self.at))),
        };
        let left = end - self.at;
        if bytes > left {
            let at = self.at;
            let what = format!("a field of {bytes} bytes at byte {at}, where {left} are left");
            return Err(Stop::Odd(what));
        }
        Ok(Field { number: key >> 3, head, bytes })
    }

    fn varint(&mut self, end: u64, head: &mut Vec<u8>) -> Result<u64, Stop> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at == end {
                return Err(Stop::Odd(format!("a number cut off at byte {end}")));
            }
            let mut byte = [0];
            self.file.read_exact(&mut byte)?;
            self.at += 1;
            head.push(byte[0]);
            value |= u64::from(byte[0] & 127) << shift;
            if byte[0] < 128 {
                return Ok(value);
            }
        }
        Err(Stop::Odd(format!("a number of more than 64 bits at byte {}", self.at)))
    }

    /// A field as it is written, for prost.
    fn copy(&mut self, field: &Field, rest: &mut Vec<u8>) -> Result<(), Stop> {
        rest.extend(&field.head);
        let copied = (&mut self.file).take(field.bytes).read_to_end(rest)?;
        self.at += field.bytes;
        if copied as u64 != field.bytes {
            return Err(Stop::Unread(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Stop> {
        // A file has at most FILE_BYTES_MAX bytes, and they are all there.
        self.file.seek_relative(bytes as i64)?;
        self.at += bytes;
        Ok(())
    }
}
