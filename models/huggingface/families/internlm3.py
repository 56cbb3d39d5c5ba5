"""InternLM 3 (Cai et al. 2024): Llama with defaults of its own."""

from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.parts import RMS

FAMILY = Family(
    "internlm3",
    "InternLM3ForCausalLM",
    names=llama.NAMES,
    parts=llama.FAMILY.parts,
    defaults={
        **llama.FAMILY.defaults,
        "vocab_size": 128_512, "intermediate_size": 10_240, "num_hidden_layers": 48, "num_key_value_heads": 2,
        "head_dim": 128, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-5,
    },
    fixed=RMS,
    aliases={"qkv_bias": "attention_bias", "bias": "mlp_bias"},
    divided_heads=True,
)  # fmt: skip
