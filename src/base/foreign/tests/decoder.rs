//! A small decoder in the manner of several exporters, with weights that say who they are.

use super::super::Dims;
use crate::base::onnx::*;
use half::f16;

/// How an exporter writes a graph.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    /// Weights `[out, in]` behind a Transpose.
    pub(super) transposed: bool,
    /// FLOAT16 weights.
    pub(super) half: bool,
    /// Biases on q, k and v.
    pub(super) bias: bool,
    /// The embedding is the output layer.
    pub(super) tied: bool,
    /// ONNX Runtime's fused operators, one projection for q, k and v.
    pub(super) fused: bool,
}

pub(super) const DIMS: Dims = Dims {
    hidden: 8,
    layers: 2,
    heads: 2,
    kv_heads: 1,
    head_dim: 4,
    ffn: 12,
    vocab: 16,
    norm_eps: 1e-5,
};

/// Element `at` of the weight of that name as it is read; exact in f16.
pub(super) fn element(name: &str, at: usize) -> f32 {
    let seed = name.bytes().fold(0_usize, |sum, byte| sum * 31 % 997 + usize::from(byte));
    ((seed + at * 7) % 512) as f32 / 256.0 - 1.0
}

/// A weight as it is read.
pub(super) fn expected(name: &str, style: Style) -> Vec<f32> {
    let shape = DIMS.shape(name).unwrap();
    if style.tied && name == super::super::OUTPUT {
        return transpose(&expected(super::super::EMBEDDING, style), DIMS.vocab, DIMS.hidden);
    }
    (0..shape.iter().product()).map(|at| element(name, at)).collect()
}

pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect()
}

/// A graph under construction.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) graph: GraphProto,
    style: Style,
}

pub(super) fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("node of {output}"),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

