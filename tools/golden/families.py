"""Logits and residual stream of one tiny random model per supported config family.

Oracle: transformers' LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Phi3ForCausalLM
(requirements.txt), f32, CPU.
Command: python tools/golden/all.py --out tests/golden --only families
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config,
    Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)

from common import assert_same, generator, load, observe, random_ids, randomise, write_json, write_tensors

VOCABULARY = 96
TINY = dict(vocab_size=VOCABULARY, num_hidden_layers=3, max_position_embeddings=128, bos_token_id=1)


def rope(theta: float, **scaling) -> dict:
    return {"rope_type": "default", "rope_theta": theta} | scaling


# Head width 16 and an original length of 40 put one frequency of llama3's scaling in each of its three regimes
# (kept, blended, divided by 8) with wavelengths short enough to show at T 24.
LLAMA3_ROPE = rope(
    500_000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=40
)

# name: (config class, model class, T, style of config.json, settings)
FAMILIES = {
    "llama2": (LlamaConfig, LlamaForCausalLM, 12, 4, dict(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=4, eos_token_id=2,
        rms_norm_eps=1e-5, tie_word_embeddings=False, rope_parameters=rope(10_000.0))),
    "llama3": (LlamaConfig, LlamaForCausalLM, 24, 4, dict(
        hidden_size=32, intermediate_size=80, num_attention_heads=2, num_key_value_heads=1, eos_token_id=[2, 3, 7],
        rms_norm_eps=1e-5, tie_word_embeddings=False, rope_parameters=LLAMA3_ROPE)),
    "llama_linear": (LlamaConfig, LlamaForCausalLM, 24, 5, dict(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, eos_token_id=2,
        rms_norm_eps=1e-6, tie_word_embeddings=False, rope_parameters=rope(10_000.0, rope_type="linear", factor=2.0))),
    "mistral": (MistralConfig, MistralForCausalLM, 12, 4, dict(
        hidden_size=32, intermediate_size=72, num_attention_heads=4, num_key_value_heads=2, eos_token_id=2,
        rms_norm_eps=1e-5, sliding_window=64, tie_word_embeddings=False, rope_parameters=rope(1_000_000.0))),
    "mistral_no_window": (MistralConfig, MistralForCausalLM, 9, 5, dict(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=1, eos_token_id=2,
        rms_norm_eps=1e-5, sliding_window=None, tie_word_embeddings=False, rope_parameters=rope(10_000.0))),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, 12, 5, dict(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, eos_token_id=2,
        rms_norm_eps=1e-6, use_sliding_window=False, tie_word_embeddings=True, rope_parameters=rope(1_000_000.0))),
    "smollm2": (LlamaConfig, LlamaForCausalLM, 12, 4, dict(
        hidden_size=48, intermediate_size=64, num_attention_heads=6, num_key_value_heads=2, eos_token_id=2,
        rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=rope(100_000.0))),
    "llama_biased": (LlamaConfig, LlamaForCausalLM, 12, 5, dict(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, eos_token_id=2,
        rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, rope_parameters=rope(10_000.0))),
    # Heads that are wider together than the stream, as Qwen3 has them.
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, 12, 5, dict(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, eos_token_id=2,
        rms_norm_eps=1e-6, use_sliding_window=False, tie_word_embeddings=True, rope_parameters=rope(1_000_000.0))),
    "phi3": (Phi3Config, Phi3ForCausalLM, 12, 4, dict(
        hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, eos_token_id=2, pad_token_id=0,
        rms_norm_eps=1e-5, sliding_window=None, tie_word_embeddings=False, rope_parameters=rope(10_000.0))),
    "head_dim": (MistralConfig, MistralForCausalLM, 12, 5, dict(
        hidden_size=40, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, eos_token_id=2,
        rms_norm_eps=1e-5, sliding_window=None, tie_word_embeddings=False, rope_parameters=rope(1_000_000.0))),
}


def in_style_of_4(config: dict) -> dict:
    """The same config as transformers 4 wrote it: rope_theta, rope_scaling and torch_dtype at the top level.

    Older files also lack a head_dim that follows from the rest, and call the kind of linear scaling `type`.
    """
    config = dict(config)
    scaling = dict(config.pop("rope_parameters"))
    config["rope_theta"] = scaling.pop("rope_theta")
    if config.get("head_dim", 0) * config["num_attention_heads"] == config["hidden_size"]:
        del config["head_dim"]
    if scaling["rope_type"] == "linear":
        scaling["type"] = scaling.pop("rope_type")
    config["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    config["transformers_version"] = "4.46.0"
    return dict(sorted(config.items()))


def write_configs(folder: Path, style: int) -> None:
    """config.json in `style`, and the same facts in the other style as config_alternate.json."""
    written = json.loads((folder / "config.json").read_text())
    styles = {5: written, 4: in_style_of_4(written)}
    write_json(folder / "config_alternate.json", styles[9 - style])
    write_json(folder / "config.json", styles[style])


def save(model, folder: Path, style: int) -> None:
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_configs(folder, style)


def write_expected(folder: Path, length: int) -> dict:
    expected = observe(load(folder), random_ids(f"ids {folder.name}", 2, length, vocabulary=VOCABULARY))
    write_tensors(folder / "expected.safetensors", expected)
    return expected


def check_alternate(folder: Path, expected: dict) -> None:
    """Both config styles must mean the same model to transformers."""
    primary, alternate = folder / "config.json", folder / "config_alternate.json"
    kept = primary.read_bytes()
    primary.write_bytes(alternate.read_bytes())
    again = observe(load(folder), expected["input_ids"])["logits"]
    primary.write_bytes(kept)
    assert_same(again, expected["logits"], f"{folder.name}: logits under the alternate config")


def write_family(folder: Path, config_type, model_type, length: int, style: int, settings: dict):
    model = model_type(config_type(**TINY, **settings)).eval()
    randomise(model, folder.name)
    save(model, folder, style)
    expected = write_expected(folder, length)
    # The model in memory runs torch's fused attention, the loaded one the eager kind: a second opinion in f32.
    fused = observe(model, expected["input_ids"])["logits"]
    assert_same(fused, expected["logits"], f"{folder.name}: logits of fused attention", within=2e-5)
    check_alternate(folder, expected)
    return model


def write_narrow(folder: Path, model, dtype: torch.dtype) -> None:
    """The weights rounded to 16 bits; expected logits are those of the rounded weights, widened to f32."""
    save(model.to(dtype), folder, style=4)
    write_expected(folder, 12)


def write_sharded(folder: Path, source: Path) -> None:
    """llama2's weights in two shards: layer 0 and the embedding, then the rest."""
    weights = load_file(source / "model.safetensors")
    in_first = [name for name in weights if ".layers.0." in name or "embed" in name]
    shards = {name: f"model-0000{1 if name in in_first else 2}-of-00002.safetensors" for name in sorted(weights)}
    folder.mkdir(parents=True, exist_ok=True)
    for shard in sorted(set(shards.values())):
        save_file({name: weights[name] for name in shards if shards[name] == shard}, folder / shard, {"format": "pt"})
        (folder / shard).chmod(0o644)
    total_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total_bytes}, "weight_map": shards})
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    expected = load_file(source / "expected.safetensors")
    assert_same(observe(load(folder), expected["input_ids"])["logits"], expected["logits"], "llama2 sharded: logits")
    (folder / "expected.safetensors").write_bytes((source / "expected.safetensors").read_bytes())


def write_own_head(folder: Path, source: Path) -> None:
    """smollm2 with an output layer of its own beside a config that says tied: transformers keeps both."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(source / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = 0.2 * torch.randn(embedding.shape, generator=generator(folder.name))
    write_tensors(folder / "model.safetensors", weights)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    expected = load_file(source / "expected.safetensors")
    logits = write_expected(folder, 12)["logits"]
    if (logits - expected["logits"]).abs().max() < 1:
        raise SystemExit("smollm2_own_head: the stored output layer is not used")


def write(out: Path) -> None:
    families = out / "families"
    for name, case in FAMILIES.items():
        model = write_family(families / name, *case)
        if name == "llama2":
            write_sharded(families / "llama2_sharded", families / name)
            write_narrow(families / "llama2_f16", model, torch.float16)
            randomise(model.float(), name)
            write_narrow(families / "llama2_bf16", model, torch.bfloat16)
        if name == "smollm2":
            write_own_head(families / "smollm2_own_head", families / name)
