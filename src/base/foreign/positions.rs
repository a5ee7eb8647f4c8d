//! RoPE in the graph: whether it turns queries and keys as config.json says.
//!
//! - In: an opened file of another exporter and the configuration. Out: nothing, or what differs, with both
//!   figures.
//! - Exporters write the angles in two ways: frequencies that are multiplied by the position before a Cos and
//!   a Sin, or tables of cosines and sines. Both are constants, and their width is that of a head: with the
//!   widths of the projections it fixes the numbers of heads.
//! - Never here: which tensor is rotated (`attention`).
//! - Invariant: a graph whose angles cannot be found is refused, not believed.

use super::graph::{Graph, SAME, input, integer, output};
use crate::base::Config;
use crate::base::error::BaseError;
use crate::base::onnx::{NodeProto, OnnxFile, TensorProto, data_type, shape};
use std::collections::BTreeSet;

/// What the numbers of a constant pass unchanged, or as themselves twice, on their way to the rotation.
const ALONG: [&str; 13] = [
    "Cast",
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MatMul",
    "Mul",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];
/// What f16, through which frequencies may have gone, has beside the digits that it keeps.
const SMALLEST: f32 = 6e-8;
/// Rows of a table that are compared.
const ROWS_MAX: usize = 1024;

/// Holds the angles of the graph against those of the configuration.
///
/// # Errors
/// [`BaseError::Structure`] names what the graph has and what config.json says.
pub(in crate::base) fn check(file: &OnnxFile, config: &Config) -> Result<(), BaseError> {
    let graph = Graph::new(file.graph())?;
    let (mut frequencies, mut tables) = (BTreeSet::new(), BTreeSet::new());
    for node in graph.nodes {
        match node.op_type.as_str() {
            "Cos" | "Sin" => {
                unscaled(&graph, node)?;
                frequencies.extend(constants(&graph, input(node, 0)));
            }
            "RotaryEmbedding" => {
                // ONNX's own takes the positions last, ONNX Runtime's takes them first.
                let first = if node.domain.is_empty() { 1 } else { 2 };
                let of = |slot| constants(&graph, input(node, slot)).first().copied();
                tables.extend(of(first).zip(of(first + 1)));
            }
            "GroupQueryAttention" if integer(node, "do_rotary") == Some(1) => {
                let of = |slot| constants(&graph, input(node, slot)).first().copied();
                tables.extend(of(7).zip(of(8)));
            }
            "Neg" => tables.extend(plain_tables(&graph, node)),
            _ => {}
        }
    }
    if frequencies.is_empty() && tables.is_empty() {
        return Err(odd("its RoPE frequencies or tables cannot be found"));
    }
    let constant = |name| {
        let tensor = graph.constant(name);
        tensor.ok_or_else(|| odd(&format!("its RoPE constant {name:?} is gone")))
    };
    for name in frequencies {
        let tensor = constant(name)?;
        compare(&file.floats(tensor)?, config, if is_narrow(tensor) { 1e-2 } else { 1e-3 })?;
    }
    for (cosine, sine) in tables {
        compare_tables(file, [constant(cosine)?, constant(sine)?], config)?;
    }
    Ok(())
}

/// The floating constants of more than one number that a tensor is made of.
fn constants<'a>(graph: &Graph<'a>, name: Option<&'a str>) -> Vec<&'a str> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let mut open: Vec<&str> = name.into_iter().collect();
    while let Some(name) = open.pop() {
        if !seen.insert(name) {
            continue;
        }
        if let Some(tensor) = graph.constant(name) {
            let floats =
                [data_type::FLOAT, data_type::FLOAT16, data_type::BFLOAT16, data_type::DOUBLE];
            let many = shape(tensor).is_ok_and(|shape| shape.iter().any(|&size| size > 1));
            if many && floats.contains(&tensor.data_type) {
                found.push(name);
            }
        } else if let Some(node) = graph.producer(name) {
            // What a tensor of numbers is told besides, positions, axes and shapes, is no table.
            let data = match node.op_type.as_str() {
                "Concat" | "MatMul" | "Mul" => node.input.len(),
                op if ALONG.contains(&op) => 1,
                _ => 0,
            };
            open.extend(node.input.iter().take(data).map(String::as_str));
        }
    }
    found
}

/// Refuses cosines and sines that are multiplied by another number than one, as yarn's are.
fn unscaled<'a>(graph: &Graph<'a>, node: &'a NodeProto) -> Result<(), BaseError> {
    let pass = [&SAME[..], &["Unsqueeze", "Reshape"]].concat();
    for at in graph.readers(output(node, 0), &pass) {
        let factor = graph.other(at.node, at.tensor).and_then(|other| graph.scalar(other));
        if let Some(factor) = factor.filter(|&factor| at.node.op_type == "Mul" && factor != 1.0) {
            let op = &node.op_type;
            return Err(odd(&format!(
                "{op} {:?} is multiplied by {factor}, expected 1",
                node.name
            )));
        }
    }
    Ok(())
}

