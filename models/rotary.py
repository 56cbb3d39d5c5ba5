"""Rotary: how positions turn queries and keys, as a config; models.positions computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.errors import require


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched so that a model reads further than it was trained.

    kind: "linear" divides every frequency by `factor` (Chen et al. 2023); "dynamic" raises theta with the longest
    position of the row beyond `original_max_seq_len` (bloc97 2023), so it depends on what is read together; "llama3"
    divides the slow frequencies only (Dubey et al. 2024); "yarn" ramps between both and scales attention (Peng et
    al. 2023).
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn"]
    factor: float
    original_max_seq_len: int | None = None  # context of pre-training; "linear" does not use it
    low_freq_factor: float = 1.0  # llama3: wavelengths above original_max_seq_len / this are divided by `factor`
    high_freq_factor: float = 4.0  # llama3: wavelengths below original_max_seq_len / this stay
    beta_fast: float = 32.0  # yarn: frequencies that turn more often than this in the original context stay
    beta_slow: float = 1.0  # yarn: frequencies that turn less often than this are divided by `factor`
    truncate: bool = True  # yarn: round the ends of the ramp to whole dims
    attention_factor: float | None = None  # yarn: factor on cos and sin; None: 0.1 ln(factor) + 1

    def __post_init__(self) -> None:
        for field in ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            value = getattr(self, field)
            require(value > 0, f"rope_scaling.{field}", f"is {value}", "give a positive number")
        require(
            (self.kind == "linear" and self.original_max_seq_len is None) or (self.original_max_seq_len or 0) >= 1,
            "rope_scaling.original_max_seq_len",
            f"is {self.original_max_seq_len}, but {self.kind} scaling needs it",
            "give the context length of pre-training",
        )
        require(
            self.low_freq_factor < self.high_freq_factor,
            "rope_scaling.high_freq_factor",
            f"is {self.high_freq_factor}, not above low_freq_factor {self.low_freq_factor}",
            "give a larger one",
        )
        factor = self.attention_factor
        fix = "give a positive number, or None"
        require(factor is None or factor > 0, "rope_scaling.attention_factor", f"is {factor}", fix)


@dataclass(frozen=True)
class Rotary:
    """theta: base of the frequencies; scaling of them; share: of each head that rotates, its first dims (0: none).

    interleaved: dims 2i and 2i + 1 form a pair (GPT-J, DeepSeek, Cohere), not dims i and i + n / 2 (NeoX, Llama).
    """

    theta: float = 10_000.0
    scaling: RopeScaling | None = None
    share: float = 1.0
    interleaved: bool = False

    def __post_init__(self) -> None:
        require(self.theta > 0, "rotary.theta", f"is {self.theta}", "give a positive number such as 1e4")
        require(0 <= self.share <= 1, "rotary.share", f"is {self.share}", "give a share in [0, 1]")

    def dims(self, head_dim: int) -> int:
        """How many dims of a head rotate."""
        return int(head_dim * self.share)
