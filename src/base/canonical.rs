//! The canonical graph: the one ONNX graph as which every base runs, ours or foreign.
//!
//! Opset 17, standard operators, symbolic batch and sequence, `input_ids` `[B, T]` i64 in.
//! - Boundaries: tensor `model.layers.{i}` is the residual stream `[B, T, D]` that *enters* layer i;
//!   `model.layers.0` is the embedding's output, `model.layers.{L}` what the last layer leaves.
//! - Weights keep their Hugging Face names; linear ones lie `[in, out]`. `lm_head.weight` is an
//!   initializer of its own even when tied: a constant shared with the embedding would be repacked
//!   at every run.
//! - RoPE tables are constants of [`Config::positions`] positions; the causal mask is arithmetic,
//!   `clip(key - query, 0, 1) * -max`, because comparisons are miscompiled by an engine we use.
//! - Half precision: two-dimensional weights are f16 and widened by a Cast; the embedding is
//!   gathered first. Norms, biases and tables stay f32.
//! - Never here: the weights' values, files.
//!
//! Source: `LlamaForCausalLM` and `Qwen3ForCausalLM` of transformers 5; ONNX operators, opset 17.

use super::Config;
use super::foreign::{FORMAT, FORMAT_KEY};
use super::onnx::*;

/// How the two-dimensional weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits, widened to 32 in the graph.
    F16,
}

/// How much of the decoder a graph computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The embedding and the layers below the tap; gives `model.layers.{tap}`.
    Trunk(usize),
    /// Everything; gives `logits` `[B, T, V]`.
    Whole,
}

/// A weight that the graph reads and whose values it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Hugging Face name.
    pub name: String,
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub precision: Precision,
}

/// A graph whose initializers are only the constants; the weights' values are for the caller.
pub struct Canonical {
    /// Nodes, constants, input and output.
    pub graph: GraphProto,
    /// The weights it reads, in the order of their use.
    pub slots: Vec<Slot>,
    /// Name of the output.
    pub output: String,
}

impl Canonical {
    /// The graph of that part of the decoder.
    pub fn new(config: &Config, part: Part, precision: Precision) -> Self {
        let mut builder =
            Builder { config, precision, graph: GraphProto::default(), slots: vec![] };
        let layers = match part {
            Part::Trunk(tap) => tap,
            Part::Whole => config.layers,
        };
        builder.embedding();
        if layers > 0 {
            builder.constants();
            builder.positions();
        }
        for layer in 0..layers {
            builder.layer(layer);
        }
        let boundary = format!("model.layers.{layers}");
        let (output, width) = match part {
            Part::Trunk(_) => (boundary, config.hidden),
            Part::Whole => (builder.head(&boundary), config.vocab),
        };
        let Builder { mut graph, slots, .. } = builder;
        graph.name = "decoder".into();
        let (batch, length) = (symbol("batch"), symbol("sequence"));
        graph.input = vec![tensor_type("input_ids", data_type::INT64, &[&batch, &length])];
        let width = DimensionValue::Size(width as i64);
        graph.output = vec![tensor_type(&output, data_type::FLOAT, &[&batch, &length, &width])];
        Self { graph, slots, output }
    }
}

