"""Shared by every golden script: fixed seeds, one thread, tiny models, files that never change between runs.

Oracle: PyTorch and transformers at the versions of requirements.txt, on the CPU, in f32, eager attention.
Never a command of its own: `all.py` runs the scripts.
"""

import json
import os
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

# Norm weights lie around one, the rest around zero; wide enough that logits are far from flat.
MATRIX_STD, VECTOR_STD = 0.2, 0.3


def generator(name: str) -> torch.Generator:
    """A source of chance that depends on the name alone, so scripts can run in any order."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def randomise(model: torch.nn.Module, name: str) -> None:
    """Fills every parameter from `name`'s generator, in the order of the sorted parameter names."""
    chance = generator(name)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=chance)
            if "norm" in key:
                parameter.copy_(1.0 + VECTOR_STD * noise)
            elif parameter.dim() == 1:
                parameter.copy_(VECTOR_STD * noise)
            else:
                parameter.copy_((VECTOR_STD if "embed" in key else MATRIX_STD) * noise)


def random_ids(name: str, *shape: int, vocabulary: int) -> torch.Tensor:
    """Token ids, i64, uniform over the vocabulary."""
    return torch.randint(0, vocabulary, shape, generator=generator(name))


def load(folder: Path) -> torch.nn.Module:
    """The model of a Hugging Face folder, its weights widened to f32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    # Weights mapped from a file are not aligned, and the matrix product then sums in another order.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


def observe(model: torch.nn.Module, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits [B, T, V] and the residual stream [L + 1, B, T, D].

    `hidden[0]` enters layer 0 and `hidden[i + 1]` leaves layer i; the last is before the final norm, unlike
    transformers' own `hidden_states`, whose last entry is after it.
    """
    hidden = []
    hooks = [model.model.layers[0].register_forward_pre_hook(lambda _, arguments: hidden.append(arguments[0]))]
    for layer in model.model.layers:
        hooks.append(layer.register_forward_hook(lambda _m, _a, out: hidden.append(first(out))))
    with torch.no_grad():
        logits = model(input_ids=input_ids, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return {"input_ids": input_ids, "logits": logits, "hidden": torch.stack(hidden)}


def first(output):
    """A decoder layer returns its hidden state alone or as the first of a tuple, by transformers version."""
    return output[0] if isinstance(output, tuple) else output


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Saves copies, so that tied or sliced tensors are allowed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, path)
    path.chmod(0o644)


def write_json(path: Path, facts: dict) -> None:
    """Stable indentation and a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def assert_same(got: torch.Tensor, expected: torch.Tensor, what: str, within: float = 0.0) -> None:
    """Stops the run rather than commit an oracle that disagrees with itself."""
    difference = (got - expected).abs().max().item()
    if not difference <= within:
        raise SystemExit(f"{what}: differs by {difference}, allowed {within}")
