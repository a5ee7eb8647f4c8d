//! The walk along the residual stream: embedding, L times (norm, attention, norm, MLP), norm, logits.
//!
//! - In: a graph and the dimensions. Out: the place of every weight.
//! - Never here: what happens between the projections and the scores (`attention`).
//! - Invariant: each step names what it expected, and all readers of the stream and of each norm
//!   are accounted for, so a branch that a plain decoder lacks is found and not skipped.

use super::attention::attention;
use super::graph::{Arrival, Graph, SAME, attribute, float, input, output};
use super::linear::{Linear, linear, weight};
use super::{Dims, EMBEDDING, FINAL_NORM, Layout, Location, OUTPUT, operators};
use crate::base::error::BaseError;
use crate::base::onnx::{GraphProto, NodeProto, data_type};
use std::collections::{BTreeMap, BTreeSet};

/// What a linear layer's input may pass on its way from the norm.
const TO_LINEAR: [&str; 3] = ["Cast", "Identity", "Reshape"];

/// The same on the way to the logits, where only the last token may be kept.
const TO_LOGITS: [&str; 6] = ["Cast", "Identity", "Reshape", "Slice", "Gather", "Squeeze"];

/// Finds the place of every weight.
pub(super) fn walk(
    graph: &GraphProto,
    dims: &Dims,
) -> Result<BTreeMap<String, Location>, BaseError> {
    operators::check(graph)?;
    let graph = Graph::new(graph)?;
    let mut walker = Walker { graph: &graph, dims, places: BTreeMap::new(), used: BTreeSet::new() };
    let mut stream = walker.embedding()?;
    for layer in 0..dims.layers {
        stream = walker.layer(&format!("model.layers.{layer}"), stream)?;
    }
    walker.logits(stream)?;
    walker.nothing_left()?;
    Ok(walker.places)
}

/// The residual stream at one point.
#[derive(Clone, Copy)]
struct Stream<'a> {
    /// The tensor that holds it; empty when a fused norm does not give it out.
    tensor: &'a str,
    /// The norm that a fused operator has already applied.
    norm: Option<Norm<'a>>,
}

/// An RMSNorm: its weight and its result.
#[derive(Clone, Copy)]
struct Norm<'a> {
    weight: &'a str,
    output: &'a str,
}

/// The state of the walk.
pub(super) struct Walker<'g, 'a> {
    pub(super) graph: &'g Graph<'a>,
    pub(super) dims: &'g Dims,
    places: BTreeMap<String, Location>,
    /// First outputs of the nodes that have been explained.
    used: BTreeSet<&'a str>,
}