/// The tables behind a rotation in operators of its own: `x cos + turned sin`, from the negated half on.
fn plain_tables<'a>(graph: &Graph<'a>, negated: &'a NodeProto) -> Option<(&'a str, &'a str)> {
    let turned = output(graph.next(output(negated, 0), "Concat")?, 0);
    let across = graph.next(turned, "Mul")?;
    let sine = constants(graph, graph.other(across, turned)).first().copied()?;
    let across = output(across, 0);
    let along = graph.other(graph.next(across, "Add")?, across)?;
    let along = graph.producer(graph.origin(along, &SAME)).filter(|node| node.op_type == "Mul")?;
    let half = graph.producer(graph.origin(input(negated, 0)?, &SAME))?;
    let cosine = constants(graph, graph.other(along, input(half, 0)?)).first().copied()?;
    Some((cosine, sine))
}

fn is_narrow(tensor: &TensorProto) -> bool {
    [data_type::FLOAT16, data_type::BFLOAT16].contains(&tensor.data_type)
}

/// Compares what a position turns each pair of channels by.
fn compare(got: &[f32], config: &Config, within: f32) -> Result<(), BaseError> {
    let expected = config.rope.frequencies(config.head_dim);
    let half = expected.len();
    if got.len() != half {
        let (width, heads) = (2 * got.len(), config.heads);
        let head_dim = config.head_dim;
        return Err(odd(&format!(
            "its RoPE turns heads of {width} channels, config.json has {heads} heads of {head_dim}"
        )));
    }
    let differs =
        |at: &usize| (got[*at] - expected[*at]).abs() > within * expected[*at].abs() + SMALLEST;
    let Some(at) = (0..half).find(differs) else { return Ok(()) };
    // Without a stretch any pair but the first says what the base is, the last the most exactly; f16 has few
    // digits below 6e-5.
    let last = (1..half).rev().find(|&at| got[at] > 6e-5).unwrap_or(1).min(half - 1);
    let theta = f64::from(got[last]).powf(-(half as f64) / last.max(1) as f64);
    let plain = |at: usize| theta.powf(-(at as f64) / half as f64);
    let off = |at: usize| (f64::from(got[at]) - plain(at)).abs();
    let fits = |at: usize| off(at) < 10.0 * f64::from(within) * plain(at) + f64::from(SMALLEST);
    let Config { rope, .. } = config;
    Err(odd(&match (0..half).all(fits) {
        true => format!(
            "its RoPE has a rope_theta of {}, config.json says {} (scaling: {:?})",
            rounded(theta),
            rope.theta,
            rope.scaling
        ),
        false => format!(
            "its RoPE turns pair {at} of a head by {:e} a position, by config.json (rope_theta {}, \
             scaling: {:?}) it is {:e}",
            got[at], rope.theta, rope.scaling, expected[at]
        ),
    }))
}

/// A base as people write it, in three digits: what comes of roundings is cut.
fn rounded(theta: f64) -> f64 {
    let unit = 10f64.powf(theta.log10().round() - 2.0);
    (theta / unit).round() * unit
}

/// Compares tables `[positions, head_dim]` or `[positions, head_dim / 2]`.
fn compare_tables(
    file: &OnnxFile,
    [cosine, sine]: [&TensorProto; 2],
    config: &Config,
) -> Result<(), BaseError> {
    let half = config.head_dim / 2;
    let width = shape(cosine)?.last().copied().unwrap_or(0);
    if width != half && width != config.head_dim {
        let (heads, head_dim) = (config.heads, config.head_dim);
        return Err(odd(&format!(
            "its RoPE tables are {width} wide, expected {half} or {head_dim} by config.json's \
             {heads} heads of {head_dim}"
        )));
    }
    let within = if is_narrow(cosine) || is_narrow(sine) { 1e-2 } else { 2e-3 };
    let (cosines, sines) = (file.floats(cosine)?, file.floats(sine)?);
    let rows = (cosines.len() / width).min(sines.len() / width).min(ROWS_MAX);
    let (wanted_cosines, wanted_sines) = config.rope_tables(rows);
    let differs = |at: usize| {
        let wanted = at / width * half + at % width % half;
        let off = |got: f32, wanted: f32| (got - wanted).abs() > within;
        off(cosines[at], wanted_cosines[wanted]) || off(sines[at], wanted_sines[wanted])
    };
    if !(0..rows * width).any(differs) {
        return Ok(());
    }
    // The second row is one position on: its angles are the frequencies.
    let row = width..(width + half).min(rows * width);
    let got: Vec<f32> = row.map(|at| sines[at].atan2(cosines[at])).collect();
    compare(&got, config, if within > 5e-3 { 2e-2 } else { 1e-3 })?;
    Err(odd("its RoPE tables are not those of config.json's rope_theta and scaling"))
}

fn odd(what: &str) -> BaseError {
    BaseError::Structure { what: format!("the graph and config.json differ: {what}") }
}
