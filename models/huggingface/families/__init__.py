"""The Hugging Face model families that a ModelConfig can express: one file each, and one entry in this list."""

from __future__ import annotations

from models.huggingface.families import (
    arcee,
    cohere,
    cohere2,
    cwm,
    deepseek_v2,
    deepseek_v3,
    ernie4_5,
    exaone,
    exaone4,
    falcon,
    gemma,
    gemma2,
    gemma3,
    glm,
    glm4,
    gpt2,
    gpt_bigcode,
    gpt_neox,
    gpt_oss,
    granite,
    helium,
    internlm3,
    iquestcoder,
    llama,
    mamba2,
    ministral,
    mistral,
    mixtral,
    nemotron,
    olmo2,
    olmo3,
    olmoe,
    persimmon,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    qwen3_next,
    seed_oss,
    smollm3,
    stablelm,
    starcoder2,
    vaultgemma,
    xlstm,
)

# in the order in which an export tries them: the simplest family that can express a config wins
FILES = (
    llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, gpt2, mamba2, mixtral, qwen3_moe, phi3, starcoder2, gpt_neox,
    gpt_bigcode, seed_oss, glm, glm4, ernie4_5, helium, ministral, cwm, vaultgemma, exaone, internlm3, iquestcoder,
    deepseek_v2, deepseek_v3,
    olmo2, olmo3, olmoe, smollm3, granite, qwen2_moe, stablelm, cohere, cohere2, nemotron, arcee, exaone4, persimmon,
    falcon, qwen3_next, gpt_oss, xlstm,
)  # fmt: skip
FAMILIES = {file.FAMILY.model_type: file.FAMILY for file in FILES}

# what a ModelConfig lacks for other families that people ask for
MISSING = {
    "apertus": "the xIELU activation",
    "bloom": "ALiBi positions",
    "dbrx": "clipped q, k, v",
    "ernie4_5_moe": "a first dense layer, several kinds of experts and a bias of the router",
    "gemma3n": "per-layer embeddings, alternating updates and shared keys and values",
    "glm4_moe": "a first dense layer and a bias of the router",
    "gpt_neo": "biases of the outputs without those of q, k and v",
    "gptj": "a bias of the head",
    "granitemoe": "experts in one tensor",
    "hunyuan_v1_dense": "norms of q and k after their rotation",
    "llama4": "chunked attention and router weights on the experts' inputs",
    "mpt": "ALiBi positions",
    "nanochat": "norms without gains",
    "olmo": "LayerNorm without gain and bias",
    "opt": "the ReLU and positions that begin at 2",
    "phi": "a bias of the head",
    "phimoe": "its own router",
    "rwkv": "the scalar memory of RWKV-4 and shifts of tokens",
    "rwkv7": "values mixed with those of the first layer (transformers has no RWKV-7 either)",
}

__all__ = ["FAMILIES", "FILES", "MISSING"]
