"""The default base in plain PyTorch: a Llama decoder with Hugging Face's parameter names.

In: tokens [B, T]. Out: the mean cross-entropy (training) or logits [B, T, V].
It exists because it is faster on one core than the general implementation; `save` proves that the
folder it writes gives transformers the same logits.
"""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
    "torch_dtype": "float32",
}
D, L, HEADS, KV_HEADS, HEAD, WIDE, V = (
    CONFIG[key]
    for key in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
    )
)


def rope_tables(length):
    """cos and sin, each [length, HEAD], the two halves equal as in Llama."""
    inverse = CONFIG["rope_theta"] ** (-torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), inverse).repeat(1, 2)
    return angles.cos().float(), angles.sin().float()


def rotate(x, cos, sin):
    """RoPE on x [B, heads, T, HEAD]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = linear(D, HEADS * HEAD)
        self.k_proj = linear(D, KV_HEADS * HEAD)
        self.v_proj = linear(D, KV_HEADS * HEAD)
        self.o_proj = linear(HEADS * HEAD, D)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        q = rotate(self.q_proj(x).view(B, T, HEADS, HEAD).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(B, T, KV_HEADS, HEAD).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(B, T, KV_HEADS, HEAD).transpose(1, 2)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        # Attention's backward is faster in f32 than in bf16 on a CPU.
        q, k, v = (t.float() for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(B, T, HEADS * HEAD))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = linear(D, WIDE)
        self.up_proj = linear(D, WIDE)
        self.down_proj = linear(WIDE, D)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(D, eps=CONFIG["rms_norm_eps"])
        self.self_attn = Attention()
        self.post_attention_layernorm = nn.RMSNorm(D, eps=CONFIG["rms_norm_eps"])
        self.mlp = Mlp()

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(V, D)
        self.layers = nn.ModuleList(Layer() for _ in range(L))
        self.norm = nn.RMSNorm(D, eps=CONFIG["rms_norm_eps"])


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ weight.T` against labels, gradients made in the same pass.

    Rows are taken in pieces that fit a cache, so [rows, V] never exists as a whole.
    """

    ROWS = 512

    @staticmethod
    def forward(context, hidden, weight, labels):
        h, w = hidden.bfloat16(), weight.bfloat16()
        d_hidden, d_weight, total = torch.empty_like(hidden, dtype=torch.float32), torch.zeros_like(weight), 0.0
        for rows in torch.arange(len(h)).split(LinearCrossEntropy.ROWS):
            piece, label = slice(int(rows[0]), int(rows[-1]) + 1), labels[rows, None]
            logits = (h[piece] @ w.T).float()
            right = logits.gather(1, label)
            top = logits.amax(1, keepdim=True)
            odds = logits.sub_(top).exp_()
            mass = odds.sum(1, keepdim=True)
            total += (mass.log() + top - right).sum()
            odds.div_(mass).scatter_add_(1, label, torch.full_like(right, -1.0))
            d_logits = odds.bfloat16()
            d_hidden[piece] = d_logits @ w
            d_weight += d_logits.T @ h[piece]
        context.save_for_backward(d_hidden.div_(len(h)).to(hidden.dtype), d_weight.div_(len(h)))
        return total / len(h)

    @staticmethod
    def backward(context, gradient):
        d_hidden, d_weight = context.saved_tensors
        return gradient * d_hidden, gradient * d_weight, None


class Llama(nn.Module):
    """Token and output embedding are one matrix."""

    def __init__(self):
        super().__init__()
        self.model = Decoder()
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # The two projections that write to the residual stream start smaller, as in GPT-2.
                ends = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = CONFIG["initializer_range"] * ((2 * L) ** -0.5 if ends else 1.0)
                nn.init.normal_(weight, std=std)

    def hidden(self, tokens):
        """[B, T] -> [B, T, D], after the final norm."""
        x = self.model.embed_tokens(tokens)
        cos, sin = rope_tables(tokens.shape[1])
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def logits(self, tokens):
        """[B, T] -> [B, T, V]."""
        return F.linear(self.hidden(tokens), self.model.embed_tokens.weight)

    def forward(self, tokens, labels):
        """Mean cross-entropy in nats a token; matrix products in bf16, everything else in f32."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.hidden(tokens)
        return LinearCrossEntropy.apply(hidden.flatten(0, 1), self.model.embed_tokens.weight, labels.flatten())


def save(model, folder):
    """Writes config.json, model.safetensors, generation_config.json; proves them in transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().clone().contiguous() for name, weight in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    generation = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.8, "top_p": 0.95}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    prove(model, folder)


def prove(model, folder):
    """Raises unless transformers computes our logits from `folder`."""
    from transformers import LlamaForCausalLM

    other = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(0, V, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (model.logits(tokens) - other(tokens).logits).abs().max().item()
    # f32 sums in another order through six layers; logits are of the order of 10.
    if difference > 1e-3:
        raise ValueError(f"transformers differs by {difference:.2e} in the logits, expected under 1e-3")
    print(f"saved {folder}; transformers differs by {difference:.1e}", flush=True)
