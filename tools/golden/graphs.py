"""ONNX files as other exporters leave them, each with the logits and residual stream of transformers.

Oracle: transformers in f32, and ONNX Runtime as a witness that each file means the same (requirements.txt), CPU.
Exporters: torch.onnx.export with dynamo (opset 18) and TorchScript (opset 17, attention mask), and handmade.py.
Command: python tools/golden/all.py --out tests/golden --only graphs
"""

import logging
import shutil
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import handmade
from common import assert_same, load, observe, random_ids, randomise, write_json, write_tensors

VOCABULARY, LENGTH = 96, 9
TINY = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, bos_token_id=1, eos_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
)


class LogitsLlama(LlamaForCausalLM):
    """An exporter wants a tensor out, not a dictionary."""

    def forward(self, input_ids, attention_mask=None):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


class LogitsQwen2(Qwen2ForCausalLM):
    """As `LogitsLlama`."""

    def forward(self, input_ids, attention_mask=None):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def write_base(folder: Path, model, name: str) -> None:
    """The Hugging Face folder that the files are made from; its weights are what a mapper must find."""
    randomise(model, name)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)


def export_dynamo(model, path: Path) -> None:
    sizes = {"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}}
    torch.onnx.export(
        model, (sample(),), path, dynamo=True, opset_version=18, external_data=False, verbose=False,
        input_names=["input_ids"], output_names=["logits"], dynamic_shapes=sizes,
    )


def export_torchscript(model, path: Path) -> None:
    names = ["input_ids", "attention_mask", "logits"]
    torch.onnx.export(
        model, (sample(), torch.ones_like(sample())), path, dynamo=False, opset_version=17, input_names=names[:2],
        output_names=names[2:], dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names},
    )


def sample() -> torch.Tensor:
    return random_ids("graph sample", 2, LENGTH, vocabulary=VOCABULARY)


def strip(path: Path) -> None:
    """Removes stack traces and comments: they hold paths of the exporting machine and most of the bytes."""
    model = onnx.load(path)
    graph = model.graph
    parts = [*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info]
    for part in [model, graph, *parts]:
        del part.metadata_props[:]
        part.doc_string = ""
    path.write_bytes(model.SerializeToString(deterministic=True))


def witness(path: Path, expected: dict, within: float) -> None:
    """onnx.checker must accept the file and ONNX Runtime agree at several shapes before it is kept."""
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for rows, length in [(1, 1), (1, 3), (2, 2), (2, LENGTH)]:
        ids = expected["input_ids"][:rows, :length]
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        feeds = {entry.name: given[entry.name].numpy() for entry in session.get_inputs()}
        got = torch.from_numpy(session.run(["logits"], feeds)[0]).float()
        # Attention is causal, so the logits of a prefix are a prefix of the logits.
        wanted = expected["logits"][:rows, :length]
        assert_same(got, wanted, f"{path.parent.name}: ONNX Runtime, B {rows} T {length}", within)


def finish(folder: Path, base: Path, oracle, within: float, reader: str) -> None:
    """Beside model.onnx: the config, what transformers says, and what a reader should do."""
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    expected = observe(oracle, random_ids(f"graph {folder.name}", 2, LENGTH, vocabulary=VOCABULARY))
    write_tensors(folder / "expected.safetensors", expected)
    witness(folder / "model.onnx", expected, within)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    inputs = [entry.name for entry in model.graph.input]
    write_json(folder / "facts.json", {"reader": reader, "base": base.name, "opsets": opsets, "inputs": inputs, "runtime_within": within})


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder / "model.onnx"


def write_exported(out: Path, base: Path, qwen: Path) -> None:
    accept = "accept: every weight equals the base's"
    path = fresh(out / "dynamo_op18")
    export_dynamo(LogitsLlama.from_pretrained(base).eval(), path)
    strip(path)
    finish(path.parent, base, load(base), 1e-4, accept)

    path = fresh(out / "dynamo_op18_qwen2")
    export_dynamo(LogitsQwen2.from_pretrained(qwen).eval(), path)
    strip(path)
    finish(path.parent, qwen, load(qwen), 1e-4, accept + ", biases too; lm_head is the embedding")

    path = fresh(out / "torchscript_op17_mask")
    export_torchscript(LogitsLlama.from_pretrained(base).eval(), path)
    strip(path)
    finish(path.parent, base, load(base), 1e-4, accept)

    path = fresh(out / "torchscript_op17_f16")
    export_torchscript(LogitsLlama.from_pretrained(base, attn_implementation="eager").half().eval(), path)
    strip(path)
    # Logits reach 5, where f16 steps by 0.004, and every layer rounds.
    finish(path.parent, base, load(base).half().float(), 5e-2, "accept: weights are the base's rounded to f16, logits those of f32 arithmetic")


def write_handmade(out: Path, base: Path) -> None:
    oracle = load(base)
    weights = {name: tensor.numpy() for name, tensor in oracle.state_dict().items()}
    path = fresh(out / "hand_op17")
    handmade.save(handmade.build(oracle.config, weights), path)
    finish(path.parent, base, oracle, 1e-4, "accept: weights stored [out, in] behind a Transpose")

    path = fresh(out / "hand_external")
    handmade.save(handmade.build(oracle.config, weights), path, external=True)
    finish(path.parent, base, oracle, 1e-4, "accept: weights in model.onnx.data; without that file refuse, naming it")

    path = fresh(out / "hand_int4")
    handmade.save(handmade.build(oracle.config, weights, bits=4), path)
    rounded = {name: torch.from_numpy(value) for name, value in handmade.dequantised(weights).items()}
    oracle.load_state_dict(rounded)
    finish(path.parent, base, oracle, 1e-3, "dequantise, or refuse naming MatMulNBits and `sapwood export`")


def write(out: Path) -> None:
    folder = out / "onnx"
    write_base(folder / "base", LlamaForCausalLM(LlamaConfig(**TINY, rms_norm_eps=1e-5, tie_word_embeddings=False)), "graph base")
    qwen = Qwen2Config(**TINY, rms_norm_eps=1e-6, use_sliding_window=False, tie_word_embeddings=True)
    write_base(folder / "base_qwen2", Qwen2ForCausalLM(qwen), "graph base qwen2")
    # The dynamo exporter notes every torchvision operator that it does not find.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The TorchScript exporter warns that it is old; that is why it is here.
        warnings.simplefilter("ignore")
        write_exported(folder, folder / "base", folder / "base_qwen2")
    write_handmade(folder, folder / "base")