/// The model around a graph: versions and the hyper-parameters as metadata.
pub fn model(config: &Config, graph: GraphProto) -> ModelProto {
    let entry = |(key, value): (&str, String)| StringStringEntryProto { key: key.into(), value };
    let metadata = [
        (FORMAT_KEY, FORMAT.to_owned()),
        ("sapwood.family", format!("{:?}", config.family).to_lowercase()),
        ("sapwood.hidden_size", config.hidden.to_string()),
        ("sapwood.num_hidden_layers", config.layers.to_string()),
        ("sapwood.num_attention_heads", config.heads.to_string()),
        ("sapwood.num_key_value_heads", config.kv_heads.to_string()),
        ("sapwood.head_dim", config.head_dim.to_string()),
        ("sapwood.intermediate_size", config.ffn.to_string()),
        ("sapwood.vocab_size", config.vocab.to_string()),
        ("sapwood.rms_norm_eps", config.norm_eps.to_string()),
        ("sapwood.rope_theta", config.rope.theta.to_string()),
        ("sapwood.rope_scaling", format!("{:?}", config.rope.scaling)),
        ("sapwood.positions", config.positions().to_string()),
    ];
    ModelProto {
        ir_version: 8,
        producer_name: "sapwood".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        metadata_props: metadata.into_iter().map(entry).collect(),
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// The declared type of a tensor.
pub fn tensor_type(name: &str, elem_type: i32, axes: &[&DimensionValue]) -> ValueInfoProto {
    let dim = axes.iter().map(|&axis| Dimension { value: Some(axis.clone()) }).collect();
    let tensor_type = TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { tensor_type: Some(tensor_type) }),
        ..ValueInfoProto::default()
    }
}

fn symbol(name: &str) -> DimensionValue {
    DimensionValue::Symbol(name.into())
}