impl<'a> Walker<'_, 'a> {
    /// Notes the place of a weight.
    pub(super) fn place(&mut self, name: String, place: Location) {
        self.places.insert(name, place);
    }

    /// Notes the places of a linear layer's weight and bias, and gives its output.
    pub(super) fn place_linear(
        &mut self,
        name: String,
        linear: &Linear<'a>,
    ) -> Result<&'a str, BaseError> {
        if let Some(bias) = linear.bias {
            let name = name.replace(".weight", ".bias");
            self.place(name, Location::plain(bias, Layout::AsRead));
        }
        self.place(name, linear.weight.clone());
        Ok(linear.output)
    }

    fn embedding(&mut self) -> Result<Stream<'a>, BaseError> {
        let pass = ["Cast", "Identity", "Reshape"];
        let graph = self.graph;
        let of_tokens = |node: &&NodeProto| {
            let slot = |slot| node.input.get(slot).map(String::as_str);
            node.op_type == "Gather"
                && slot(1).is_some_and(|name| graph.origin(name, &pass) == "input_ids")
        };
        let mut lookups = graph.nodes.iter().filter(of_tokens);
        let (Some(node), None) = (lookups.next(), lookups.next()) else {
            return Err(odd("expected one Gather of the embedding by the input input_ids".into()));
        };
        let table = input(node, 0).and_then(|name| graph.matrix(name));
        let Some((tensor, false)) = table else {
            return Err(odd(format!("Gather {:?} does not read a constant [V, D]", node.name)));
        };
        self.place(EMBEDDING.into(), Location::plain(tensor, Layout::AsRead));
        Ok(Stream { tensor: output(node, 0), norm: None })
    }

    fn layer(&mut self, layer: &str, stream: Stream<'a>) -> Result<Stream<'a>, BaseError> {
        let normed = self.norm(stream, format!("{layer}.input_layernorm.weight"))?;
        let attended = attention(self, layer, normed)?;
        let stream = self.residual(layer, stream, attended)?;
        let normed = self.norm(stream, format!("{layer}.post_attention_layernorm.weight"))?;
        let delta = self.mlp(layer, normed)?;
        self.residual(layer, stream, delta)
    }

    /// Finds the norm of the stream, notes its weight, and gives its output.
    fn norm(&mut self, stream: Stream<'a>, name: String) -> Result<&'a str, BaseError> {
        let norm = match stream.norm {
            Some(norm) => norm,
            None => self.find_norm(stream.tensor, &name)?,
        };
        self.place(name, Location::plain(norm.weight, Layout::AsRead));
        Ok(norm.output)
    }

    fn find_norm(&mut self, x: &'a str, name: &str) -> Result<Norm<'a>, BaseError> {
        let readers = self.graph.readers(x, &SAME);
        let mut found = Vec::new();
        for at in &readers {
            found.extend(match at.node.op_type.as_str() {
                "RMSNormalization" | "SimplifiedLayerNormalization" => {
                    Some(self.fused_norm(*at, name)?)
                }
                "Pow" | "Mul" => self.plain_norm(x, at.node, name)?,
                _ => None,
            });
        }
        if let [norm] = found.as_slice() {
            return Ok(*norm);
        }
        let (count, ops) = (found.len(), names(&readers));
        Err(odd(format!(
            "{name}: expected one RMSNorm of the residual stream, found {count} (it goes to {ops})"
        )))
    }

    fn fused_norm(&mut self, at: Arrival<'a>, name: &str) -> Result<Norm<'a>, BaseError> {
        let skips = at.node.op_type == "SkipSimplifiedLayerNormalization";
        let weight = input(at.node, if skips { 2 } else { 1 });
        let Some(weight) = weight.and_then(|weight| self.graph.vector(weight)) else {
            return Err(odd(format!("{name}: {:?} has no constant weight", at.node.name)));
        };
        self.epsilon(name, float(at.node, "epsilon").unwrap_or(1e-5).into())?;
        let output = output(at.node, 0);
        self.used.insert(output);
        Ok(Norm { weight, output })
    }

    /// `x / sqrt(mean(x²) + eps) * w` in operators of its own, starting at the square.
    fn plain_norm(
        &mut self,
        x: &'a str,
        square: &'a NodeProto,
        name: &str,
    ) -> Result<Option<Norm<'a>>, BaseError> {
        let graph = self.graph;
        let operand = |slot| input(square, slot);
        let squares = match square.op_type.as_str() {
            "Pow" => operand(1).and_then(|power| graph.scalar(power)) == Some(2.0),
            _ => {
                [0, 1].into_iter().all(|slot| operand(slot).is_some_and(|side| graph.same(side, x)))
            }
        };
        let Some(mean) = graph.next(output(square, 0), "ReduceMean").filter(|_| squares) else {
            return Ok(None);
        };
        let mean = output(mean, 0);
        let steps = graph.next(mean, "Add").and_then(|sum| {
            let epsilon = graph.other(sum, mean).and_then(|other| graph.scalar(other))?;
            Some((epsilon, graph.next(output(sum, 0), "Sqrt")?))
        });
        let Some((epsilon, root)) = steps else { return Ok(None) };
        let Some(divided) = self.divided(x, output(root, 0)) else { return Ok(None) };
        let unit = output(divided, 0);
        let scaled = graph.next(unit, "Mul").and_then(|product| {
            let weight = graph.other(product, unit).and_then(|other| graph.vector(other))?;
            Some(Norm { weight, output: output(product, 0) })
        });
        self.epsilon(name, epsilon)?;
        self.used.extend([output(square, 0), unit]);
        Ok(scaled)
    }

    /// The node that gives `x / root`, also when it is written `x * (1 / root)`.
    fn divided(&self, x: &'a str, root: &'a str) -> Option<&'a NodeProto> {
        let graph = self.graph;
        let readers = graph.readers(root, &SAME);
        let [Arrival { node, .. }] = readers.as_slice() else { return None };
        let above = input(node, 0)?;
        match node.op_type.as_str() {
            "Div" if graph.same(above, x) => return Some(node),
            "Div" if graph.scalar(above) == Some(1.0) => {}
            "Reciprocal" => {}
            _ => return None,
        }
        let inverse = output(node, 0);
        let product = graph.next(inverse, "Mul")?;
        graph.other(product, inverse).is_some_and(|other| graph.same(other, x)).then_some(product)
    }

    /// Refuses another epsilon than the configuration's. 5 % apart is the same number in f16, which
    /// has few digits below 6e-5.
    fn epsilon(&self, name: &str, got: f64) -> Result<(), BaseError> {
        let (got, expected) = (got as f32, self.dims.norm_eps);
        if (got - expected).abs() <= 0.05 * expected.abs() {
            return Ok(());
        }
        Err(odd(format!("{name}: epsilon {got:e}, expected {expected:e} by config.json")))
    }

    /// The stream after `delta` is added to it; everything that reads the stream is then known.
    fn residual(
        &mut self,
        layer: &str,
        stream: Stream<'a>,
        delta: &'a str,
    ) -> Result<Stream<'a>, BaseError> {
        let graph = self.graph;
        let readers = graph.readers(delta, &SAME);
        let [at] = readers.as_slice() else {
            let ops = names(&readers);
            return Err(odd(format!("{layer}: a block's output goes to {ops}, expected one sum")));
        };
        let sides = |node: &'a NodeProto| -> Option<bool> {
            let (left, right) = (input(node, 0)?, input(node, 1)?);
            let (x, fits) = (stream.tensor, |a, b| graph.same(a, b));
            Some(fits(left, x) && fits(right, delta) || fits(right, x) && fits(left, delta))
        };
        if stream.tensor.is_empty() || sides(at.node) != Some(true) {
            let op = &at.node.op_type;
            return Err(odd(format!(
                "{layer}: {op} {:?} is no sum with the residual stream",
                at.node.name
            )));
        }
        self.used.insert(output(at.node, 0));
        let next = match at.node.op_type.as_str() {
            "Add" => Stream { tensor: output(at.node, 0), norm: None },
            "SkipSimplifiedLayerNormalization" if input(at.node, 3).is_none() => {
                let norm = self.fused_norm(*at, layer)?;
                Stream { tensor: output(at.node, 3), norm: Some(norm) }
            }
            op => return Err(odd(format!("{layer}: the residual stream enters {op}"))),
        };
        self.explained(layer, stream.tensor)?;
        Ok(next)
    }

    /// Refuses a reader of the stream that is neither its norm nor its sum.
    fn explained(&self, layer: &str, tensor: &'a str) -> Result<(), BaseError> {
        let readers = self.graph.readers(tensor, &SAME);
        let stray = readers.iter().find(|at| !self.used.contains(output(at.node, 0)));
        stray.map_or(Ok(()), |at| {
            let (op, name) = (&at.node.op_type, &at.node.name);
            Err(odd(format!("{layer}: {op} {name:?} reads the residual stream beside its norm")))
        })
    }

    /// The linear layers that a tensor enters; anything else that it enters is refused.
    pub(super) fn linears(
        &mut self,
        place: &str,
        tensor: &'a str,
        pass: &[&str],
    ) -> Result<Vec<Linear<'a>>, BaseError> {
        let mut found = Vec::new();
        for at in self.graph.readers(tensor, pass) {
            let Some(linear) = linear(self.graph, at)? else {
                let (op, name) = (&at.node.op_type, &at.node.name);
                return Err(odd(format!(
                    "{place}: {op} {name:?} where a linear layer was expected"
                )));
            };
            self.used.insert(output(linear.node, 0));
            found.push(linear);
        }
        Ok(found)
    }

    /// The only linear layer that a tensor enters.
    pub(super) fn linear(
        &mut self,
        place: &str,
        tensor: &'a str,
        pass: &[&str],
    ) -> Result<Linear<'a>, BaseError> {
        let found = self.linears(place, tensor, pass)?;
        let count = found.len();
        let only = found.into_iter().next().filter(|_| count == 1);
        only.ok_or_else(|| odd(format!("{place}: expected one linear layer, found {count}")))
    }

    fn mlp(&mut self, layer: &str, normed: &'a str) -> Result<&'a str, BaseError> {
        let linears = self.linears(&format!("{layer}.mlp"), normed, &TO_LINEAR)?;
        let [one, two] = linears.as_slice() else {
            let got = linears.len();
            return Err(odd(format!(
                "{layer}.mlp: expected gate_proj and up_proj, found {got} linear layers"
            )));
        };
        let (gate, up, active) = match (self.silu(one.output), self.silu(two.output)) {
            (Some(active), None) => (one, two, active),
            (None, Some(active)) => (two, one, active),
            _ => return Err(odd(format!("{layer}.mlp: expected SiLU after one of two layers"))),
        };
        self.place_linear(format!("{layer}.mlp.gate_proj.weight"), gate)?;
        self.place_linear(format!("{layer}.mlp.up_proj.weight"), up)?;
        let product = self.graph.next(active, "Mul").filter(|product| {
            let other = self.graph.other(product, active);
            other.is_some_and(|other| self.graph.same(other, up.output))
        });
        let Some(product) = product else {
            return Err(odd(format!(
                "{layer}.mlp: SiLU of gate_proj is not multiplied by up_proj"
            )));
        };
        let down = self.linear(&format!("{layer}.mlp"), output(product, 0), &TO_LINEAR)?;
        self.place_linear(format!("{layer}.mlp.down_proj.weight"), &down)
    }

    /// The tensor that holds `x * sigmoid(x)`.
    fn silu(&self, x: &'a str) -> Option<&'a str> {
        let graph = self.graph;
        let fused = |at: &Arrival<'a>| match at.node.op_type.as_str() {
            "Swish" => attribute(at.node, "alpha").is_none_or(|alpha| alpha.f == Some(1.0)),
            "QuickGelu" => float(at.node, "alpha") == Some(1.0),
            _ => false,
        };
        if let [at] = graph.readers(x, &SAME).as_slice() {
            return fused(at).then(|| output(at.node, 0));
        }
        let sigmoid = output(graph.next(x, "Sigmoid")?, 0);
        let product = graph.next(sigmoid, "Mul")?;
        let other = graph.other(product, sigmoid)?;
        graph.same(other, x).then(|| output(product, 0))
    }

    fn logits(&mut self, stream: Stream<'a>) -> Result<(), BaseError> {
        let normed = self.norm(stream, FINAL_NORM.into())?;
        let layers = self.dims.layers;
        let place = format!("after {layers} layers (num_hidden_layers of config.json)");
        let head = self.linear(&place, normed, &TO_LOGITS)?;
        self.place_linear(OUTPUT.into(), &head)?;
        if !stream.tensor.is_empty() {
            self.explained(&place, stream.tensor)?;
        }
        let aliases = self.graph.aliases(head.output, &TO_LOGITS);
        if aliases.iter().any(|name| self.graph.is_output(name)) {
            return Ok(());
        }
        let ops = names(&self.graph.readers(head.output, &TO_LOGITS));
        Err(odd(format!(
            "{place}: the last linear layer goes to {ops}, expected the output logits"
        )))
    }

    /// Refuses a linear layer that the walk did not meet.
    fn nothing_left(&self) -> Result<(), BaseError> {
        for node in self.graph.nodes {
            if self.used.contains(output(node, 0)) {
                continue;
            }
            if let Some(place) = weight(self.graph, node)?
                && self.is_floating(&place.tensor)
            {
                let (op, name, tensor) = (&node.op_type, &node.name, &place.tensor);
                let what = format!("{op} {name:?} by {tensor:?} belongs to no decoder layer");
                return Err(odd(what));
            }
        }
        Ok(())
    }

    fn is_floating(&self, tensor: &str) -> bool {
        let integers = [data_type::INT32, data_type::INT64, data_type::BOOL];
        self.graph.constant(tensor).is_some_and(|tensor| !integers.contains(&tensor.data_type))
    }
}

/// The structure is not a plain decoder's.
pub(super) fn odd(what: String) -> BaseError {
    BaseError::Structure { what }
}

fn names(readers: &[Arrival<'_>]) -> String {
    match readers {
        [] => "nothing".into(),
        _ => readers.iter().map(|at| at.node.op_type.as_str()).collect::<Vec<_>>().join(", "),
    }
}
