"""EngineConfig: the static shapes of the generation engine, so that nothing compiles after its warm-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from models.config import ModelConfig
from models.errors import LARGEST_SIZE, require
from models.serialize import added
from scaling.typed import STEPS, at_most, typed

Precision = Literal["float32", "bfloat16", "layercast"]
Share = Literal["model", "always", "never"]
Recorded = Literal["model", "drawn"]
KVCache = Literal["compute", "int8"]


@dataclass(frozen=True)
class EngineConfig:
    """Sizes and numerics of one engine.

    At fixed `slots`, `page_size`, `prefill_chunk`, `share_rows`, precision and mesh a sample's tokens depend on its
    request, its seed and its index alone.
    """

    slots: int = 64  # samples that decode side by side
    max_len: int = 1024  # tokens of a prompt and what follows it
    page_size: int = 64  # tokens per page of the cache, and per tile of attention
    pages: int | None = None  # None: prompts of max_len for a quarter of the slots, at least 4 and a chunk's worth
    prefill_chunk: int = 128  # prompt tokens per prefill step, packed from as many prompts as fit
    stage_tokens: int = 32  # decode steps per round trip to the host
    share: Share = "model"  # whether samples read their prompt together: as a cost model says, or always or never
    share_rows: int = 64  # most samples of one prompt that read its cache in one product
    precision: Precision = "float32"  # "layercast": weights kept in bfloat16, everything computed in float32
    kv_cache: KVCache = "compute"  # keys and values in the compute dtype, or int8 with a scale per token and head
    ends: tuple[int, ...] = ()  # tokens that end a sample
    stop_sequences: int = 4  # most stop sequences of a request
    stop_length: int = 8  # most tokens of a stop sequence
    quantum: int | None = None  # tokens after which a sample makes room for those that wait; None: it never does
    near_tie: float = 2e-4  # gap, in logits or nats, below which another order of float32 sums may flip a token
    recorded: Recorded = added("model")  # the law whose log-probabilities completions have: the model's at temperature
    # 1, or the one that was drawn from, with its temperature and filters
    reuse_prefixes: bool = True  # keep the pages of finished prompts for later ones with the same head

    def __post_init__(self) -> None:
        typed(self, "engine")
        names = "slots max_len page_size prefill_chunk stage_tokens share_rows stop_sequences stop_length".split()
        for name in names:
            value = getattr(self, name)
            require(value >= 1, f"engine.{name}", f"is {value}", "give a positive integer")
        at_most(self, "engine", **dict.fromkeys((*names, "pages"), LARGEST_SIZE), quantum=STEPS, near_tie=1e6)
        for name in ("pages", "quantum"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"engine.{name}", f"is {value}", "give a positive integer, or None")
        for name, kind in (("precision", Precision), ("share", Share), ("kv_cache", KVCache), ("recorded", Recorded)):
            value, allowed = getattr(self, name), get_args(kind)
            require(value in allowed, f"engine.{name}", f"is {value!r}", f"use one of {', '.join(allowed)}")
        # A sample and its prompt, each with a page that is not full, and a copy of one that is about to be written.
        need = -(-self.max_len // self.page_size) + 2
        require(
            self.page_count >= need,
            "engine.pages",
            f"{self.page_count} pages of {self.page_size} tokens cannot hold one sample of max_len {self.max_len}",
            f"give at least {need}",
        )
        require(self.near_tie >= 0, "engine.near_tie", f"is {self.near_tie}", "give 0 or more")

    @property
    def quantized_cache(self) -> bool:
        """Whether keys and values are kept in int8."""
        return self.kv_cache == "int8"

    @property
    def page_count(self) -> int:
        """Pages of the cache on the device."""
        per_prompt = -(-self.max_len // self.page_size)
        chunk = -(-self.prefill_chunk // self.page_size)
        return self.pages or per_prompt * max(4, self.slots // 4) + chunk

    def check(self, model: ModelConfig) -> None:
        """Raise ConfigError when the model cannot run with these sizes."""
        own = [getattr(layer.mixer, "rotary", None) for layer in model.layers]  # it need not be the model's
        scalings = dict.fromkeys([model.rope_scaling, *(rotary.scaling for rotary in own if rotary is not None)])
        for scaling in scalings:
            if scaling is None or scaling.kind != "dynamic":
                continue
            original = scaling.original_max_seq_len or 0
            require(
                self.max_len <= original,
                "engine.max_len",
                f"{self.max_len} exceeds the {original} tokens up to which dynamic rope_scaling keeps keys as they are",
                f"give at most {original}, or a model with another rope_scaling",
            )
        require(
            model.positions != "learned" or self.max_len <= model.max_seq_len,
            "engine.max_len",
            f"{self.max_len} exceeds the model's {model.max_seq_len} learned positions",
            f"give at most {model.max_seq_len}",
        )
        bad = [token for token in self.ends if not 0 <= token < model.vocab_size]
        require(not bad, "engine.ends", f"{bad} are no tokens of the model", f"use 0 to {model.vocab_size - 1}")
