"""Is an exported model folder a valid ONNX file with the logits of transformers?

Oracle: onnx.checker (full check), ONNX Runtime on the CPU, transformers in f32 (requirements.txt).
MODEL_DIR holds model.onnx with the input `input_ids` [B, T] i64 and the output `logits` [B, T, V].
Command: python tools/golden/check_onnx.py MODEL_DIR HF_DIR [--within 1e-3]
Exit code 1 when the file is invalid or a logit differs by more than the tolerance.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import torch

from common import load, random_ids

SHAPES = [(rows, length) for rows in (1, 2) for length in (1, 2, 3, 9)]


def describe(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    types = Counter(onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer)
    print(f"opsets {opsets}, {len(model.graph.node)} nodes, initialisers {dict(sorted(types.items()))}")
    for label, values in [("input", model.graph.input), ("output", model.graph.output)]:
        for value in values:
            sizes = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
            print(f"{label} {value.name} {onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)} {sizes}")
    print("metadata", {entry.key: entry.value for entry in model.metadata_props})


def largest_difference(session, model, rows: int, length: int) -> float:
    input_ids = random_ids(f"check {rows} {length}", rows, length, vocabulary=model.config.vocab_size)
    got = torch.from_numpy(session.run(["logits"], {"input_ids": input_ids.numpy()})[0]).float()
    with torch.no_grad():
        wanted = model(input_ids=input_ids, use_cache=False).logits
    if got.shape != wanted.shape:
        print(f"B {rows} T {length}: expected shape {tuple(wanted.shape)}, ONNX Runtime gives {tuple(got.shape)}")
        return float("inf")
    difference = (got - wanted).abs().max().item()
    agree = (got.argmax(-1) == wanted.argmax(-1)).float().mean().item()
    print(f"B {rows} T {length}: max abs difference {difference:.3e}, same first choice {agree:.1%}")
    return difference


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("hugging_face", type=Path)
    parser.add_argument("--within", type=float, default=1e-3, help="largest absolute difference of a logit")
    arguments = parser.parse_args()
    path = arguments.model / "model.onnx"
    describe(path)
    onnx.checker.check_model(str(path), full_check=True)
    print("onnx.checker: valid")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = load(arguments.hugging_face)
    differences = [largest_difference(session, model, rows, length) for rows, length in SHAPES]
    # Written so that a NaN fails.
    good = all(difference <= arguments.within for difference in differences)
    print("within" if good else "over", f"{arguments.within:.1e}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
