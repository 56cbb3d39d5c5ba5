"""IQuest-Coder (2026): Llama with defaults of its own."""

from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.parts import RMS

FAMILY = Family(
    "iquestcoder",
    "IQuestCoderForCausalLM",
    names=llama.NAMES,
    parts=llama.FAMILY.parts,
    defaults={
        **llama.FAMILY.defaults,
        "vocab_size": 76_800, "hidden_size": 5120, "intermediate_size": 27_648, "num_hidden_layers": 80,
        "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
    },
    fixed=RMS,
    neutral={"clip_qkv": (None,), "use_sliding_window": (False, None)},
    divided_heads=True,
)  # fmt: skip
