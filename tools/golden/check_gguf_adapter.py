"""Holds an adapter that `sapwood convert --to gguf` wrote against transformers and PEFT, by llama.cpp's logits.

python check_gguf_adapter.py BASE.gguf ADAPTER.gguf PEFT_DIR [TEXT]: prints the largest difference of logits over a text
without and with the adapter, and the bits per byte of both programs. Needs llama-cpp-python, transformers and peft.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from llama_cpp import Llama
from peft import PeftModel
from transformers import AutoModelForCausalLM

TEXT = open(sys.argv[4]).read()[:2000] if len(sys.argv) > 4 else (
    "The maintenance log of the east pump says that its bearing was warm at noon; the valve was "
    "closed, the filter changed, and the pressure fell to two bar before the shift ended."
)


def llama(base, adapter=None):
    """Ids and logits of the text by llama.cpp."""
    model = Llama(base, lora_path=adapter, n_ctx=1024, logits_all=True, verbose=False)
    ids = model.tokenize(TEXT.encode(), add_bos=False)
    model.eval(ids)
    return ids, np.array(model.scores[: len(ids)])


def bits(ids, logits):
    """Bits per byte of all tokens but the first."""
    logs = torch.log_softmax(torch.tensor(logits).double(), -1)
    return -sum(logs[at, token].item() for at, token in enumerate(ids[1:])) / math.log(2) / len(TEXT.encode())


def main():
    base, adapter, peft_dir = sys.argv[1:4]
    ids, bare = llama(base)
    _, adapted = llama(base, adapter)
    tokens = torch.tensor([ids])
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(
            Path(base).parent, gguf_file=Path(base).name, dtype=torch.float32
        )
        bare_torch = model(tokens).logits[0].numpy()
        adapted_torch = PeftModel.from_pretrained(model, peft_dir)(tokens).logits[0].numpy()
    print(f"{len(ids)} tokens")
    print(f"bare:            llama.cpp - torch {abs(bare - bare_torch).max():.4f}")
    print(f"adapted:         llama.cpp - torch {abs(adapted - adapted_torch).max():.4f}")
    print(f"adapted - bare:  torch {abs(adapted_torch - bare_torch).max():.4f}")
    for name, both in [("bare", (bare, bare_torch)), ("adapted", (adapted, adapted_torch))]:
        print(f"{name} bits per byte: llama.cpp {bits(ids, both[0]):.4f}, torch {bits(ids, both[1]):.4f}")


main()
