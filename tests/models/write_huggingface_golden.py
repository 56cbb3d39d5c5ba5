"""Write tests/models/golden: tiny random checkpoints by `transformers`, with the tokens and logits it computes.

Needs torch and transformers, which the tests do not:

    python -m tests.models.write_huggingface_golden [NAME ...]
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.huggingface.config import FAMILIES, NEUTRAL

GOLDEN = Path(__file__).parent / "golden"
DEFAULTS = GOLDEN / "defaults.json"
SHAPE = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BATCH, SEQ = 2, 14


@dataclass(frozen=True)
class Case:
    """One checkpoint. keys: of its config.json; dtype of its tensors; shard: most bytes of a file."""

    model_type: str
    keys: dict[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    shard: str = "5GB"
    seq: int = SEQ


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
GPT2 = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip
MAMBA2 = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 4, "state_size": 6,
          "n_groups": 2, "chunk_size": 5, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
# heads of 64 and 128 features in all: the cache of `transformers` is of multiples of 64 and fits no others
XLSTM = {"vocab_size": 64, "hidden_size": 8, "num_hidden_layers": 2, "num_heads": 4, "qk_dim_factor": 8.0,
         "v_dim_factor": 16.0, "chunk_size": 5, "ffn_proj_factor": 1.6, "ffn_round_up_to_multiple_of": 12,
         "gate_soft_cap": 3.0, "output_logit_soft_cap": 2.0, "pad_token_id": None, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip
EXPERTS = {"intermediate_size": 8, "num_experts_per_tok": 2}
MSCALED = YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}
LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 6, "q_lora_rank": 10, "qk_nope_head_dim": 4, "qk_rope_head_dim": 6,
    "v_head_dim": 5, "first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 8, "n_shared_experts": 1, "routed_scaling_factor": 1.5, "intermediate_size": 12,
}  # fmt: skip
SHARED = EXPERTS | {"moe_intermediate_size": 8, "num_experts": 4, "shared_expert_intermediate_size": 16}
GRANITE = {"embedding_multiplier": 3.0, "logits_scaling": 3.0, "residual_multiplier": 0.22,
           "attention_multiplier": 0.3}  # fmt: skip
# what is read from a state of so few features is now and then near 0, and the norm after it divides by that: with the
# usual eps of 1e-6 one rounding of the weights moved logits by 9e-4
NEXT = SHARED | {
    "rms_norm_eps": 1e-3,
    "num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"], "head_dim": 8,
    "shared_expert_intermediate_size": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 4, "linear_value_head_dim": 6,
}  # fmt: skip
OSS = EXPERTS | {"head_dim": 8, "num_local_experts": 3, "sliding_window": 5, "rope_scaling": YARN, "rope_theta": 500.0}
# written to tests/models/golden: one for each family but those that are another under a new name
COMMITTED = {
    "llama": Case("llama", {"rope_theta": 500.0, "rope_scaling": LLAMA3, "intermediate_size": 16}, "float32", "12KB"),
    "mistral": Case("mistral", {"sliding_window": 5, "head_dim": 6}),
    "qwen2": Case("qwen2", {"tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen3": Case("qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
    "gemma": Case("gemma", {"num_key_value_heads": 1, "head_dim": 8}),
    "gemma2": Case(
        "gemma2",
        {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 6, "attn_logit_softcapping": 2.0,
         "final_logit_softcapping": 3.0},
    ),
    "gemma3_text": Case(
        "gemma3_text",
        {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8,
         "layer_types": ["sliding_attention", "full_attention"],
         # the older form, which old and new releases read; what 5.x writes from it is in the committed file
         "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 1e6, "rope_local_base_freq": 100.0},
    ),
    "gpt2": Case("gpt2", GPT2),
    "mamba2": Case("mamba2", MAMBA2, "float32", "12KB"),
    "mixtral": Case("mixtral", EXPERTS | {"num_local_experts": 3, "sliding_window": 5}, dtype="float32"),
    "qwen3_moe": Case(
        "qwen3_moe",
        EXPERTS | {"head_dim": 8, "moe_intermediate_size": 8, "num_experts": 4, "tie_word_embeddings": True},
        dtype="float32",
    ),
    "phi3": Case("phi3", {"sliding_window": 6, "partial_rotary_factor": 0.5}),
    "starcoder2": Case("starcoder2", {"sliding_window": 5}),
    "gpt_neox": Case("gpt_neox", {"rotary_pct": 0.5}),
    "gpt_bigcode": Case("gpt_bigcode", GPT2),
    "seed_oss": Case("seed_oss", {"head_dim": 6}),
    "glm": Case("glm", {"head_dim": 8, "partial_rotary_factor": 0.5, "attention_bias": True}),
    "glm4": Case("glm4", {"head_dim": 8, "partial_rotary_factor": 0.5, "attention_bias": False}),
    "ernie4_5": Case("ernie4_5", {"head_dim": 8}),
    "helium": Case("helium", {"head_dim": 4}),
    "ministral": Case(
        "ministral", {"head_dim": 4, "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}
    ),
    "cwm": Case(
        "cwm", {"head_dim": 6, "sliding_window": 5, "rope_theta": 500.0, "rope_scaling": LLAMA3}
    ),
    "vaultgemma": Case("vaultgemma", {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 6}),
    "exaone": Case("exaone", {"head_dim": 4}),
    "deepseek_v2": Case("deepseek_v2", LATENT | {"q_lora_rank": None}, "float32"),
    "deepseek_v3": Case(
        "deepseek_v3", LATENT | {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "rope_scaling": MSCALED},
        "float32",
    ),
    "olmo2": Case("olmo2"),
    "olmo3": Case("olmo3", {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"],
                            "rope_scaling": YARN}),
    "olmoe": Case("olmoe", EXPERTS | {"num_experts": 4}, "float32"),
    "smollm3": Case("smollm3", {"no_rope_layers": [0, 1]}),
    "granite": Case("granite", GRANITE),
    "qwen2_moe": Case("qwen2_moe", SHARED, "float32"),
    "stablelm": Case("stablelm", {"partial_rotary_factor": 0.5, "use_qkv_bias": True}),
    "cohere": Case("cohere", {"logit_scale": 0.5}),
    "cohere2": Case("cohere2", {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}),
    "nemotron": Case("nemotron", {"head_dim": 8}),
    "arcee": Case("arcee", {"mlp_bias": True, "attention_bias": True}),
    "exaone4": Case("exaone4", {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}),
    "persimmon": Case("persimmon", {"num_attention_heads": 2}),
    "falcon": Case("falcon", {"ffn_hidden_size": 24}),
    "qwen3_next": Case("qwen3_next", NEXT, "float32"),
    "gpt_oss": Case("gpt_oss", OSS, "float32"),
    "xlstm": Case("xlstm", XLSTM, "float32"),
}  # fmt: skip
# compared with `transformers` where it is installed
OTHERS = {
    "llama_biases": Case("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, "float32"),
    "llama_linear": Case("llama", {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    "llama_dynamic": Case(
        "llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}, "max_position_embeddings": 8}
    ),
    "llama_yarn": Case("llama", {"rope_theta": 500.0, "rope_scaling": YARN}),
    "llama_yarn_betas": Case(
        "llama",
        {"rope_theta": 500.0, "rope_scaling": YARN | {"beta_fast": 4.0, "beta_slow": 0.5, "attention_factor": 1.3}},
    ),
    "llama_gelu": Case("llama", {"hidden_act": "gelu"}),
    "mistral_without_window": Case("mistral", {"sliding_window": None, "head_dim": 6}),
    "qwen2_windows": Case("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3_biases": Case("qwen3", {"head_dim": 8, "attention_bias": True}),
    "gemma2_exact_gelu": Case("gemma2", {"head_dim": 8, "sliding_window": 5, "hidden_activation": "gelu"}),
    "gemma3_defaults": Case(
        "gemma3_text", {"head_dim": 8, "sliding_window": 4, "num_hidden_layers": 7, "query_pre_attn_scalar": 8}
    ),
    "mixtral_many": Case("mixtral", EXPERTS | {"num_local_experts": 8, "num_experts_per_tok": 3}, "float32"),
    "qwen3_moe_normalised": Case(
        "qwen3_moe",
        EXPERTS | {"head_dim": 8, "moe_intermediate_size": 8, "num_experts": 4, "norm_topk_prob": True},
        "float32",
    ),
    "phi3_whole": Case("phi3", {"num_key_value_heads": 1}),
    "starcoder2_untied": Case("starcoder2", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "seed_oss_biases": Case("seed_oss", {"head_dim": 4, "attention_out_bias": True, "mlp_bias": True}),
    "ernie4_5_biases": Case("ernie4_5", {"head_dim": 4, "use_bias": True, "tie_word_embeddings": False}),
    "glm_whole": Case("glm", {"head_dim": 8, "partial_rotary_factor": 1.0, "attention_bias": False}),
    "cwm_defaults": Case("cwm", {"head_dim": 6, "sliding_window": 5, "num_hidden_layers": 5}),
    "internlm3": Case("internlm3", {"head_dim": 4}),
    "iquestcoder": Case("iquestcoder", {"head_dim": 6}),
    "gpt2_untied_exact": Case("gpt2", GPT2 | {"tie_word_embeddings": False, "activation_function": "gelu"}),
    "mamba2_one_group": Case("mamba2", MAMBA2 | {"n_groups": 1, "time_step_limit": [0.0, 0.02], "conv_kernel": 3}),
    "mamba2_without_conv_bias": Case("mamba2", MAMBA2 | {"n_groups": 1, "use_conv_bias": False}),
    "mamba2_tied": Case("mamba2", MAMBA2 | {"n_groups": 4, "tie_word_embeddings": True, "use_conv_bias": False}),
    "deepseek_v2_groups": Case(
        "deepseek_v2",
        LATENT | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "n_routed_experts": 8,
                  "num_experts_per_tok": 3, "n_shared_experts": 2, "num_hidden_layers": 3},
        "float32",
    ),
    "deepseek_v2_mscales": Case("deepseek_v2", LATENT | {"rope_scaling": MSCALED}, "float32"),
    "deepseek_v2_dense": Case("deepseek_v2", LATENT | {"first_k_dense_replace": 2}),
    "deepseek_v3_plain": Case(
        "deepseek_v3",
        LATENT | {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "norm_topk_prob": False, "rope_interleave": False,
                  "first_k_dense_replace": 0, "tie_word_embeddings": True},
        "float32",
    ),
    "deepseek_v3_linear": Case(
        "deepseek_v3",
        LATENT | {"n_group": 1, "topk_group": 1, "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
        "float32",
    ),
    "deepseek_v3_one_group_of_two": Case("deepseek_v3", LATENT | {"n_group": 2, "topk_group": 1}, "float32"),
    "gpt_neox_one_after_another": Case("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.5}),
    "olmo3_defaults": Case("olmo3", {"sliding_window": 5, "num_hidden_layers": 5}),
    "smollm3_defaults": Case("smollm3", {"num_hidden_layers": 5, "mlp_bias": True, "attention_bias": True}),
    "smollm3_all_rotating": Case("smollm3", {"no_rope_layers": [1, 1]}),
    "granite_plain": Case("granite", {"tie_word_embeddings": True}),
    "stablelm_parallel": Case("stablelm", {"use_parallel_residual": True, "partial_rotary_factor": 0.5}),
    "cohere2_defaults": Case("cohere2", {"sliding_window": 5, "num_hidden_layers": 5, "attention_bias": True}),
    "falcon_one_after_another": Case("falcon", {"multi_query": False, "parallel_attn": False, "bias": True}),
    "exaone4_whole": Case("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "nemotron_biases": Case("nemotron", {"mlp_bias": True, "attention_bias": True, "partial_rotary_factor": 1.0}),
    "qwen2_moe_normalised": Case("qwen2_moe", SHARED | {"norm_topk_prob": True}, "float32"),
    "qwen3_next_tied": Case(
        "qwen3_next",
        NEXT | {"tie_word_embeddings": True, "norm_topk_prob": False, "linear_num_key_heads": 4},
        "float32",
    ),
    "gpt_oss_defaults": Case("gpt_oss", EXPERTS | {"head_dim": 6, "num_local_experts": 4, "num_hidden_layers": 3}),
    "xlstm_odd_widths": Case(
        "xlstm",
        XLSTM | {"hidden_size": 16, "num_heads": 3, "qk_dim_factor": 0.57, "v_dim_factor": 0.94, "use_cache": False,
                 "norm_eps": 1e-5, "gate_soft_cap": 15.0, "mode": "train", "chunk_size": 7, "ffn_proj_factor": 2.667},
    ),
    "xlstm_shorter_than_a_chunk": Case("xlstm", XLSTM | {"chunk_size": 2 + SEQ}, "float32"),
    "gpt2_sharded": Case("gpt2", GPT2 | {"n_inner": 40}, "float32", "6KB"),
}

# cases that releases of `transformers` before 5 cannot be compared on -> what these do instead of what the authors' own
# code does; the other cases of the same families are compared all the same. With that one thing changed, 4.57.6 agreed
NO_CHUNKS = "fails in xLSTM when a text fills a chunk, whose queries it views in a wrong shape (shorter texts agree)"
BEFORE_5 = {
    "mamba2": (
        "normalises all groups of a Mamba-2 layer together, where the authors' code takes each by itself "
        "(with n_groups of 1 they agree)"
    ),
    "mamba2_tied": "cannot save a Mamba-2 model whose head is the table as safetensors",
    "deepseek_v2_mscales": (
        "leaves out the factor of mscale_all_dim on DeepSeek-V2's attention scores, which the authors' code has "
        "(without that key they agree)"
    ),
    "deepseek_v3_one_group_of_two": (
        "gives DeepSeek-V3's experts outside of a token's groups the score 0, where the authors' code excludes them "
        "(they agree unless the biased scores inside are below 0)"
    ),
    "xlstm": NO_CHUNKS,
    "xlstm_odd_widths": NO_CHUNKS,
}


def is_before_5() -> bool:
    """Whether the `transformers` that is installed is of a release before 5."""
    import transformers

    return int(transformers.__version__.split(".")[0]) < 5


def before_5(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys as `transformers` 4 has them: it keeps `rope_parameters` in config.json and computes without them."""
    if "rope_parameters" not in keys:
        return keys
    full, sliding = (keys["rope_parameters"][f"{kind}_attention"] for kind in ("full", "sliding"))
    rest = {key: value for key, value in keys.items() if key != "rope_parameters"}
    scaling = {key: value for key, value in full.items() if key != "rope_theta"}
    return rest | {
        "rope_theta": full["rope_theta"], "rope_local_base_freq": sliding["rope_theta"], "rope_scaling": scaling
    }  # fmt: skip


