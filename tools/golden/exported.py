"""A file that `sapwood export` wrote, as it is, and ONNX Runtime's logits of it.

Oracle: onnx.checker (full check) and ONNX Runtime on the CPU (requirements.txt).
Not part of all.py: it needs a model folder, `sapwood export HF_DIR MODEL_DIR` of tests/golden/step/base
(with tests/golden/tokenizer/tokenizer.json beside it).
Command: python tools/golden/exported.py MODEL_DIR --out tests/golden/exported
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy
import onnx
import onnxruntime
from safetensors.numpy import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    path = arguments.model / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    vocabulary = json.loads((arguments.model / "config.json").read_text())["vocab_size"]
    tensors = {}
    for rows, length in [(1, 1), (1, 2), (2, 3), (2, 9)]:
        ids = (numpy.arange(rows * length, dtype=numpy.int64) * 37 + 5 * length).reshape(rows, length) % vocabulary
        tensors[f"input_ids.{rows}x{length}"] = ids
        tensors[f"logits.{rows}x{length}"] = session.run(["logits"], {"input_ids": ids})[0]
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, arguments.out / "expected.safetensors")
    shutil.copy(path, arguments.out / "model.onnx")
    facts = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