pub(super) fn integer(name: &str, i: i64) -> AttributeProto {
    let r#type = attribute_type::INT;
    AttributeProto { name: name.into(), i: Some(i), r#type, ..Default::default() }
}

impl Builder {
    fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        let output = format!("t{}", self.graph.node.len());
        self.graph.node.push(node(op, inputs, &output));
        output
    }

    fn tensor(&mut self, dims: &[usize], values: &[f32]) -> String {
        let name = format!("w{}", self.graph.initializer.len());
        let (data_type, raw_data) = match self.style.half && dims.len() > 1 {
            true => (
                data_type::FLOAT16,
                values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            ),
            false => (data_type::FLOAT, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        };
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        let tensor =
            TensorProto { name: name.clone(), dims, data_type, raw_data, ..Default::default() };
        self.graph.initializer.push(tensor);
        name
    }

    fn scalar(&mut self, value: f32) -> String {
        self.tensor(&[], &[value])
    }

    fn constant(&mut self, name: &str) -> String {
        let values = expected(name, self.style);
        self.tensor(&DIMS.shape(name).unwrap(), &values)
    }

    fn linear(&mut self, x: &str, name: &str) -> String {
        let shape = DIMS.shape(name).unwrap();
        let values = expected(name, self.style);
        let weight = if self.style.transposed {
            let stored = transpose(&values, shape[0], shape[1]);
            let stored = self.tensor(&[shape[1], shape[0]], &stored);
            self.op("Transpose", &[&stored])
        } else {
            self.tensor(&shape, &values)
        };
        let product = self.op("MatMul", &[x, &weight]);
        let bias = name.replace(".weight", ".bias");
        if self.style.bias && DIMS.shape(&bias).is_some() {
            let bias = self.constant(&bias);
            return self.op("Add", &[&bias, &product]);
        }
        product
    }

    fn norm(&mut self, x: &str, name: &str) -> String {
        let (two, epsilon) = (self.scalar(2.0), self.scalar(DIMS.norm_eps));
        let square = self.op("Pow", &[x, &two]);
        let mean = self.op("ReduceMean", &[&square]);
        let sum = self.op("Add", &[&mean, &epsilon]);
        let root = self.op("Sqrt", &[&sum]);
        let unit = self.op("Div", &[x, &root]);
        let weight = self.constant(name);
        self.op("Mul", &[&weight, &unit])
    }

    fn rotated(&mut self, x: &str) -> String {
        let (cos, sin) = (self.tensor(&[4], &[1.0; 4]), self.tensor(&[4], &[0.0; 4]));
        let (first, second) = (self.op("Slice", &[x]), self.op("Slice", &[x]));
        let negative = self.op("Neg", &[&second]);
        let turned = self.op("Concat", &[&negative, &first]);
        let (left, right) = (self.op("Mul", &[x, &cos]), self.op("Mul", &[&turned, &sin]));
        self.op("Add", &[&left, &right])
    }

    fn attention(&mut self, x: &str, layer: &str) -> String {
        let name = |part: &str| format!("{layer}.self_attn.{part}.weight");
        // k and v first: order in the file must not matter.
        let v = self.linear(x, &name("v_proj"));
        let k = self.linear(x, &name("k_proj"));
        let q = self.linear(x, &name("q_proj"));
        let (q, k) = (self.rotated(&q), self.rotated(&k));
        let k = self.op("Transpose", &[&k]);
        let scores = self.op("MatMul", &[&q, &k]);
        let scale = self.scalar(0.5);
        let scores = self.op("Mul", &[&scores, &scale]);
        let shares = self.op("Softmax", &[&scores]);
        let context = self.op("MatMul", &[&shares, &v]);
        let context = self.op("Reshape", &[&context]);
        self.linear(&context, &name("o_proj"))
    }

    fn fused_attention(&mut self, x: &str, layer: &str) -> String {
        let name = |part: &str| format!("{layer}.self_attn.{part}.weight");
        let parts = ["q_proj", "k_proj", "v_proj"].map(name);
        let rows = |this: &Self, at: usize| -> Vec<f32> {
            let of = |part: &String| {
                let width = DIMS.shape(part).unwrap()[1];
                expected(part, this.style)[at * width..(at + 1) * width].to_vec()
            };
            parts.iter().flat_map(of).collect()
        };
        let all: Vec<f32> = (0..DIMS.hidden).flat_map(|at| rows(self, at)).collect();
        let weight = self.tensor(&[DIMS.hidden, 16], &all);
        let packed = self.op("MatMul", &[x, &weight]);
        let context = self.op("GroupQueryAttention", &[&packed, "", ""]);
        let fused = self.graph.node.last_mut().unwrap();
        fused.domain = "com.microsoft".into();
        fused.attribute.extend([integer("num_heads", 2), integer("kv_num_heads", 1)]);
        fused.attribute.push(integer("do_rotary", 1));
        self.linear(&context, &name("o_proj"))
    }

    fn mlp(&mut self, x: &str, layer: &str) -> String {
        let up = self.linear(x, &format!("{layer}.mlp.up_proj.weight"));
        let gate = self.linear(x, &format!("{layer}.mlp.gate_proj.weight"));
        let sigmoid = self.op("Sigmoid", &[&gate]);
        let active = self.op("Mul", &[&gate, &sigmoid]);
        let product = self.op("Mul", &[&active, &up]);
        self.linear(&product, &format!("{layer}.mlp.down_proj.weight"))
    }

    fn layer(&mut self, x: &str, layer: &str) -> String {
        let normed = self.norm(x, &format!("{layer}.input_layernorm.weight"));
        let delta = match self.style.fused {
            true => self.fused_attention(&normed, layer),
            false => self.attention(&normed, layer),
        };
        let x = self.op("Add", &[x, &delta]);
        let normed = self.norm(&x, &format!("{layer}.post_attention_layernorm.weight"));
        let delta = self.mlp(&normed, layer);
        self.op("Add", &[&delta, &x])
    }
}

/// The whole model; nothing in it has its Hugging Face name.
pub(super) fn model(style: Style) -> ModelProto {
    let mut builder = Builder { style, ..Default::default() };
    builder.graph.input = vec![ValueInfoProto { name: "input_ids".into(), ..Default::default() }];
    let embedding = builder.constant(super::super::EMBEDDING);
    let mut x = builder.op("Gather", &[&embedding, "input_ids"]);
    for layer in 0..DIMS.layers {
        x = builder.layer(&x, &format!("model.layers.{layer}"));
    }
    let normed = builder.norm(&x, super::super::FINAL_NORM);
    let logits = if style.tied {
        let weight = builder.op("Transpose", &[&embedding]);
        builder.op("MatMul", &[&normed, &weight])
    } else {
        builder.linear(&normed, super::super::OUTPUT)
    };
    builder.graph.output = vec![ValueInfoProto { name: logits, ..Default::default() }];
    let opset_import = vec![OperatorSetIdProto { version: 17, ..Default::default() }];
    ModelProto { ir_version: 8, graph: Some(builder.graph), opset_import, ..Default::default() }
}