def write(folder: Path, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Write the checkpoint; tokens [BATCH, case.seq] int32 and the logits [BATCH, case.seq, vocab] float32 of it."""
    import torch
    import transformers

    keys = case.keys if case.model_type in ("gpt2", "gpt_bigcode", "mamba2", "xlstm") else SHAPE | case.keys
    if is_before_5():
        keys = before_5(keys)
    config = transformers.AutoConfig.for_model(case.model_type, **keys, attn_implementation="eager")
    seed = zlib.crc32(name_of(case).encode())
    torch.manual_seed(seed)  # some families draw the decays whose mean is kept
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            mean, std = (weight.mean().item(), 0.2) if weight.ndim == 1 else (0, 1.5 * weight.shape[-1] ** -0.5)
            weight.copy_(torch.tensor(mean + std * rng.standard_normal(weight.shape)))
        for name, weight in sorted(model.named_buffers()):
            if name.endswith("e_score_correction_bias"):
                weight.copy_(torch.tensor(0.2 * rng.standard_normal(weight.shape)))
    dtype = getattr(torch, case.dtype)
    model.to(dtype).save_pretrained(folder, max_shard_size=case.shard)
    tokens = rng.integers(3, config.vocab_size, (BATCH, case.seq)).astype(np.int32)
    return tokens, logits(folder, tokens)


def logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """What `transformers` computes in float32."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))).logits.float().numpy()


def defaults(model_type: str) -> dict[str, Any]:
    """What `transformers` takes for every key that a config.json of the family lacks, of the keys that we read."""
    import transformers

    family = FAMILIES[model_type]
    theirs = json.loads(json.dumps(transformers.CONFIG_MAPPING[model_type]().to_dict()))  # as a file has them
    known = {*family.defaults, *family.neutral, *NEUTRAL, "rope_parameters", "rope_scaling", "model_type"}
    return {key: value for key, value in sorted(theirs.items()) if key in known}


def name_of(case: Case) -> str:
    """The name of a case in its table."""
    return next(name for name, other in (COMMITTED | OTHERS).items() if other is case)


def main() -> None:
    """Write every committed case, or those that are named."""
    for name, case in COMMITTED.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
        tokens, expected = write(GOLDEN / name, case)
        np.savez_compressed(GOLDEN / name / "expected.npz", tokens=tokens[:1], logits=expected[:1])
        (GOLDEN / name / "generation_config.json").unlink(missing_ok=True)
        print(name, sum(file.stat().st_size for file in (GOLDEN / name).iterdir()), "bytes")
    lines = [f"{json.dumps(name)}: {json.dumps(defaults(name))}" for name in FAMILIES]
    DEFAULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
