"""ERNIE 4.5, its dense models (Baidu 2025): Llama whose heads rotate in pairs."""

from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, Biases
from models.huggingface.rope import Rope

FAMILY = Family(
    "ernie4_5",
    "Ernie4_5ForCausalLM",
    names=llama.NAMES,
    parts=(*SHAPE, Activation(), Biases("use_bias", mlp="use_bias"), Rope()),
    defaults=llama.DEFAULTS | {
        "vocab_size": 103_424, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "rope_theta": 5e5, "use_bias": False,
    },
    fixed=RMS,
    pairs=True,
)  # fmt: skip
