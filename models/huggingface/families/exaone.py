"""EXAONE 3 and 3.5 (An et al. 2024): Llama under GPT-2's names."""

from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import RMS, SHAPE, Activation
from models.huggingface.rope import Rope

BLOCK: Names = {
    "attention_norm/gain": "ln_1.weight",
    "attention/qkv": tuple(f"attn.attention.{x}_proj.weight" for x in "qkv"),
    "attention/out": "attn.attention.out_proj.weight",
    "feedforward_norm/gain": "ln_2.weight",
    "feedforward/gate_up": ("mlp.c_fc_0.weight", "mlp.c_fc_1.weight"),
    "feedforward/down": "mlp.c_proj.weight",
}
MODEL: Names = {"tokens": "wte.weight", "final_norm/gain": "ln_f.weight", "head": "lm_head.weight"}

FAMILY = Family(
    "exaone",
    "ExaoneForCausalLM",
    names=block_names("h.{}.", BLOCK, MODEL),
    parts=(*SHAPE, Activation(), Rope()),
    defaults=llama.DEFAULTS | {
        "vocab_size": 102_400, "intermediate_size": 14_336, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
    },
    fixed=RMS,
    neutral={"attention_bias": (False,), "mlp_bias": (False,)},
    aliases={"num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps",
             "activation_function": "hidden_act"},
    prefix="transformer.",
    divided_heads=True,
)  # fmt: skip
