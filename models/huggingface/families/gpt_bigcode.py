"""GPT-BigCode (Ben Allal et al. 2023; StarCoder): GPT-2 whose heads share one key and one value."""

from models.huggingface.families import gpt2
from models.huggingface.family import Family

FAMILY = Family(
    "gpt_bigcode",
    "GPTBigCodeForCausalLM",
    names=gpt2.NAMES,
    parts=gpt2.PARTS,
    defaults=gpt2.DEFAULTS | {"activation_function": "gelu_pytorch_tanh"},
    fixed=gpt2.FIXED | {"n_kv_heads": 1},
    neutral={"multi_query": (True,), "add_cross_attention": (False,), "scale_attn_weights": (True,)},
    prefix="transformer.",
)
