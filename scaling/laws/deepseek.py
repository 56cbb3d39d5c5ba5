"""DeepSeek LLM (Bi et al. 2024, arXiv:2401.02954): hyper-parameters and allocation as powers of the compute budget.

Their model scale M is the FLOP per token without embeddings, attention included, and C = M D. The laws of learning
rate and batch are fitted to all near-optimal runs of a budget (`near_optimal`), not to the single best.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from scaling.fitting.runs import Runs, as_table, missing
from scaling.laws.power import power_law

UNITS = dict(flops="FLOP", learning_rate="peak learning rate", batch_tokens="tokens per step",
             flops_per_token="FLOP per token without embeddings", tokens="tokens")
SOURCE = "DeepSeek-AI 2024, DeepSeek LLM (arXiv:2401.02954)"

DEEPSEEK_LEARNING_RATE = power_law("deepseek_learning_rate", "learning_rate", {"flops": "p"}, UNITS, SOURCE, scale="c")
DEEPSEEK_BATCH = power_law("deepseek_batch", "batch_tokens", {"flops": "r"}, UNITS, SOURCE, scale="c")
DEEPSEEK_SCALE = power_law("deepseek_scale", "flops_per_token", {"flops": "a"}, UNITS, SOURCE, scale="M_base")
DEEPSEEK_TOKENS = power_law("deepseek_tokens", "tokens", {"flops": "b"}, UNITS, SOURCE, scale="D_base")


def flops_per_token(n_layers: Any, d_model: Any, seq_len: Any) -> Any:
    """M = 72 n d**2 + 12 n d l: FLOP per token of n layers of width d at sequence length l, embeddings left out."""
    return 72 * n_layers * d_model**2 + 12 * n_layers * d_model * seq_len


def near_optimal(runs: Runs, tolerance: float = 0.0025, budget: str = "flops", loss: str = "loss",
                 columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The rows whose loss is within `tolerance` of the best of their budget."""
    table = as_table(runs, columns, (budget, loss))
    for name in (budget, loss):
        if name not in table.columns:
            missing(name, table.columns)
    return table[table[loss] <= table.groupby(budget)[loss].transform("min") * (1 + tolerance)]


LAWS = (DEEPSEEK_LEARNING_RATE, DEEPSEEK_BATCH, DEEPSEEK_SCALE, DEEPSEEK_TOKENS)
# Second-hand [S]; D_base and b from memory [M].
CONSTANTS = {DEEPSEEK_LEARNING_RATE.name: dict(c=0.3118, p=-0.1250), DEEPSEEK_BATCH.name: dict(c=0.2920, r=0.3271),
             DEEPSEEK_SCALE.name: dict(M_base=0.1715, a=0.5243), DEEPSEEK_TOKENS.name: dict(D_base=5.8316, b=0.4757)}
RANGES = dict(flops=(1e17, 2e19))
