"""AFM (Arcee 2025): Llama with a plain block of squared ReLU."""

from models.huggingface.families import llama, nemotron
from models.huggingface.family import Family, block_names
from models.huggingface.parts import RMS, SHAPE, SQUARED, Activation, Biases
from models.huggingface.rope import Rope

FAMILY = Family(
    "arcee",
    "ArceeForCausalLM",
    names=block_names("layers.{}.", llama.NORMS | llama.ATTENTION | nemotron.MLP, llama.MODEL),
    parts=(*SHAPE, Activation(names=SQUARED), Biases(mlp="mlp_bias"), Rope()),
    defaults=llama.DEFAULTS | {
        "hidden_size": 2560, "intermediate_size": 18_432, "hidden_act": "relu2", "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False,
    },
    fixed=RMS,
    divided_heads=True,
)  # fmt: skip
