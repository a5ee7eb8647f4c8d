"""The learning step: LoRA gradients, one I-LoRA step, twenty of them, and ten steps of AdamW.

Oracle: PyTorch autograd through transformers' Llama with PEFT's LoRA, torch.optim.AdamW and
torch.nn.utils.clip_grad_norm_ (requirements.txt), f32, CPU, one thread.
Command: python tools/golden/all.py --out tests/golden --only step
"""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from common import first, generator, load, randomise, random_ids, write_json, write_tensors

VOCABULARY, LENGTH = 96, 12
FRESH, REPLAY = 2, 2
# More tokens than a tile of attention has rows (64), more labels than a chunk of logits (256).
LONG_ROWS, LONG_LENGTH, LONG_LEAST = 4, 80, 70
RANK, ALPHA = 4, 8
LAYERS = [1, 2]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GAMMA, CLIP, RETAIN = 0.5, 1.0, 0.99
WHITENING, WHITENED_STEPS = 30.0, 3
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
TRAJECTORY_STEPS, TRAJECTORY_LR, WARM_UP_STEPS = 20, 1e-2, 5
VARIANTS = ["last", "all"]
GLOBAL_RANK, GLOBAL_ALPHA, BESIDE_STEPS, BESIDE_LR = 3, 5, 3, 1e-2
RIDGE, REFIT_RANK, REFIT_MODULES = 0.1, 5, ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]

FORMULAS = {
    "ce": "mean over t of -log softmax(logits[t])[labels[t + 1]] where labels[t + 1] != -100, over the whole group "
    "(fresh and replay apart); labels[t] is the token at t or -100, so labels[0] is never read",
    "distance": "mean over positions t < length (also those whose label is -100) of |h_fast - h_slow|^2 / |h_slow|^2, "
    "over the whole replay group; no gradient through slow",
    "h": {
        "last": "output of the last decoder layer, before the final norm (the primary)",
        "all": "mean over the adapted layers of each layer's own distance",
    },
    "divergence": "mean over labels of KL(softmax(logits of the base) || softmax(logits of fast)); no gradient through the base",
    "total": "0.5 * (ce_fresh + ce_replay) + gamma * distance",
    "clip": "gradients *= min(1, max_norm / (norm + 1e-6)); norm over all A and B together",
    "adamw": "p *= 1 - lr * wd; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; "
    "p -= lr / (1 - b1^k) * m / (sqrt(v) / sqrt(1 - b2^k) + eps)",
    "ema": "lambda_k = min(1 - 1 / (k + 1), retain); slow = lambda_k * slow + (1 - lambda_k) * fast, k from 1",
    "whitening": "C = sum of x x^T / |x|^2 over what a linear layer of the bare base reads at positions t < length, "
    "scaled to a mean eigenvalue of 1; S = (I + strength C)^(-1/2), scaled to a mean eigenvalue of 1; A = P S, and P is what AdamW "
    "moves along the clipped gradient of A times S",
    "lora": "y = W x + alpha / r * B (A x); A [r, in], B [out, r], no dropout",
}


def write_base(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    model = LlamaForCausalLM(config)
    randomise(model, "step base")
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)


class Learner:
    """A base with one PEFT LoRA on the top two layers; its factors under short, sorted names."""

    def __init__(self, base: Path, name: str, dtype: torch.dtype = torch.float32):
        spec = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, layers_to_transform=LAYERS, lora_dropout=0.0)
        self.model = get_peft_model(load(base), spec).to(dtype)
        self.llama = self.model.base_model.model
        named = {short(key): value for key, value in self.model.named_parameters() if "lora_" in key}
        self.factors = dict(sorted(named.items()))
        chance = generator(name)
        with torch.no_grad():
            for factor in self.factors.values():
                factor.copy_(0.15 * torch.randn(factor.shape, generator=chance))

    def run(self, batch: dict) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits [B, T, V] and outputs of every layer L x [B, T, D] before the final norm."""
        outputs = []
        hooks = [layer.register_forward_hook(lambda _m, _a, out: outputs.append(first(out))) for layer in self.llama.model.layers]
        attended = (torch.arange(batch["input_ids"].shape[1])[None] < batch["lengths"][:, None]).long()
        logits = self.model(input_ids=batch["input_ids"], attention_mask=attended, use_cache=False).logits
        for hook in hooks:
            hook.remove()
        return logits, outputs


def short(key: str) -> str:
    """PEFT's parameter name without its wrappers: model.layers.1.self_attn.q_proj.lora_A."""
    return key.removeprefix("base_model.model.").removesuffix(".default.weight")


