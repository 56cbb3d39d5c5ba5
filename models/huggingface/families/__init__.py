"""The Hugging Face model families that a ModelConfig can express: one file each, and one entry in this list."""

from __future__ import annotations

from models.huggingface.families import (
    cwm,
    deepseek_v2,
    deepseek_v3,
    ernie4_5,
    exaone,
    gemma,
    gemma2,
    gemma3,
    glm,
    glm4,
    gpt2,
    gpt_bigcode,
    gpt_neox,
    helium,
    internlm3,
    iquestcoder,
    llama,
    mamba2,
    ministral,
    mistral,
    mixtral,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    seed_oss,
    starcoder2,
    vaultgemma,
)

# in the order in which an export tries them: the simplest family that can express a config wins
FILES = (
    llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, gpt2, mamba2, mixtral, qwen3_moe, phi3, starcoder2, gpt_neox,
    gpt_bigcode, seed_oss, glm, glm4, ernie4_5, helium, ministral, cwm, vaultgemma, exaone, internlm3, iquestcoder,
    deepseek_v2, deepseek_v3,
)  # fmt: skip
FAMILIES = {file.FAMILY.model_type: file.FAMILY for file in FILES}

# what a ModelConfig lacks for other families that people ask for
MISSING = {
    "apertus": "the xIELU activation",
    "arcee": "the squared ReLU",
    "bloom": "ALiBi positions",
    "cohere": "parallel residuals, LayerNorm without bias and a scale of the logits",
    "cohere2": "parallel residuals, LayerNorm without bias, a scale of the logits and layers without positions",
    "dbrx": "LayerNorm without bias and clipped q, k, v",
    "ernie4_5_moe": "a first dense layer, several kinds of experts and a bias of the router",
    "exaone4": "norms after the blocks alone, and layers without positions",
    "falcon": "parallel residuals",
    "gemma3n": "per-layer embeddings, alternating updates and shared keys and values",
    "glm4_moe": "a first dense layer and a bias of the router",
    "gpt_neo": "biases of the outputs without those of q, k and v",
    "gpt_oss": "attention sinks, clamped activations and biases of experts",
    "gptj": "parallel residuals and a bias of the head",
    "granite": "multipliers of embeddings, residuals and logits",
    "granitemoe": "multipliers of embeddings, residuals and logits",
    "hunyuan_v1_dense": "norms of q and k after their rotation",
    "llama4": "chunked attention, layers without positions, and router weights on the experts' inputs",
    "minicpm3": "latent attention and multipliers of embeddings, residuals and logits",
    "mpt": "ALiBi positions",
    "nanochat": "the squared ReLU and norms without gains",
    "nemotron": "the squared ReLU and LayerNorm biases without those of products",
    "olmo": "LayerNorm without gain and bias",
    "olmo2": "norms after the blocks alone, and norms over all heads of q and k together",
    "olmo3": "norms after the blocks alone, and norms over all heads of q and k together",
    "olmoe": "norms over all heads of q and k together",
    "opt": "the ReLU and positions that begin at 2",
    "persimmon": "the squared ReLU and LayerNorms of q and k",
    "phi": "parallel residuals",
    "phimoe": "its own router, and LayerNorm biases without those of products",
    "qwen2_moe": "a gate of the shared experts",
    "qwen3_next": "linear attention and gated attention",
    "smollm3": "layers without positions",
    "stablelm": "LayerNorm biases without those of products",
}

__all__ = ["FAMILIES", "FILES", "MISSING"]
