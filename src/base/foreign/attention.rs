//! Attention in the graph: which projection is q, k or v, and whether what follows is plain.
//!
//! - In: the normed stream of a layer. Out: the output of `o_proj`; four weights noted.
//! - q, k and v are known by where they meet: operands 0 and 1 of the score product, operand 1 of
//!   the product after the softmax, or the inputs of a fused operator.
//! - Never here: the values of RoPE's tables and the scale, which config.json states.
//! - Invariant: q and k are rotated by halves, v is not; a norm or cap in between is refused.

use super::graph::{Arrival, Graph, float, input, integer, output};
use super::linear::Linear;
use super::walk::{Walker, odd};
use super::{Dims, Location};
use crate::base::error::BaseError;
use crate::base::onnx::NodeProto;
use std::collections::BTreeSet;
use std::ops::Range;

/// What may lie between a projection and where it meets the others.
const TO_MEETING: [&str; 16] = [
    "Add",
    "Cast",
    "Concat",
    "Div",
    "Expand",
    "Identity",
    "Mul",
    "Neg",
    "Reshape",
    "RotaryEmbedding",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// What may lie between the scores and the product with the values.
const TO_VALUES: [&str; 9] =
    ["Add", "Cast", "Div", "Identity", "IsNaN", "Mul", "Reshape", "Softmax", "Where"];

/// What may lie between the attended values and `o_proj`.
const TO_LINEAR: [&str; 6] = ["Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];

/// Where a projection meets the others.
#[derive(Clone, Copy)]
struct Meeting<'a> {
    node: &'a NodeProto,
    slot: usize,
    rotated: bool,
}

/// Notes the weights of one layer's attention and gives the output of `o_proj`.
pub(super) fn attention<'a>(
    walker: &mut Walker<'_, 'a>,
    layer: &str,
    normed: &'a str,
) -> Result<&'a str, BaseError> {
    let place = format!("{layer}.self_attn");
    let linears = walker.linears(&place, normed, &["Cast", "Identity", "Reshape"])?;
    let context = match linears.as_slice() {
        [packed] => fused_packed(walker, &place, packed)?,
        [_, _, _] => separate(walker, &place, &linears)?,
        _ => {
            let got = linears.len();
            return Err(odd(format!(
                "{place}: expected q_proj, k_proj and v_proj, found {got} linear layers"
            )));
        }
    };
    let projection = walker.linear(&place, context, &TO_LINEAR)?;
    walker.place_linear(format!("{place}.o_proj.weight"), &projection)
}

/// Three projections, told apart by where they meet. Gives the attended values.
fn separate<'a>(
    walker: &mut Walker<'_, 'a>,
    place: &str,
    linears: &[Linear<'a>],
) -> Result<&'a str, BaseError> {
    let graph = walker.graph;
    let mut met = Vec::with_capacity(linears.len());
    for linear in linears {
        met.push((meeting(graph, place, linear.output)?, linear));
    }
    let of = |slot, with: Option<&NodeProto>| {
        let mut found = met.iter().filter(|(meeting, _)| {
            meeting.slot == slot && with.is_none_or(|node| std::ptr::eq(node, meeting.node))
        });
        let first = found.next().filter(|_| found.next().is_none());
        first.ok_or_else(|| {
            odd(format!("{place}: three projections, but they do not meet as q, k, v"))
        })
    };
    let (q, q_linear) = of(0, None)?;
    let (k, k_linear) = of(1, Some(q.node))?;
    let (v, v_linear) = match is_fused(q.node) {
        true => of(2, Some(q.node))?,
        false => {
            let values = values_product(graph, place, output(q.node, 0))?;
            of(1, Some(values))?
        }
    };
    let fused_rotation = is_fused(q.node) && check_fused(q.node, place, walker.dims)?;
    let rotated = fused_rotation || (q.rotated && k.rotated);
    if !rotated || v.rotated {
        return Err(odd(format!("{place}: expected q and k, and not v, rotated by halves (RoPE)")));
    }
    for (name, linear) in [("q_proj", q_linear), ("k_proj", k_linear), ("v_proj", v_linear)] {
        walker.place(format!("{place}.{name}.weight"), linear.weight.clone());
        if let Some(bias) = linear.bias {
            let bias = Location::plain(bias, super::Layout::AsRead);
            walker.place(format!("{place}.{name}.bias"), bias);
        }
    }
    Ok(output(v.node, 0))
}

/// One projection for q, k and v together, as GroupQueryAttention takes it.
fn fused_packed<'a>(
    walker: &mut Walker<'_, 'a>,
    place: &str,
    packed: &Linear<'a>,
) -> Result<&'a str, BaseError> {
    let meeting = meeting(walker.graph, place, packed.output)?;
    let node = meeting.node;
    let alone = input(node, 1).is_none() && input(node, 2).is_none() && meeting.slot == 0;
    if node.op_type != "GroupQueryAttention" || !alone {
        let op = &node.op_type;
        return Err(odd(format!(
            "{place}: one projection for q, k and v goes to {op}, expected GroupQueryAttention"
        )));
    }
    if !check_fused(node, place, walker.dims)? {
        return Err(odd(format!("{place}: expected do_rotary = 1 in {:?}", node.name)));
    }
    let (q, kv) = (walker.dims.queries(), walker.dims.keys());
    let (k_end, v_end) = (q.saturating_add(kv), q.saturating_add(kv).saturating_add(kv));
    let parts = [("q_proj", 0..q), ("k_proj", q..k_end), ("v_proj", k_end..v_end)];
    for (name, outputs) in parts {
        let part =
            |place: Location, outputs: Range<usize>| Location { outputs: Some(outputs), ..place };
        if let Some(bias) = packed.bias {
            let bias = part(Location::plain(bias, super::Layout::AsRead), outputs.clone());
            walker.place(format!("{place}.{name}.bias"), bias);
        }
        walker.place(format!("{place}.{name}.weight"), part(packed.weight.clone(), outputs));
    }
    Ok(output(node, 0))
}