fn integer(name: &str, value: i64) -> AttributeProto {
    let r#type = attribute_type::INT;
    AttributeProto { name: name.into(), r#type, i: Some(value), ..AttributeProto::default() }
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    let (r#type, ints) = (attribute_type::INTS, values.to_vec());
    AttributeProto { name: name.into(), r#type, ints, ..AttributeProto::default() }
}

/// Writes nodes in topological order; each is named after the tensor it writes.
struct Builder<'a> {
    config: &'a Config,
    precision: Precision,
    graph: GraphProto,
    slots: Vec<Slot>,
}

impl Builder<'_> {
    fn op(&mut self, op_type: &str, inputs: &[&str], output: &str) -> String {
        self.op_with(op_type, inputs, output, vec![])
    }

    fn op_with(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> String {
        self.graph.node.push(NodeProto {
            op_type: op_type.into(),
            name: output.into(),
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![output.into()],
            attribute,
            ..NodeProto::default()
        });
        output.into()
    }

    fn constant(&mut self, name: &str, data_type: i32, dims: &[usize], raw_data: Vec<u8>) {
        self.graph.initializer.push(TensorProto {
            name: name.into(),
            data_type,
            dims: dims.iter().map(|&width| width as i64).collect(),
            raw_data,
            ..TensorProto::default()
        });
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, data_type::FLOAT, dims, bytes);
    }

    fn integers(&mut self, name: &str, dims: &[usize], values: &[i64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, data_type::INT64, dims, bytes);
    }

    /// Asks the caller for a weight, as it is stored.
    fn slot(&mut self, name: &str, shape: &[usize]) -> Precision {
        let precision = if shape.len() == 2 { self.precision } else { Precision::F32 };
        self.slots.push(Slot { name: name.into(), shape: shape.to_vec(), precision });
        precision
    }

    /// `x` times a linear weight `[in, out]`, and its bias.
    fn biased(&mut self, x: &str, module: &str, shape: [usize; 2], has_bias: bool) -> String {
        let flat = self.linear(x, module, shape);
        if !has_bias {
            return flat;
        }
        let bias = format!("{module}.bias");
        self.slot(&bias, &shape[1..]);
        self.op("Add", &[&flat, &bias], &format!("{module}.biased"))
    }

    /// `x` times a linear weight `[in, out]`.
    fn linear(&mut self, x: &str, module: &str, shape: [usize; 2]) -> String {
        let weight = format!("{module}.weight");
        let weight = match self.slot(&weight, &shape) {
            Precision::F32 => weight,
            Precision::F16 => self.widen(&weight, &format!("{weight}.f32")),
        };
        self.op("MatMul", &[x, &weight], module)
    }

    fn widen(&mut self, half: &str, output: &str) -> String {
        self.op_with("Cast", &[half], output, vec![integer("to", data_type::FLOAT.into())])
    }

    /// Numbers that the layers share.
    fn constants(&mut self) {
        let Config { heads, kv_heads, head_dim, norm_eps, .. } = *self.config;
        let (h, kv, width) = (heads as i64, kv_heads as i64, head_dim as i64);
        self.integers("shape.query", &[4], &[0, 0, h, width]);
        self.integers("shape.key", &[4], &[0, 0, kv, width]);
        self.integers("shape.grouped", &[5], &[0, kv, h / kv, -1, width]);
        self.integers("shape.ungrouped", &[4], &[0, h, -1, width]);
        self.integers("shape.joined", &[3], &[0, 0, h * width]);
        for (name, value) in [("0", 0), ("1", 1)] {
            self.integers(&format!("scalar.{name}"), &[], &[value]);
        }
        for (name, value) in
            [("0", 0), ("1", 1), ("2", 2), ("3", 3), ("half", width / 2), ("width", width)]
        {
            self.integers(&format!("axis.{name}"), &[1], &[value]);
        }
        self.floats("epsilon", &[], &[norm_eps]);
        self.floats("zero", &[], &[0.0]);
        self.floats("one", &[], &[1.0]);
        self.floats("lowest", &[], &[f32::MIN]);
        self.floats("scale", &[], &[(head_dim as f32).sqrt().recip()]);
        let positions = self.config.positions();
        let (cosine, sine) = self.config.rope_tables(positions);
        for (name, table) in [("rope.cosine", cosine), ("rope.sine", sine)] {
            let doubled: Vec<f32> =
                table.chunks(head_dim / 2).flat_map(|half| [half, half].concat()).collect();
            self.floats(name, &[positions, head_dim], &doubled);
        }
    }

    /// `model.layers.0`: one row of the embedding per token.
    fn embedding(&mut self) {
        let (name, axis) = ("model.embed_tokens.weight", vec![integer("axis", 0)]);
        let shape = [self.config.vocab, self.config.hidden];
        match self.slot(name, &shape) {
            Precision::F32 => self.op_with("Gather", &[name, "input_ids"], "model.layers.0", axis),
            Precision::F16 => {
                let rows = self.op_with("Gather", &[name, "input_ids"], "embedded", axis);
                self.widen(&rows, "model.layers.0")
            }
        };
    }

    /// The rows of the RoPE tables and the causal mask `[T, T]` for this length.
    fn positions(&mut self) {
        self.op("Shape", &["input_ids"], "shape");
        self.op_with("Gather", &["shape", "scalar.1"], "length", vec![integer("axis", 0)]);
        self.op("Range", &["scalar.0", "length", "scalar.1"], "position");
        for table in ["cosine", "sine"] {
            let source = format!("rope.{table}");
            self.op_with("Gather", &[&source, "position"], table, vec![integer("axis", 0)]);
        }
        self.widen("position", "position.f32");
        self.op("Unsqueeze", &["position.f32", "axis.1"], "position.query");
        self.op("Unsqueeze", &["position.f32", "axis.0"], "position.key");
        self.op("Sub", &["position.key", "position.query"], "distance");
        self.op("Clip", &["distance", "zero", "one"], "future");
        self.op("Mul", &["future", "lowest"], "mask");
    }

    /// From `model.layers.{layer}` to `model.layers.{layer + 1}`.
    fn layer(&mut self, layer: usize) {
        let name = format!("model.layers.{layer}");
        let hidden = self.config.hidden;
        let normed = self.norm(&name, &format!("{name}.input_layernorm"), hidden);
        let attended = self.attention(&normed, &format!("{name}.self_attn"));
        let middle = self.op("Add", &[&name, &attended], &format!("{name}.middle"));
        let normed = self.norm(&middle, &format!("{name}.post_attention_layernorm"), hidden);
        let changed = self.mlp(&normed, &format!("{name}.mlp"));
        self.op("Add", &[&middle, &changed], &format!("model.layers.{}", layer + 1));
    }

    /// RMSNorm over the last axis: `x / sqrt(mean(x^2) + eps) * weight`.
    fn norm(&mut self, x: &str, module: &str, width: usize) -> String {
        let weight = format!("{module}.weight");
        self.slot(&weight, &[width]);
        let at = |step: &str| format!("{module}.{step}");
        let squared = self.op("Mul", &[x, x], &at("squared"));
        let over = vec![integers("axes", &[-1]), integer("keepdims", 1)];
        let mean = self.op_with("ReduceMean", &[&squared], &at("mean"), over);
        let shifted = self.op("Add", &[&mean, "epsilon"], &at("shifted"));
        let root = self.op("Sqrt", &[&shifted], &at("root"));
        let unit = self.op("Div", &[x, &root], &at("unit"));
        self.op("Mul", &[&unit, &weight], module)
    }

    /// Grouped-query attention with a causal mask; `[B, T, D]` in and out.
    fn attention(&mut self, x: &str, module: &str) -> String {
        let at = |step: &str| format!("{module}.{step}");
        let Config { heads, kv_heads, qk_norm, .. } = *self.config;
        let query = self.heads(x, &at("q"), (heads, "shape.query"), qk_norm);
        let key = self.heads(x, &at("k"), (kv_heads, "shape.key"), qk_norm);
        let value = self.heads(x, &at("v"), (kv_heads, "shape.key"), false);
        let query = self.rotate(&query);
        let key = self.rotate(&key);
        let query = self.op("Reshape", &[&query, "shape.grouped"], &at("query"));
        let key = self.op("Unsqueeze", &[&key, "axis.2"], &at("key"));
        let value = self.op("Unsqueeze", &[&value, "axis.2"], &at("value"));
        let turned = vec![integers("perm", &[0, 1, 2, 4, 3])];
        let key = self.op_with("Transpose", &[&key], &at("key.turned"), turned);
        let scores = self.op("MatMul", &[&query, &key], &at("scores"));
        let scores = self.op("Mul", &[&scores, "scale"], &at("scores.scaled"));
        let scores = self.op("Add", &[&scores, "mask"], &at("scores.masked"));
        let last = vec![integer("axis", -1)];
        let chances = self.op_with("Softmax", &[&scores], &at("chances"), last);
        let mixed = self.op("MatMul", &[&chances, &value], &at("mixed"));
        let mixed = self.op("Reshape", &[&mixed, "shape.ungrouped"], &at("mixed.heads"));
        let order = vec![integers("perm", &[0, 2, 1, 3])];
        let mixed = self.op_with("Transpose", &[&mixed], &at("mixed.turned"), order);
        let joined = self.op("Reshape", &[&mixed, "shape.joined"], &at("joined"));
        let width = self.config.heads * self.config.head_dim;
        let fans = [width, self.config.hidden];
        self.biased(&joined, &at("o_proj"), fans, self.config.o_bias)
    }

    /// The projection of q, k or v, split into heads: `[B, heads, T, head_dim]`.
    fn heads(
        &mut self,
        x: &str,
        name: &str,
        (heads, shape): (usize, &str),
        is_normed: bool,
    ) -> String {
        let module = &format!("{name}_proj");
        let width = heads * self.config.head_dim;
        let fans = [self.config.hidden, width];
        let flat = self.biased(x, module, fans, self.config.qkv_bias);
        let mut split = self.op("Reshape", &[&flat, shape], &format!("{module}.split"));
        if is_normed {
            split = self.norm(&split, &format!("{name}_norm"), self.config.head_dim);
        }
        let order = vec![integers("perm", &[0, 2, 1, 3])];
        self.op_with("Transpose", &[&split], &format!("{module}.heads"), order)
    }

    /// RoPE: `x cos + turn(x) sin`, where a quarter turn takes the halves `(a, b)` to `(-b, a)`.
    fn rotate(&mut self, x: &str) -> String {
        let at = |step: &str| format!("{x}.{step}");
        let ends = |from, to| [x, from, to, "axis.3"];
        let first = self.op("Slice", &ends("axis.0", "axis.half"), &at("first"));
        let second = self.op("Slice", &ends("axis.half", "axis.width"), &at("second"));
        let second = self.op("Neg", &[&second], &at("negated"));
        let axis = vec![integer("axis", 3)];
        let turned = self.op_with("Concat", &[&second, &first], &at("turned"), axis);
        let along = self.op("Mul", &[x, "cosine"], &at("along"));
        let across = self.op("Mul", &[&turned, "sine"], &at("across"));
        self.op("Add", &[&along, &across], &at("rotated"))
    }

    /// SwiGLU: `down(silu(gate(x)) * up(x))`.
    fn mlp(&mut self, x: &str, module: &str) -> String {
        let at = |step: &str| format!("{module}.{step}");
        let Config { hidden: d, ffn, mlp_bias, .. } = *self.config;
        let gate = self.biased(x, &at("gate_proj"), [d, ffn], mlp_bias);
        let up = self.biased(x, &at("up_proj"), [d, ffn], mlp_bias);
        let sigmoid = self.op("Sigmoid", &[&gate], &at("sigmoid"));
        let silu = self.op("Mul", &[&gate, &sigmoid], &at("silu"));
        let gated = self.op("Mul", &[&silu, &up], &at("gated"));
        self.biased(&gated, &at("down_proj"), [ffn, d], mlp_bias)
    }

    /// The final norm and the output layer; returns the name of the logits.
    fn head(&mut self, x: &str) -> String {
        let normed = self.norm(x, "model.norm", self.config.hidden);
        let logits = self.linear(&normed, "lm_head", [self.config.hidden, self.config.vocab]);
        self.op("Identity", &[&logits], "logits")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::collections::BTreeSet;

    fn config() -> Config {
        let json = r#"{"model_type": "qwen2", "hidden_size": 8, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_hidden_layers": 3, "intermediate_size": 12,
            "vocab_size": 10, "max_position_embeddings": 16}"#;
        Config::parse(json, None).unwrap()
    }

    #[test]
    fn every_tensor_is_written_once_before_it_is_read() {
        for part in [Part::Trunk(0), Part::Trunk(2), Part::Whole] {
            for precision in [Precision::F32, Precision::F16] {
                let canonical = Canonical::new(&config(), part, precision);
                let mut known: BTreeSet<&str> = BTreeSet::from(["input_ids"]);
                let constants = canonical.graph.initializer.iter().map(|tensor| &tensor.name);
                for name in constants.chain(canonical.slots.iter().map(|slot| &slot.name)) {
                    assert!(known.insert(name), "{name} twice");
                }
                for node in &canonical.graph.node {
                    for input in &node.input {
                        assert!(known.contains(input.as_str()), "{input} of {}", node.name);
                    }
                    assert!(known.insert(&node.output[0]), "{} twice", node.name);
                }
                assert!(known.contains(canonical.output.as_str()));
            }
        }
    }

    #[test]
    fn the_whole_reads_exactly_the_weights_of_the_config() {
        let config = config();
        let slots = Canonical::new(&config, Part::Whole, Precision::F32).slots;
        let found: BTreeSet<_> = slots.into_iter().map(|slot| (slot.name, slot.shape)).collect();
        assert_eq!(found, config.weights().into_iter().collect());
    }

    #[test]
    fn a_trunk_of_no_layers_is_the_embedding_alone() {
        let canonical = Canonical::new(&config(), Part::Trunk(0), Precision::F32);
        assert_eq!(canonical.output, "model.layers.0");
        assert_eq!((canonical.graph.node.len(), canonical.slots.len()), (1, 1));
    }
}
