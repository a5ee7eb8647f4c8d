//! A graph that can be walked both ways: who writes a tensor, who reads it, which are constants.
//!
//! - In: a decoded graph. Out: answers about its joints; nothing is computed.
//! - Never here: what a decoder looks like (`walk`).
//! - Invariant: every tensor is written once and before it is read, so every walk ends.

use crate::base::error::BaseError;
use crate::base::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto, data_type, shape};
use std::collections::{BTreeMap, BTreeSet};

/// Operators that hand on the same numbers in another type or under another name.
pub(super) const SAME: [&str; 2] = ["Cast", "Identity"];

/// A decoder's graph with its joints indexed by tensor name.
pub(super) struct Graph<'a> {
    /// The nodes in the order of the file.
    pub(super) nodes: &'a [NodeProto],
    constants: BTreeMap<&'a str, &'a TensorProto>,
    producers: BTreeMap<&'a str, &'a NodeProto>,
    readers: BTreeMap<&'a str, Vec<&'a NodeProto>>,
    outputs: BTreeSet<&'a str>,
}

/// A node, and the name under which the tensor that was followed enters it.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) node: &'a NodeProto,
    pub(super) tensor: &'a str,
}

impl Arrival<'_> {
    /// Whether the tensor enters as input `slot`.
    pub(super) fn is_input(&self, slot: usize) -> bool {
        self.node.input.get(slot).is_some_and(|name| name == self.tensor)
    }
}