/// Follows a projection to where it meets another: a product of two activations or a fused operator.
fn meeting<'a>(
    graph: &Graph<'a>,
    place: &str,
    projection: &'a str,
) -> Result<Meeting<'a>, BaseError> {
    let mut met: Option<Meeting<'a>> = None;
    let mut rotated = false;
    let (mut seen, mut open) = (BTreeSet::from([projection]), vec![projection]);
    while let Some(tensor) = open.pop() {
        for at in graph.readers(tensor, &[]) {
            let node = at.node;
            if node.op_type == "MatMul" || is_fused(node) {
                let slot = node.input.iter().position(|name| name == tensor).unwrap_or(0);
                let again =
                    met.is_some_and(|met| !std::ptr::eq(met.node, node) || met.slot != slot);
                if again {
                    return Err(odd(format!("{place}: a projection takes part in two products")));
                }
                met = Some(Meeting { node, slot, rotated: false });
                continue;
            }
            check_step(place, &TO_MEETING, node)?;
            rotated |= rotates(graph, at);
            open.extend(node.output.iter().map(String::as_str).filter(|name| seen.insert(name)));
        }
    }
    let met = met.ok_or_else(|| odd(format!("{place}: a projection meets no other")))?;
    Ok(Meeting { rotated, ..met })
}

/// Whether a step is RoPE's rotation of the two halves: the negated half comes first.
fn rotates<'a>(graph: &Graph<'a>, at: Arrival<'a>) -> bool {
    match at.node.op_type.as_str() {
        "RotaryEmbedding" => integer(at.node, "interleaved").unwrap_or(0) == 0,
        "Neg" => graph.next(output(at.node, 0), "Concat").is_some_and(|join| {
            input(join, 0).is_some_and(|first| graph.same(first, output(at.node, 0)))
        }),
        _ => false,
    }
}

/// Follows the scores through the softmax to the product with the values.
fn values_product<'a>(
    graph: &Graph<'a>,
    place: &str,
    scores: &'a str,
) -> Result<&'a NodeProto, BaseError> {
    let (mut product, mut softmax) = (None, false);
    let (mut seen, mut open) = (BTreeSet::from([scores]), vec![scores]);
    while let Some(tensor) = open.pop() {
        for at in graph.readers(tensor, &[]) {
            if at.node.op_type == "MatMul" && at.is_input(0) {
                product = Some(at.node);
                continue;
            }
            check_step(place, &TO_VALUES, at.node)?;
            softmax |= at.node.op_type == "Softmax";
            open.extend(at.node.output.iter().map(String::as_str).filter(|name| seen.insert(name)));
        }
    }
    product.filter(|_| softmax).ok_or_else(|| {
        odd(format!("{place}: the scores do not go through a softmax to the values"))
    })
}

fn check_step(place: &str, allowed: &[&str], node: &NodeProto) -> Result<(), BaseError> {
    if allowed.contains(&node.op_type.as_str()) {
        return Ok(());
    }
    let (op, name) = (&node.op_type, &node.name);
    Err(odd(format!("{place}: {op} {name:?} has no place in plain attention")))
}

fn is_fused(node: &NodeProto) -> bool {
    ["Attention", "GroupQueryAttention", "MultiHeadAttention"].contains(&node.op_type.as_str())
}

/// Refuses a fused operator with more than plain attention in it; says whether it rotates q and k.
fn check_fused(node: &NodeProto, place: &str, dims: &Dims) -> Result<bool, BaseError> {
    let op = &node.op_type;
    let refused = |what: String| Err(odd(format!("{place}: {op} {:?} has {what}", node.name)));
    let integers = [
        ("num_heads", dims.heads),
        ("q_num_heads", dims.heads),
        ("kv_num_heads", dims.kv_heads),
        ("rotary_interleaved", 0),
        ("smooth_softmax", 0),
    ];
    for (name, expected) in integers {
        if let Some(got) = integer(node, name).filter(|&got| usize::try_from(got) != Ok(expected)) {
            return refused(format!("{name} {got}, expected {expected}"));
        }
    }
    if let Some(window) = integer(node, "local_window_size").filter(|&window| window != -1) {
        return refused(format!("local_window_size {window}, expected -1 (none)"));
    }
    if let Some(cap) = float(node, "softcap").filter(|&cap| cap != 0.0) {
        return refused(format!("softcap {cap}, expected 0"));
    }
    let plain = (dims.head_dim as f32).sqrt().recip();
    let off = |&scale: &f32| scale != 0.0 && (scale - plain).abs() > 1e-3 * plain;
    if let Some(scale) = float(node, "scale").filter(off) {
        return refused(format!("scale {scale}, expected {plain} = 1 / sqrt(head_dim)"));
    }
    // A bias on q, k and v; behind the positions, a bias on the scores and head sinks.
    let extra = match op.as_str() {
        "GroupQueryAttention" => 10..usize::MAX,
        "MultiHeadAttention" => 3..4,
        _ => 0..0,
    };
    if let Some(slot) = extra.take(node.input.len()).find(|&slot| input(node, slot).is_some()) {
        return refused(format!("input {slot}, which plain attention lacks"));
    }
    Ok(op == "GroupQueryAttention" && integer(node, "do_rotary").unwrap_or(0) == 1)
}
