"""Holds an adapter that `sapwood convert --to mlx` wrote against transformers and PEFT, by mlx-lm's logits.

python check_mlx_adapter.py BASE_HF MLX_DIR PEFT_DIR [TEXT]: prints the largest difference of logits over a text without and
with the adapter, and the bits per byte of both programs. Needs mlx (on Linux mlx[cpu]), mlx-lm, transformers and peft.
"""

import math
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_map
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TEXT = Path(sys.argv[4]).read_text()[:2000] if len(sys.argv) > 4 else (
    "The maintenance log of the east pump says that its bearing was warm at noon; the valve was "
    "closed, the filter changed, and the pressure fell to two bar before the shift ended."
)


def mlx_logits(base, adapter, ids):
    """Logits [T, V] by mlx-lm, in f32."""
    # transformers 5 writes it where mlx-lm does not look.
    rope = AutoConfig.from_pretrained(base).rope_parameters
    model, _ = load_model(Path(base), model_config={"rope_theta": rope["rope_theta"]})
    model.update(tree_map(lambda one: one.astype(mx.float32), model.parameters()))
    if adapter:
        model = load_adapters(model, adapter)
    return np.array(model(mx.array([ids]))[0])


def bits(ids, logits):
    """Bits per byte of all tokens but the first."""
    logs = torch.log_softmax(torch.tensor(logits).double(), -1)
    return -sum(logs[at, token].item() for at, token in enumerate(ids[1:])) / math.log(2) / len(TEXT.encode())


def main():
    base, adapter, peft_dir = sys.argv[1:4]
    mx.set_default_device(mx.cpu)
    ids = AutoTokenizer.from_pretrained(base)(TEXT, add_special_tokens=False)["input_ids"]
    bare, adapted = mlx_logits(base, None, ids), mlx_logits(base, adapter, ids)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        bare_torch = model(torch.tensor([ids])).logits[0].numpy()
        adapted_torch = PeftModel.from_pretrained(model, peft_dir)(torch.tensor([ids])).logits[0].numpy()
    print(f"{len(ids)} tokens")
    print(f"bare:            mlx-lm - torch {abs(bare - bare_torch).max():.5f}")
    print(f"adapted:         mlx-lm - torch {abs(adapted - adapted_torch).max():.5f}")
    print(f"adapted - bare:  torch {abs(adapted_torch - bare_torch).max():.4f}")
    for name, both in [("bare", (bare, bare_torch)), ("adapted", (adapted, adapted_torch))]:
        print(f"{name} bits per byte: mlx-lm {bits(ids, both[0]):.4f}, torch {bits(ids, both[1]):.4f}")


main()
