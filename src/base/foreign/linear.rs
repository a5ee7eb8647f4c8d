//! Linear layers of a graph: one node with a constant matrix, and the bias behind it.
//!
//! - In: a node and the tensor that enters it. Out: where its weight lies and how it is laid out.
//! - Never here: which projection of the decoder it is (`walk`).
//! - Invariant: what is returned computes `x W + b` and nothing else.

use super::graph::{Arrival, Graph, SAME, float, input, integer, output};
use super::{Layout, Location, Quantised};
use crate::base::error::{BaseError, EXPORT_HINT};
use crate::base::onnx::NodeProto;

/// A linear layer as found in the graph.
#[derive(Clone)]
pub(super) struct Linear<'a> {
    /// The node that multiplies.
    pub(super) node: &'a NodeProto,
    /// Its matrix.
    pub(super) weight: Location,
    /// Its bias, a vector.
    pub(super) bias: Option<&'a str>,
    /// The tensor that leaves it, bias added.
    pub(super) output: &'a str,
}

/// The linear layer that a tensor enters, if the node is one.
///
/// # Errors
/// [`BaseError::Structure`] for a linear layer that does more than `x W + b`.
pub(super) fn linear<'a>(
    graph: &Graph<'a>,
    at: Arrival<'a>,
) -> Result<Option<Linear<'a>>, BaseError> {
    if !at.is_input(0) {
        return Ok(None);
    }
    let node = at.node;
    let Some(weight) = weight(graph, node)? else { return Ok(None) };
    let own = match node.op_type.as_str() {
        "Gemm" => input(node, 2),
        "MatMulNBits" => input(node, 5),
        _ => None,
    };
    if let Some(name) = own {
        let bias = graph.vector(name).ok_or_else(|| odd(node, "its bias is no constant vector"))?;
        return Ok(Some(Linear { node, weight, bias: Some(bias), output: output(node, 0) }));
    }
    let (bias, output) = added_bias(graph, output(node, 0));
    Ok(Some(Linear { node, weight, bias, output }))
}

/// Where the matrix of a node lies, if it multiplies by a constant one.
pub(super) fn weight(graph: &Graph<'_>, node: &NodeProto) -> Result<Option<Location>, BaseError> {
    let matrix = |flip: bool| {
        let (tensor, transposed) = input(node, 1).and_then(|name| graph.matrix(name))?;
        let layout = if transposed ^ flip { Layout::OutIn } else { Layout::InOut };
        Some(Location { tensor: tensor.into(), layout, outputs: None, quantised: None })
    };
    match node.op_type.as_str() {
        "MatMul" => Ok(matrix(false)),
        "Gemm" => {
            let is_one = |name| float(node, name).is_none_or(|factor| factor == 1.0);
            let flip = integer(node, "transB").unwrap_or(0) != 0;
            let plain = is_one("alpha") && is_one("beta");
            if matrix(flip).is_some() && (!plain || integer(node, "transA").unwrap_or(0) != 0) {
                return Err(odd(node, "it has alpha, beta or transA"));
            }
            Ok(matrix(flip))
        }
        "MatMulNBits" => quantised(node).map(Some),
        _ => Ok(None),
    }
}

fn quantised(node: &NodeProto) -> Result<Location, BaseError> {
    let size = |name: &str| {
        let value = integer(node, name).and_then(|value| usize::try_from(value).ok());
        value.filter(|&value| value > 0).ok_or_else(|| odd(node, &format!("it lacks {name}")))
    };
    let bits = integer(node, "bits").unwrap_or(4);
    if bits != 4 || input(node, 4).is_some() {
        let hint = format!("only 4 bits without g_idx are read, got {bits} bits; {EXPORT_HINT}");
        let op = "com.microsoft:MatMulNBits".into();
        return Err(BaseError::UnknownOp { op, node: node.name.clone(), count: 1, hint });
    }
    let name = |slot, what: &str| {
        input(node, slot).map(str::to_owned).ok_or_else(|| odd(node, &format!("it lacks {what}")))
    };
    let quantised = Quantised {
        scales: name(2, "scales")?,
        zero_points: input(node, 3).map(str::to_owned),
        block: size("block_size")?,
        fan_in: size("K")?,
        fan_out: size("N")?,
    };
    let (layout, tensor) = (Layout::OutIn, name(1, "a weight")?);
    Ok(Location { tensor, layout, outputs: None, quantised: Some(quantised) })
}

/// The vector that the only reader adds, and the tensor behind that sum.
fn added_bias<'a>(graph: &Graph<'a>, product: &'a str) -> (Option<&'a str>, &'a str) {
    let readers = graph.readers(product, &SAME);
    if let [Arrival { node, tensor }] = readers.as_slice()
        && node.op_type == "Add"
        && let Some(bias) = graph.other(node, tensor).and_then(|other| graph.vector(other))
    {
        return (Some(bias), output(node, 0));
    }
    (None, product)
}

fn odd(node: &NodeProto, what: &str) -> BaseError {
    BaseError::Structure { what: format!("node {:?} ({}): {what}", node.name, node.op_type) }
}
