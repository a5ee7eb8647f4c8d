//! Which operators a plain Llama-family decoder may be made of, and what the others mean.
//!
//! - In: a graph. Out: nothing, or the first operator that has no place in such a decoder.
//! - Never here: how the operators must be joined (`walk`).
//! - Invariant: an operator is let through only when the walk or the shape arithmetic of some
//!   exporter knows it; everything else is named in an error.

use crate::base::error::{BaseError, EXPORT_HINT};
use crate::base::onnx::{GraphProto, NodeProto};

/// ONNX's own operators, as the exporters use them.
const STANDARD: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "Attention",
    "Cast",
    "CastLike",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Cos",
    "CumSum",
    "Div",
    "Equal",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "MatMul",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "Not",
    "Or",
    "Pow",
    "RMSNormalization",
    "Range",
    "Reciprocal",
    "ReduceAll",
    "ReduceAny",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "Reshape",
    "RotaryEmbedding",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Sigmoid",
    "Sign",
    "SimplifiedLayerNormalization",
    "Sin",
    "Size",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Swish",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
    "Xor",
];

/// ONNX Runtime's operators that we know how to read weights around.
const MICROSOFT: &[&str] = &[
    "GroupQueryAttention",
    "MatMulNBits",
    "MultiHeadAttention",
    "QuickGelu",
    "RotaryEmbedding",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// Refuses a graph with an operator that is no part of a plain Llama-family decoder.
///
/// # Errors
/// [`BaseError::UnknownOp`] for the first one, in the order of the file.
pub(super) fn check(graph: &GraphProto) -> Result<(), BaseError> {
    let Some(first) = graph.node.iter().find(|node| !known(node)) else { return Ok(()) };
    let same = |node: &&NodeProto| node.op_type == first.op_type && node.domain == first.domain;
    Err(BaseError::UnknownOp {
        op: full_name(first),
        node: first.name.clone(),
        count: graph.node.iter().filter(same).count(),
        hint: hint(&first.op_type),
    })
}

fn known(node: &NodeProto) -> bool {
    match node.domain.as_str() {
        "" | "ai.onnx" => STANDARD.contains(&node.op_type.as_str()),
        "com.microsoft" => MICROSOFT.contains(&node.op_type.as_str()),
        _ => false,
    }
}

fn full_name(node: &NodeProto) -> String {
    match node.domain.as_str() {
        "" | "ai.onnx" => node.op_type.clone(),
        domain => format!("{domain}:{}", node.op_type),
    }
}

fn hint(op: &str) -> String {
    let another_family = ["LayerNormalization", "Gelu", "Erf", "Tanh", "Relu", "Conv", "LSTM"];
    let experts = ["MoE", "TopK"];
    let encoded = ["Quant", "Dequantize", "QLinear", "MatMulInteger", "MatMulBnb4", "QMoE"];
    let is_any = |parts: &[&str]| parts.iter().any(|part| op.contains(part));
    if is_any(&encoded) {
        format!("weights in this encoding are not read; {EXPORT_HINT}")
    } else if is_any(&experts) {
        "only dense decoders are read, no mixture of experts; use another model".into()
    } else if is_any(&another_family) {
        "a Llama-family decoder has RMSNorm and SiLU instead; use a model of that family".into()
    } else {
        format!("no plain Llama-family decoder that we read has it; {EXPORT_HINT}")
    }
}
