//! Edits of a graph, one after the other, as a fuzzer's bytes choose them.
//!
//! - In: a model and bytes, a few for each edit. Out: a model that is still a protobuf message, with
//!   nodes moved, renamed, doubled and lost, and tensors that lie about themselves.

use super::{EXTERNAL, elsewhere};
use crate::Seed;
use crate::cursor::Cursor;
use sapwood::base::onnx::{
    AttributeProto, GraphProto, LOCATION_EXTERNAL, ModelProto, NodeProto, TensorProto,
};

/// Most edits of one graph.
const EDITS_MAX: usize = 48;

const OPERATORS: [&str; 32] = [
    "Add",
    "Attention",
    "Cast",
    "Concat",
    "Constant",
    "Div",
    "Expand",
    "Gather",
    "Gemm",
    "GroupQueryAttention",
    "Identity",
    "LSTM",
    "MatMul",
    "MatMulNBits",
    "Mul",
    "MultiHeadAttention",
    "Neg",
    "Pow",
    "QuickGelu",
    "ReduceMean",
    "Reshape",
    "RMSNormalization",
    "RotaryEmbedding",
    "Shape",
    "Sigmoid",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Slice",
    "Softmax",
    "Sqrt",
    "Swish",
    "Transpose",
];
const ATTRIBUTES: [&str; 24] = [
    "K",
    "N",
    "alpha",
    "axis",
    "beta",
    "bits",
    "block_size",
    "do_rotary",
    "epsilon",
    "interleaved",
    "kv_num_heads",
    "local_window_size",
    "num_heads",
    "perm",
    "q_num_heads",
    "rotary_interleaved",
    "scale",
    "smooth_softmax",
    "softcap",
    "transA",
    "transB",
    "value",
    "value_float",
    "value_int",
];
const SIZES: [i64; 16] = [
    0,
    1,
    2,
    3,
    4,
    6,
    8,
    16,
    24,
    -1,
    i32::MAX as i64,
    1 << 32,
    1 << 40,
    1 << 62,
    i64::MAX,
    i64::MIN,
];
const LOCATIONS: [&str; 6] =
    [EXTERNAL, "model.onnx", "../model.onnx", "", "absent", "./config.json"];

/// Applies edits until the bytes are used up.
pub fn edit(model: &mut ModelProto, cursor: &mut Cursor<'_>) {
    for _ in 0..EDITS_MAX {
        let Some(graph) = model.graph.as_mut().filter(|_| !cursor.is_empty()) else { return };
        let kind = cursor.byte();
        match kind % 16 {
            0..=7 => of_nodes(graph, kind % 16, cursor),
            8..=13 => of_tensors(graph, kind % 16, cursor),
            14 => of_ends(graph, cursor),
            _ => of_model(model, cursor),
        }
    }
}

/// A name that some tensor of the graph has, or none has.
fn name(graph: &GraphProto, cursor: &mut Cursor<'_>) -> String {
    let outputs = graph.node.iter().flat_map(|node| &node.output);
    let constants = graph.initializer.iter().map(|tensor| &tensor.name);
    let ends = graph.input.iter().chain(&graph.output).map(|end| &end.name);
    let mut names: Vec<&String> = outputs.chain(constants).chain(ends).collect();
    let (empty, other) = (String::new(), "other".to_owned());
    names.extend([&empty, &other]);
    names[cursor.below(names.len())].clone()
}

fn of_nodes(graph: &mut GraphProto, kind: u8, cursor: &mut Cursor<'_>) {
    let named = name(graph, cursor);
    if graph.node.is_empty() {
        return;
    }
    let (at, other) = (cursor.below(graph.node.len()), cursor.below(graph.node.len()));
    match kind {
        0 => drop(graph.node.remove(at)),
        1 => graph.node.swap(at, other),
        2 => graph.node.insert(at, graph.node[other].clone()),
        3 => graph.node.insert(at, inserted(named, cursor)),
        4 => graph.node[at].op_type = OPERATORS[cursor.below(OPERATORS.len())].to_owned(),
        5 => put(&mut graph.node[at].input, named, cursor),
        6 => put(&mut graph.node[at].output, named, cursor),
        _ => attribute(graph, at, cursor),
    }
}

