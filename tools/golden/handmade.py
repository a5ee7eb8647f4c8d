"""A Llama written straight into ONNX with onnx.helper, as hand-rolled exporters do; used by graphs.py.

Standard operators of opset 17, Hugging Face's names, weights [out, in] behind a Transpose; with `bits=4` the
layers' linear weights become com.microsoft MatMulNBits in blocks of 16.
Oracle: none of its own; graphs.py holds ONNX Runtime's answer against transformers.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCK = 16


class Graph:
    """Nodes and initialisers in the order they are asked for; every helper returns a tensor's name."""

    def __init__(self):
        self.nodes, self.constants = [], {}

    def constant(self, name: str, value, dtype=np.float32) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype)), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant("int_" + "_".join(str(value) for value in values), list(values), np.int64)

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output


def linear(graph: Graph, x: str, name: str, weights: dict, bits: int | None) -> str:
    output = name.removesuffix(".weight")
    if bits is not None and ".layers." in name:
        return packed_linear(graph, x, name, weights[name], output)
    turned = graph.node("Transpose", [graph.constant(name, weights[name])], f"{output}/turned", perm=[1, 0])
    return graph.node("MatMul", [x, turned], output)


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 4-bit codes 0..15 around 8, [out, blocks, BLOCK], and a scale per block [out, blocks]."""
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    scales = (np.abs(blocks).max(-1) / 7).astype(np.float32)
    codes = np.clip(np.rint(blocks / scales[..., None]) + 8, 0, 15).astype(np.uint8)
    return codes, scales


def dequantised(weights: dict) -> dict:
    """The weights that a reader of `bits=4` sees."""
    seen = dict(weights)
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            codes, scales = quantise(weight)
            seen[name] = ((codes.astype(np.float32) - 8) * scales[..., None]).reshape(weight.shape)
    return seen


def packed_linear(graph: Graph, x: str, name: str, weight: np.ndarray, output: str) -> str:
    codes, scales = quantise(weight)
    packed = graph.constant(f"{name}_q4", codes[..., 0::2] | codes[..., 1::2] << 4, np.uint8)
    scale = graph.constant(f"{name}_scales", scales.reshape(-1))
    shape = dict(K=weight.shape[1], N=weight.shape[0], bits=4, block_size=BLOCK)
    return graph.node("MatMulNBits", [x, packed, scale], output, domain="com.microsoft", **shape)


def norm(graph: Graph, x: str, name: str, weights: dict, epsilon: float) -> str:
    output = name.removesuffix(".weight")
    square = graph.node("Pow", [x, graph.constant("two", 2.0)], f"{output}/square")
    mean = graph.node("ReduceMean", [square], f"{output}/mean", axes=[-1], keepdims=1)
    root = graph.node("Sqrt", [graph.node("Add", [mean, graph.constant("epsilon", epsilon)], f"{output}/shifted")], f"{output}/root")
    unit = graph.node("Div", [x, root], f"{output}/unit")
    return graph.node("Mul", [graph.constant(name, weights[name]), unit], output)


def positions(graph: Graph, config) -> None:
    """Tensors `cos` and `sin` [T, head width] and the additive `mask` [T, T]."""
    width = config.head_dim
    frequency = 1.0 / config.rope_parameters["rope_theta"] ** (np.arange(0, width, 2) / width)
    angles = np.outer(np.arange(config.max_position_embeddings), np.concatenate([frequency, frequency]))
    shape = graph.node("Shape", ["input_ids"], "ids/shape")
    length = graph.node("Gather", [shape, graph.integers(1)], "ids/length", axis=0)
    for name, table in [("cos", np.cos(angles)), ("sin", np.sin(angles))]:
        rows = [graph.constant(f"{name}_table", table), graph.integers(0), length, graph.integers(0)]
        graph.node("Slice", rows, name)
    square = graph.node("Concat", [length, length], "mask/shape", axis=0)
    lowest = numpy_helper.from_array(np.array([np.finfo(np.float32).min], np.float32))
    full = graph.node("ConstantOfShape", [square], "mask/full", value=lowest)
    graph.node("Trilu", [full, graph.constant("one", 1, np.int64)], "mask", upper=1)


def heads(graph: Graph, x: str, count: int, width: int) -> str:
    split = graph.node("Reshape", [x, graph.integers(0, 0, count, width)], f"{x}/split")
    return graph.node("Transpose", [split], f"{x}/heads", perm=[0, 2, 1, 3])


def rotate(graph: Graph, x: str, width: int) -> str:
    low = graph.node("Slice", [x, graph.integers(0), graph.integers(width // 2), graph.integers(3)], f"{x}/low")
    high = graph.node("Slice", [x, graph.integers(width // 2), graph.integers(width), graph.integers(3)], f"{x}/high")
    turned = graph.node("Concat", [graph.node("Neg", [high], f"{x}/negated"), low], f"{x}/turned", axis=-1)
    kept = graph.node("Mul", [x, "cos"], f"{x}/kept")
    return graph.node("Add", [kept, graph.node("Mul", [turned, "sin"], f"{x}/moved")], f"{x}/rotated")


def repeat(graph: Graph, x: str, groups: int, config) -> str:
    """Each key/value head once per query head of its group, by a broadcast."""
    wide = graph.node("Unsqueeze", [x, graph.integers(2)], f"{x}/wide")
    many = graph.node("Expand", [wide, graph.integers(1, 1, groups, 1, 1)], f"{x}/many")
    return graph.node("Reshape", [many, graph.integers(0, config.num_attention_heads, -1, config.head_dim)], f"{x}/repeated")


def attention(graph: Graph, x: str, prefix: str, config, weights: dict, bits: int | None) -> str:
    many, few, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    query, key, value = (linear(graph, x, f"{prefix}.{name}_proj.weight", weights, bits) for name in "qkv")
    query = rotate(graph, heads(graph, query, many, width), width)
    key = repeat(graph, rotate(graph, heads(graph, key, few, width), width), many // few, config)
    value = repeat(graph, heads(graph, value, few, width), many // few, config)
    turned = graph.node("Transpose", [key], f"{prefix}/keys", perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", [query, turned], f"{prefix}/scores")
    scaled = graph.node("Div", [scores, graph.constant("root_width", width**0.5)], f"{prefix}/scaled")
    masked = graph.node("Add", [scaled, "mask"], f"{prefix}/masked")
    mixed = graph.node("MatMul", [graph.node("Softmax", [masked], f"{prefix}/shares", axis=-1), value], f"{prefix}/mixed")
    rows = graph.node("Transpose", [mixed], f"{prefix}/rows", perm=[0, 2, 1, 3])
    joined = graph.node("Reshape", [rows, graph.integers(0, 0, many * width)], f"{prefix}/joined")
    return linear(graph, joined, f"{prefix}.o_proj.weight", weights, bits)


def feed_forward(graph: Graph, x: str, prefix: str, weights: dict, bits: int | None) -> str:
    gate = linear(graph, x, f"{prefix}.gate_proj.weight", weights, bits)
    up = linear(graph, x, f"{prefix}.up_proj.weight", weights, bits)
    bent = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{prefix}/sigmoid")], f"{prefix}/silu")
    return linear(graph, graph.node("Mul", [bent, up], f"{prefix}/product"), f"{prefix}.down_proj.weight", weights, bits)


def build(config, weights: dict, bits: int | None = None) -> onnx.ModelProto:
    graph, epsilon = Graph(), config.rms_norm_eps
    positions(graph, config)
    table = graph.constant("model.embed_tokens.weight", weights["model.embed_tokens.weight"])
    x = graph.node("Gather", [table, "input_ids"], "embedded", axis=0)
    for index in range(config.num_hidden_layers):
        prefix = f"model.layers.{index}"
        seen = norm(graph, x, f"{prefix}.input_layernorm.weight", weights, epsilon)
        x = graph.node("Add", [x, attention(graph, seen, f"{prefix}.self_attn", config, weights, bits)], f"{prefix}/middle")
        seen = norm(graph, x, f"{prefix}.post_attention_layernorm.weight", weights, epsilon)
        x = graph.node("Add", [x, feed_forward(graph, seen, f"{prefix}.mlp", weights, bits)], f"{prefix}/out")
    logits = linear(graph, norm(graph, x, "model.norm.weight", weights, epsilon), "lm_head.weight", weights, bits)
    graph.node("Identity", [logits], "logits")
    return wrap(graph, config, bits)


def wrap(graph: Graph, config, bits: int | None) -> onnx.ModelProto:
    given = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    answer = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", config.vocab_size])
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid("com.microsoft", 1)] if bits else [])
    body = helper.make_graph(graph.nodes, "handmade", [given], [answer], list(graph.constants.values()))
    return helper.make_model(body, opset_imports=opsets, producer_name="handmade", ir_version=8)


def save(model: onnx.ModelProto, path: Path, external: bool = False) -> None:
    extra = dict(save_as_external_data=True, location=f"{path.name}.data", size_threshold=256) if external else {}
    onnx.save(model, path, **extra)
    if external:
        path.with_name(f"{path.name}.data").chmod(0o644)
