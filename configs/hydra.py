"""A hybrid of 13.1M parameters, of which a token passes through 6.3M: states, one global attention in eight layers,
experts that chunks of tokens are sent to, and a product-key memory (after Chaudhary et al.
2025, Hydra, arXiv:2508.15099).

    python -m launch.train --config configs/hydra.py --workdir runs/hydra

What it is faster at than attention, and where, is `hybrid_crossover` in docs/reproductions.md, at a smaller size.
"""

from models.channels import Experts, ProductKeys
from models.config import Layer, ModelConfig
from models.mixers import Attention, ChunkExperts, Mamba2
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def hydra(d_model: int, experts: Experts, chunk: int, memory: ProductKeys, mamba: Mamba2) -> ModelConfig:
    """Eight layers: a state and a feed-forward block in most, chunks of tokens to experts in two, attention in one."""
    state, chunks = Layer(mamba), Layer(ChunkExperts(experts, chunk), None)
    pattern = (state, chunks, Layer(mamba, memory), state, Layer(Attention()), chunks, state, Layer(mamba, memory))
    return ModelConfig(d_model=d_model, n_layers=8, n_heads=4, pattern=pattern)


MODEL = hydra(
    256, Experts(8, 2, 512, dispatch="dropless"), 64, ProductKeys(keys=64, top_k=8), Mamba2(head_dim=32, state=64)
)


def config() -> Trial:
    return Trial(model=MODEL, train=TrainConfig(steps=1000, batch_size=8, seq_len=512, learning_rate=1e-3))