/// A node between a tensor and a new name.
fn inserted(input: String, cursor: &mut Cursor<'_>) -> NodeProto {
    let op_type = OPERATORS[cursor.below(OPERATORS.len())].to_owned();
    let domain = if cursor.byte() & 1 == 0 { "" } else { "com.microsoft" }.to_owned();
    let output = vec![format!("new.{}", cursor.byte())];
    NodeProto { op_type, domain, input: vec![input], output, ..NodeProto::default() }
}

/// Puts a name in a place of a list, or behind its end.
fn put(names: &mut Vec<String>, name: String, cursor: &mut Cursor<'_>) {
    let at = cursor.below(names.len() + 2);
    match names.get_mut(at) {
        Some(place) => *place = name,
        None => names.push(name),
    }
}

fn attribute(graph: &mut GraphProto, at: usize, cursor: &mut Cursor<'_>) {
    let size = SIZES[cursor.below(SIZES.len())];
    let tensor = graph.initializer.get(cursor.below(graph.initializer.len())).cloned();
    let node = &mut graph.node[at];
    match cursor.byte() % 4 {
        0 => node.domain = "com.microsoft".to_owned(),
        1 => node.attribute.clear(),
        _ => node.attribute.push(AttributeProto {
            name: ATTRIBUTES[cursor.below(ATTRIBUTES.len())].to_owned(),
            i: Some(size),
            f: Some(f32::from_bits(cursor.number())),
            ints: vec![size; cursor.below(4)],
            t: tensor.filter(|_| cursor.byte() & 1 == 1),
            ..AttributeProto::default()
        }),
    }
}

fn of_tensors(graph: &mut GraphProto, kind: u8, cursor: &mut Cursor<'_>) {
    let named = name(graph, cursor);
    if graph.initializer.is_empty() {
        return;
    }
    let at = cursor.below(graph.initializer.len());
    let number = cursor.number();
    let tensor: &mut TensorProto = &mut graph.initializer[at];
    match kind {
        8 => drop(graph.initializer.remove(at)),
        9 => tensor.name = named,
        10 => match tensor.dims.get_mut(number as usize % 3) {
            Some(size) => *size = SIZES[cursor.below(SIZES.len())],
            None => tensor.dims.push(SIZES[cursor.below(SIZES.len())]),
        },
        11 => tensor.data_type = (number % 24) as i32,
        12 => {
            tensor.raw_data.resize(cursor.below(5000), number as u8);
            let count = cursor.below(40);
            tensor.float_data.resize(count, f32::from_bits(number));
            tensor.int32_data.resize(count, number as i32);
            tensor.int64_data.resize(count, i64::from(number));
        }
        _ => {
            tensor.data_location = LOCATION_EXTERNAL;
            let location = LOCATIONS[cursor.below(LOCATIONS.len())];
            let offset = SIZES[cursor.below(SIZES.len())].to_string();
            let length = SIZES[cursor.below(SIZES.len())].to_string();
            tensor.external_data = elsewhere(location, &offset, &length);
            tensor.external_data.truncate(cursor.below(4));
        }
    }
}

fn of_ends(graph: &mut GraphProto, cursor: &mut Cursor<'_>) {
    let named = name(graph, cursor);
    let ends = if cursor.byte() & 1 == 0 { &mut graph.input } else { &mut graph.output };
    match ends.first_mut() {
        Some(end) => end.name = named,
        None => ends.clear(),
    }
}

fn of_model(model: &mut ModelProto, cursor: &mut Cursor<'_>) {
    match cursor.byte() % 4 {
        0 => model.opset_import.clear(),
        1 => model.metadata_props.clear(),
        2 => model.metadata_props.iter_mut().for_each(|entry| entry.value.push('0')),
        _ => model.ir_version = i64::from(cursor.number()),
    }
}

/// One edit of each kind, of our own graph and of a foreign one.
pub fn seeds() -> Vec<Seed> {
    let one = |style: u8, kinds: std::ops::Range<u8>| {
        let edits = kinds.flat_map(|kind| [kind, kind, 0, 3, 0, 5, 0, 2, 0, 1, 0, 4, 0]);
        [&[b'e', style][..], &edits.collect::<Vec<u8>>()].concat()
    };
    vec![
        ("edit_nodes", one(2, 3..5)),
        ("edit_attributes", one(2, 7..8)),
        ("edit_tensors", one(0, 10..13)),
        ("edit_external", one(0, 13..14)),
    ]
}