impl<'a> Graph<'a> {
    pub(super) fn new(graph: &'a GraphProto) -> Result<Self, BaseError> {
        let mut constants: BTreeMap<&str, &TensorProto> =
            graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut known: BTreeSet<&str> = constants.keys().copied().collect();
        known.extend(graph.input.iter().map(|input| input.name.as_str()));
        let mut producers = BTreeMap::new();
        let mut readers: BTreeMap<&str, Vec<&NodeProto>> = BTreeMap::new();
        for node in &graph.node {
            for input in node.input.iter().filter(|name| !name.is_empty()) {
                if !known.contains(input.as_str()) {
                    return Err(disordered(node, input, "reads", "which nothing before it writes"));
                }
                let of_input = readers.entry(input).or_default();
                if of_input.last().is_none_or(|last| !std::ptr::eq(*last, node)) {
                    of_input.push(node);
                }
            }
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                if !known.insert(output) {
                    return Err(disordered(node, output, "writes", "which exists already"));
                }
                producers.insert(output.as_str(), node);
            }
            if node.op_type == "Constant"
                && let (Some(tensor), Some(output)) = (
                    attribute(node, "value").and_then(|value| value.t.as_ref()),
                    node.output.first(),
                )
            {
                constants.insert(output, tensor);
            }
        }
        let outputs = graph.output.iter().map(|output| output.name.as_str()).collect();
        Ok(Self { nodes: &graph.node, constants, producers, readers, outputs })
    }

    /// The constant of that name.
    pub(super) fn constant(&self, name: &str) -> Option<&'a TensorProto> {
        self.constants.get(name).copied()
    }

    /// The node that writes a tensor.
    pub(super) fn producer(&self, name: &str) -> Option<&'a NodeProto> {
        self.producers.get(name).copied()
    }

    pub(super) fn is_output(&self, name: &str) -> bool {
        self.outputs.contains(name)
    }

    /// Back through `pass` to where a tensor comes from.
    pub(super) fn origin(&self, name: &'a str, pass: &[&str]) -> &'a str {
        let mut name = name;
        while let Some(node) = self.producers.get(name)
            && pass.contains(&node.op_type.as_str())
            && let Some(input) = node.input.first()
        {
            name = input;
        }
        name
    }

    /// Whether two names hold the same numbers, up to their type.
    pub(super) fn same(&self, left: &'a str, right: &'a str) -> bool {
        self.origin(left, &SAME) == self.origin(right, &SAME)
    }

    /// The nodes that read a tensor, looked for through `pass`; reading its shape does not count.
    pub(super) fn readers(&self, name: &'a str, pass: &[&str]) -> Vec<Arrival<'a>> {
        let (mut found, mut open) = (Vec::new(), vec![name]);
        let mut seen = BTreeSet::from([name]);
        while let Some(tensor) = open.pop() {
            for &node in self.readers.get(tensor).map(Vec::as_slice).unwrap_or_default() {
                let here = Arrival { node, tensor };
                let output = node.output.first().map(String::as_str).unwrap_or_default();
                if pass.contains(&node.op_type.as_str()) && here.is_input(0) {
                    if seen.insert(output) {
                        open.push(output);
                    }
                } else if node.op_type != "Shape" && node.op_type != "Size" {
                    found.push(here);
                }
            }
        }
        found
    }

    /// Every name that a tensor has behind `pass`, itself included.
    pub(super) fn aliases(&self, name: &'a str, pass: &[&str]) -> BTreeSet<&'a str> {
        let (mut seen, mut open) = (BTreeSet::from([name]), vec![name]);
        while let Some(tensor) = open.pop() {
            for node in self.readers.get(tensor).map(Vec::as_slice).unwrap_or_default() {
                let first = node.input.first().is_some_and(|input| input == tensor);
                if pass.contains(&node.op_type.as_str()) && first {
                    open.extend(node.output.iter().map(String::as_str).filter(|o| seen.insert(o)));
                }
            }
        }
        seen
    }

    /// The only reader of that operator, through [`SAME`].
    pub(super) fn next(&self, name: &'a str, op: &str) -> Option<&'a NodeProto> {
        let mut found = self.readers(name, &SAME).into_iter().filter(|at| at.node.op_type == op);
        let first = found.next()?;
        found.all(|other| std::ptr::eq(other.node, first.node)).then_some(first.node)
    }

    /// The other operand of a node with two inputs, one of which is `name`.
    pub(super) fn other(&self, node: &'a NodeProto, name: &'a str) -> Option<&'a str> {
        let [left, right] = node.input.as_slice() else { return None };
        if self.same(left, name) {
            Some(right)
        } else if self.same(right, name) {
            Some(left)
        } else {
            None
        }
    }

    /// The constant of rank 1 behind a name.
    pub(super) fn vector(&self, name: &'a str) -> Option<&'a str> {
        let origin = self.origin(name, &SAME);
        (self.constant(origin)?.dims.len() == 1).then_some(origin)
    }

    /// The constant of rank 2 behind a name, and whether it is read transposed.
    pub(super) fn matrix(&self, name: &'a str) -> Option<(&'a str, bool)> {
        let (mut name, mut transposed) = (self.origin(name, &SAME), false);
        while let Some(node) = self.producers.get(name)
            && node.op_type == "Transpose"
        {
            let swap = attribute(node, "perm").is_none_or(|perm| perm.ints == [1, 0]);
            transposed ^= swap;
            if !swap && attribute(node, "perm").is_none_or(|perm| perm.ints != [0, 1]) {
                return None;
            }
            name = self.origin(node.input.first()?, &SAME);
        }
        (self.constant(name)?.dims.len() == 2).then_some((name, transposed))
    }

    /// The number behind the name of a constant with one element that lies in the file itself.
    pub(super) fn scalar(&self, name: &'a str) -> Option<f64> {
        let origin = self.origin(name, &SAME);
        if let Some(tensor) = self.constant(origin) {
            return scalar(tensor);
        }
        let node = self.producers.get(origin).filter(|node| node.op_type == "Constant")?;
        let float = attribute(node, "value_float").and_then(|value| value.f).map(f64::from);
        float.or_else(|| attribute(node, "value_int").and_then(|value| value.i).map(|i| i as f64))
    }
}

/// The attribute of that name.
pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// The integer attribute of that name.
pub(super) fn integer(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).and_then(|attribute| attribute.i)
}

/// The float attribute of that name.
pub(super) fn float(node: &NodeProto, name: &str) -> Option<f32> {
    attribute(node, name).and_then(|attribute| attribute.f)
}

/// The name of an input, unless it is absent.
pub(super) fn input(node: &NodeProto, slot: usize) -> Option<&str> {
    node.input.get(slot).map(String::as_str).filter(|name| !name.is_empty())
}

/// The name of an output, empty when it is absent.
pub(super) fn output(node: &NodeProto, slot: usize) -> &str {
    node.output.get(slot).map(String::as_str).unwrap_or_default()
}

fn scalar(tensor: &TensorProto) -> Option<f64> {
    if shape(tensor).ok()?.into_iter().any(|size| size != 1) {
        return None;
    }
    let raw = tensor.raw_data.as_slice();
    let half = |bits: u16| f64::from(half::f16::from_bits(bits).to_f32());
    match tensor.data_type {
        data_type::FLOAT => raw
            .try_into()
            .map(f32::from_le_bytes)
            .ok()
            .or_else(|| tensor.float_data.first().copied())
            .map(f64::from),
        data_type::DOUBLE => raw
            .try_into()
            .map(f64::from_le_bytes)
            .ok()
            .or_else(|| tensor.double_data.first().copied()),
        data_type::FLOAT16 => raw
            .try_into()
            .map(u16::from_le_bytes)
            .ok()
            .or_else(|| tensor.int32_data.first().map(|&bits| bits as u16))
            .map(half),
        data_type::INT64 => raw
            .try_into()
            .map(i64::from_le_bytes)
            .ok()
            .or_else(|| tensor.int64_data.first().copied())
            .map(|value| value as f64),
        _ => None,
    }
}

fn disordered(node: &NodeProto, tensor: &str, verb: &str, but: &str) -> BaseError {
    BaseError::Structure {
        what: format!("node {:?} ({}) {verb} tensor {tensor:?}, {but}", node.name, node.op_type),
    }
}