def make_batch(name: str, rows: int, length: int = LENGTH, least: int = 7) -> dict:
    """Random tokens. Row 0: its first tokens are a masked prompt and its end is padding. Row 1: whole, unmasked."""
    chance = generator(name + " shape")
    ids = random_ids(name, rows, length, vocabulary=VOCABULARY)
    lengths = torch.full((rows,), length)
    lengths[0] = torch.randint(least, length, (1,), generator=chance)[0]
    prompt = int(torch.randint(2, 5, (1,), generator=chance))
    labels = ids.clone()
    labels[0, :prompt] = -100
    for row in range(rows):
        ids[row, lengths[row] :] = 0
        labels[row, lengths[row] :] = -100
    return {"input_ids": ids, "labels": labels, "lengths": lengths}


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def distance(fast: torch.Tensor, slow: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    real = torch.arange(LENGTH)[None] < lengths[:, None]
    return ((fast[real] - slow[real]).square().sum(-1) / slow[real].square().sum(-1)).mean()


def losses(fast: Learner, slow: Learner, fresh: dict, replay: dict, variant: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        _, slow_layers = slow.run(replay)
    fresh_logits, fresh_layers = fast.run(fresh)
    replay_logits, fast_layers = fast.run(replay)
    apart = {
        "last": lambda: distance(fast_layers[-1], slow_layers[-1], replay["lengths"]),
        "all": lambda: torch.stack([distance(fast_layers[i], slow_layers[i], replay["lengths"]) for i in LAYERS]).mean(),
    }[variant]()
    ce_fresh, ce_replay = cross_entropy(fresh_logits, fresh["labels"]), cross_entropy(replay_logits, replay["labels"])
    total = 0.5 * (ce_fresh + ce_replay) + GAMMA * apart
    taps = {"fresh.hidden_tap": fresh_layers[LAYERS[0] - 1], "replay.hidden_tap": fast_layers[LAYERS[0] - 1]}
    return {"ce_fresh": ce_fresh, "ce_replay": ce_replay, "distance": apart, "total": total} | taps


def gradients(learner: Learner, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    for factor in learner.factors.values():
        factor.grad = None
    loss.backward()
    return {name: factor.grad.clone() for name, factor in learner.factors.items()}


def clip_and_update(learner: Learner, optimiser: torch.optim.AdamW) -> torch.Tensor:
    norm = torch.nn.utils.clip_grad_norm_(learner.factors.values(), CLIP, foreach=False)
    optimiser.step()
    return norm


def average(slow: Learner, fast: Learner, step: int) -> float:
    retain = min(1 - 1 / (step + 1), RETAIN)
    with torch.no_grad():
        for name, factor in slow.factors.items():
            factor.copy_(retain * factor + (1 - retain) * fast.factors[name])
    return retain


def prefixed(prefix: str, tensors: dict) -> dict:
    return {f"{prefix}.{name}": value.detach().clone() for name, value in tensors.items()}


def write_gradients(base: Path, file: Path) -> None:
    learner, batch = Learner(base, "step fast"), make_batch("step gradients", FRESH)
    logits, layers = learner.run(batch)
    loss = cross_entropy(logits, batch["labels"])
    found = gradients(learner, loss)
    tensors = batch | {"loss": loss, "logits": logits, "hidden_tap": layers[LAYERS[0] - 1]}
    write_tensors(file, tensors | prefixed("parameter", learner.factors) | prefixed("gradient", found))


def divergence(fast: Learner, batch: dict) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """KL of the base's predictions and fast's on every label; and fast's layers."""
    with torch.no_grad(), fast.model.disable_adapter():
        truth, _ = fast.run(batch)
    logits, layers = fast.run(batch)
    labelled = batch["labels"][:, 1:] != -100
    own, base = (part[:, :-1][labelled].log_softmax(-1) for part in (logits, truth))
    apart = torch.nn.functional.kl_div(own, base, log_target=True, reduction="sum") / labelled.sum()
    return apart, layers


def write_anchor(folder: Path) -> dict:
    """The divergence and its gradient."""
    fast, batch = Learner(folder / "base", "step fast"), make_batch("step anchor", REPLAY)
    apart, layers = divergence(fast, batch)
    found = gradients(fast, apart)
    tensors = batch | {"divergence": apart, "hidden_tap": layers[LAYERS[0] - 1]}
    write_tensors(folder / "anchor.safetensors", tensors | prefixed("parameter", fast.factors) | prefixed("gradient", found))
    return {"divergence": rounded(apart)}


def write_long(folder: Path) -> dict:
    """Cross-entropy and divergence of long blocks, with their gradients: what short ones never reach."""
    fast, batch = Learner(folder / "base", "step fast"), make_batch("step long", LONG_ROWS, LONG_LENGTH, LONG_LEAST)
    labelled = int((batch["labels"][:, 1:] != -100).sum())
    if labelled <= 256 or int(batch["lengths"].min()) <= 64:
        raise SystemExit(f"{labelled} labels, lengths {batch['lengths']}: no second tile or chunk, so it tests nothing")
    logits, layers = fast.run(batch)
    loss = cross_entropy(logits, batch["labels"])
    found = prefixed("gradient", gradients(fast, loss))
    apart, _ = divergence(fast, batch)
    found |= prefixed("anchor", gradients(fast, apart))
    tensors = batch | {"loss": loss, "divergence": apart, "hidden_tap": layers[LAYERS[0] - 1]}
    write_tensors(folder / "long.safetensors", tensors | prefixed("parameter", fast.factors) | found)
    return {"labels": labelled, "loss": rounded(loss), "divergence": rounded(apart)}


def read_rows(learner: Learner, batch: dict) -> dict[str, torch.Tensor]:
    """What every lora_A reads at real positions, [N, in] in f64."""
    modules = {short(f"{name}.lora_A.default.weight"): module for name, module in learner.model.named_modules() if hasattr(module, "lora_A")}
    read = {}
    hooks = [module.register_forward_pre_hook(lambda _m, given, name=name: read.update({name: given[0]})) for name, module in modules.items()]
    with torch.no_grad():
        learner.run(batch)
    for hook in hooks:
        hook.remove()
    real = torch.arange(LENGTH)[None] < batch["lengths"][:, None]
    return {name: rows[real].double() for name, rows in read.items()}


def moments_of(rows: torch.Tensor) -> torch.Tensor:
    """C: sum of x x^T / |x|^2, scaled to a mean eigenvalue of 1."""
    unit = torch.nn.functional.normalize(rows, dim=-1)
    moments = unit.T @ unit
    return moments * (len(moments) / moments.trace())


def roots(learner: Learner, batch: dict) -> dict[str, torch.Tensor]:
    """S of every lora_A, by the eigenvectors of C in f64."""
    with learner.model.disable_adapter():
        return {name: inverse_root(rows) for name, rows in read_rows(learner, batch).items()}


def inverse_root(rows: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(moments_of(rows))
    scales = (1 + WHITENING * values).rsqrt()
    return ((vectors * (scales / scales.mean())) @ vectors.T).float()


def write_whitening(folder: Path) -> dict:
    """Steps on fresh blocks alone, A moving in inputs whitened by other text; it begins with A S."""
    fast, text = Learner(folder / "base", "step fast"), make_batch("step whitening", REPLAY)
    root, moved = roots(fast, text), {}
    tensors = prefixed("text", text | {"hidden_tap": fast.run(text)[1][LAYERS[0] - 1]}) | prefixed("parameter", fast.factors)
    for name, factor in fast.factors.items():
        moved[name] = factor.detach().clone()
        with torch.no_grad():
            factor.copy_(factor @ root[name] if name in root else factor)
    tensors |= prefixed("begun", fast.factors)
    optimiser = torch.optim.AdamW(moved.values(), foreach=False, **ADAMW)
    for step in range(1, WHITENED_STEPS + 1):
        batch = make_batch(f"step whitened {step}", FRESH)
        logits, layers = fast.run(batch)
        tensors |= prefixed(f"fresh{step}", batch | {"hidden_tap": layers[LAYERS[0] - 1]})
        gradients(fast, cross_entropy(logits, batch["labels"]))
        torch.nn.utils.clip_grad_norm_(fast.factors.values(), CLIP, foreach=False)
        for name, factor in fast.factors.items():
            moved[name].grad = factor.grad @ root[name] if name in root else factor.grad
        optimiser.step()
        with torch.no_grad():
            for name, factor in fast.factors.items():
                factor.copy_(moved[name] @ root[name] if name in root else moved[name])
    write_tensors(folder / "whitening.safetensors", tensors | prefixed("after", fast.factors))
    return {"strength": WHITENING, "steps": WHITENED_STEPS}


def one_step(base: Path, variant: str) -> dict[str, torch.Tensor]:
    fast, slow = Learner(base, "step fast"), Learner(base, "step slow")
    fresh, replay = make_batch("step fresh", FRESH), make_batch("step replay", REPLAY)
    optimiser = torch.optim.AdamW(fast.factors.values(), foreach=False, **ADAMW)
    before = prefixed("fast_before", fast.factors) | prefixed("slow_before", slow.factors)
    parts = losses(fast, slow, fresh, replay, variant)
    found = gradients(fast, parts["total"])
    norm = clip_and_update(fast, optimiser)
    retain = average(slow, fast, 1)
    shared = prefixed("fresh", fresh) | prefixed("replay", replay) | before
    shared |= {key: parts.pop(key) for key in ["fresh.hidden_tap", "replay.hidden_tap"]}
    own = parts | {"gradient_norm": norm, "retain": torch.tensor(retain)} | prefixed("gradient", found)
    own |= prefixed("fast_after", fast.factors) | prefixed("slow_after", slow.factors)
    return shared | prefixed(variant, own)


def write_step(folder: Path) -> dict:
    tensors = {}
    for variant in VARIANTS:
        tensors |= one_step(folder / "base", variant)
    write_tensors(folder / "ilora_step.safetensors", tensors)
    parts = ["ce_fresh", "ce_replay", "distance", "total", "gradient_norm"]
    return {variant: {part: rounded(tensors[f"{variant}.{part}"]) for part in parts} for variant in VARIANTS}


def refitted(changes: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """X of rank r that minimises tr((X - D) C (X - D)^T) + ridge |X|^2, by Cholesky and a dense SVD."""
    root = torch.linalg.cholesky(moments + RIDGE * torch.eye(len(moments), dtype=torch.float64))
    target = torch.linalg.solve_triangular(root, (changes @ moments).T, upper=False).T
    u, s, vh = torch.linalg.svd(target, full_matrices=False)
    kept = (u[:, :REFIT_RANK] * s[:REFIT_RANK]) @ vh[:REFIT_RANK]
    return torch.linalg.solve_triangular(root, kept, upper=False, left=False)


def write_refit(folder: Path) -> dict:
    """The own change of fast and slow beside another global adapter, both with one input space."""
    fast, slow, text = Learner(folder / "base", "step fast"), Learner(folder / "base", "step slow"), make_batch("step refit", REPLAY)
    after = Beside(folder / "base", "step fast").fixed
    rows = read_rows(slow, text)
    tensors = prefixed("text", text | {"hidden_tap": slow.run(text)[1][LAYERS[0] - 1]}) | prefixed("next", after)
    tensors |= prefixed("fast", fast.factors) | prefixed("slow", slow.factors)

    def product(factors: dict, name: str, scale: float) -> torch.Tensor:
        return scale * factors[name + ".lora_B"].double() @ factors[name + ".lora_A"].double()

    for name in (f"model.layers.{LAYERS[0]}.{module}" for module in REFIT_MODULES):
        given = product(after, name, GLOBAL_ALPHA / GLOBAL_RANK)
        changes = [product(learner.factors, name, ALPHA / RANK) - given for learner in (fast, slow)]
        own = refitted(torch.cat(changes), moments_of(rows[name + ".lora_A"])).float()
        tensors |= {f"own_{who}.{name}": part.contiguous() for who, part in zip(["fast", "slow"], own.chunk(2))}
    write_tensors(folder / "refit.safetensors", tensors)
    return {"ridge": RIDGE, "rank": REFIT_RANK, "modules": REFIT_MODULES}


class Beside(Learner):
    """A learner over a second adapter, PEFT's own way: both are in force, and only the learner's has gradients."""

    def __init__(self, base: Path, name: str):
        super().__init__(base, name)
        spec = LoraConfig(r=GLOBAL_RANK, lora_alpha=GLOBAL_ALPHA, target_modules=TARGETS, layers_to_transform=LAYERS, lora_dropout=0.0)
        self.model.add_adapter("global", spec)
        self.model.base_model.set_adapter(["default", "global"])
        named = {key: value for key, value in self.model.named_parameters() if ".global." in key}
        self.fixed = {short(key.replace(".global.", ".default.")): value for key, value in sorted(named.items())}
        chance = generator("step global")
        with torch.no_grad():
            for factor in self.fixed.values():
                factor.requires_grad_(False)
                factor.copy_(0.15 * torch.randn(factor.shape, generator=chance))


def write_beside(folder: Path) -> dict:
    """I-LoRA steps of an adapter beside a global one that stays as it is."""
    fast, slow = Beside(folder / "base", "step fast"), Beside(folder / "base", "step slow")
    optimiser = torch.optim.AdamW(fast.factors.values(), foreach=False, **(ADAMW | {"lr": BESIDE_LR}))
    tensors = prefixed("global", fast.fixed) | prefixed("fast_before", fast.factors) | prefixed("slow_before", slow.factors)
    for step in range(1, BESIDE_STEPS + 1):
        fresh, replay = make_batch(f"beside fresh {step}", FRESH), make_batch(f"beside replay {step}", REPLAY)
        parts = losses(fast, slow, fresh, replay, "last")
        gradients(fast, parts["total"])
        norm = clip_and_update(fast, optimiser)
        average(slow, fast, step)
        tensors |= {f"{name}{step}": value for name, value in {"total": parts["total"], "gradient_norm": norm}.items()}
        tensors |= prefixed(f"fresh{step}", fresh | {"hidden_tap": parts["fresh.hidden_tap"]})
        tensors |= prefixed(f"replay{step}", replay | {"hidden_tap": parts["replay.hidden_tap"]})
    write_tensors(folder / "beside.safetensors", tensors | prefixed("fast_after", fast.factors) | prefixed("slow_after", slow.factors))
    return {"rank": GLOBAL_RANK, "alpha": GLOBAL_ALPHA, "steps": BESIDE_STEPS, "learning_rate": BESIDE_LR}


def rounded(value: torch.Tensor) -> float:
    return float(f"{value.item():.6g}")


def trajectory(base: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Twenty steps; slow starts as a copy of fast, as in a real job."""
    fast, slow = Learner(base, "trajectory", dtype), Learner(base, "trajectory", dtype)
    optimiser = torch.optim.AdamW(fast.factors.values(), foreach=False, **(ADAMW | {"lr": TRAJECTORY_LR}))
    start, rows = prefixed("start", fast.factors), []
    for step in range(1, TRAJECTORY_STEPS + 1):
        fresh, replay = make_batch(f"fresh {step}", FRESH), make_batch(f"replay {step}", REPLAY)
        parts = losses(fast, slow, fresh, replay, "last")
        gradients(fast, parts["total"])
        optimiser.param_groups[0]["lr"] = TRAJECTORY_LR * min(1.0, step / WARM_UP_STEPS)
        norm = clip_and_update(fast, optimiser)
        average(slow, fast, step)
        rows.append(parts | prefixed("fresh", fresh) | prefixed("replay", replay) | {"gradient_norm": norm})
    stacked = {name: torch.stack([row[name].detach() for row in rows]) for name in rows[0]}
    return stacked | start | prefixed("fast_end", fast.factors) | prefixed("slow_end", slow.factors)


def relative(got: dict, expected: dict, prefix: str) -> float:
    """Norm of the difference over the norm, of all tensors whose name starts with `prefix`."""
    names = [name for name in got if name.startswith(prefix)]
    joined = [torch.cat([tensors[name].double().flatten() for name in names]) for tensors in (got, expected)]
    return float(f"{((joined[0] - joined[1]).norm() / joined[1].norm()).item():.1e}")


def write_trajectory(folder: Path) -> dict:
    # Not f64 throughout: transformers keeps RMSNorm, RoPE and softmax in f32.
    got, exact = trajectory(folder / "base", torch.float32), trajectory(folder / "base", torch.float64)
    write_tensors(folder / "trajectory.safetensors", got)
    floor = {name: relative(got, exact, name) for name in ["total", "ce_fresh", "ce_replay", "distance", "fast_end", "slow_end"]}
    return {"f32_against_f64": floor, "first_total": rounded(got["total"][0]), "last_total": rounded(got["total"][-1])}


def write_adamw(folder: Path) -> None:
    """Ten steps on two tensors; one gradient is zero throughout a row, so that decay alone acts there."""
    settings, steps = dict(lr=3e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01), 10
    chance = generator("adamw")
    parameters = {name: torch.randn(shape, generator=chance) for name, shape in [("a", (5, 7)), ("b", (3,))]}
    tensors = prefixed("start", parameters)
    optimiser = torch.optim.AdamW(parameters.values(), foreach=False, **settings)
    history = {name: [] for name in parameters}
    given = {name: torch.randn(steps, *value.shape, generator=chance) for name, value in parameters.items()}
    given["a"][:, 2] = 0.0
    for step in range(steps):
        for name, parameter in parameters.items():
            parameter.grad = given[name][step].clone()
        optimiser.step()
        for name, parameter in parameters.items():
            history[name].append(parameter.clone())
    after = {f"after.{name}": torch.stack(values) for name, values in history.items()}
    moments = {}
    for name, parameter in parameters.items():
        moments |= {f"m.{name}": optimiser.state[parameter]["exp_avg"], f"v.{name}": optimiser.state[parameter]["exp_avg_sq"]}
    write_tensors(folder / "adamw.safetensors", tensors | prefixed("gradient", given) | after | moments)
    write_json(folder / "adamw.json", settings | {"steps": steps, "formula": FORMULAS["adamw"]})


def write(out: Path) -> None:
    folder = out / "step"
    write_base(folder / "base")
    write_gradients(folder / "base", folder / "gradients.safetensors")
    # What families add to a layer: norms of the heads, biases everywhere.
    for name in ["qwen3", "llama_biased"]:
        write_gradients(out / "families" / name, out / "families" / name / "gradients.safetensors")
    anchor = write_anchor(folder)
    common = {"rank": RANK, "alpha": ALPHA, "targets": TARGETS, "layers": LAYERS, "tap": LAYERS[0], "formulas": FORMULAS}
    common |= {"gamma": GAMMA, "clip_norm": CLIP, "retain": RETAIN, "betas": ADAMW["betas"], "eps": ADAMW["eps"]}
    common |= {"weight_decay": ADAMW["weight_decay"]}
    step = {"learning_rate": ADAMW["lr"], "k": 1, "variants": write_step(folder), "anchor": anchor, "whitening": write_whitening(folder)}
    step["long"] = write_long(folder)
    step["beside"] = write_beside(folder)
    step["refit"] = write_refit(folder)
    write_json(folder / "ilora_step.json", common | step)
    rate = {"learning_rate": TRAJECTORY_LR, "warm_up_steps": WARM_UP_STEPS, "learning_rate_at_k": "lr * min(1, k / warm_up_steps)"}
    write_json(folder / "trajectory.json", common | rate | {"steps": TRAJECTORY_STEPS} | write_trajectory(folder))
    write_adamw(folder)
