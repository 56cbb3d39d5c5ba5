"""The ledger: what every problem cost, whatever the method, with the work that a search threw away."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from models import counts
from models.config import ModelConfig


@dataclass
class Cost:
    """What one problem, or all of them, cost.

    prompt_tokens: read from prompts and computed; reused_tokens: read from prompts, but found in the cache.
    generated_tokens: drawn from the model, kept or not; discarded_tokens: those of them that belong to no sample any
    more. verifier_tokens: read or written to score samples. flops: of matrix products (see models.counts). bytes: of
    keys and values read, written and moved; a prefix that samples read together counts once. depth: tokens one after
    the other, in sequence. seconds: of the device, shared between the problems it served at the same time.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    discarded_tokens: int = 0
    verifier_tokens: int = 0
    flops: int = 0
    bytes: int = 0
    depth: int = 0
    seconds: float = 0.0

    @property
    def kept_tokens(self) -> int:
        """Generated tokens that were not thrown away."""
        return self.generated_tokens - self.discarded_tokens


NAMES = tuple(f.name for f in dataclasses.fields(Cost))


class Ledger:
    """Costs per problem. Everything adds up over problems but depth, of which the total is the largest."""

    def __init__(self) -> None:
        self.problems: dict[int, Cost] = {}

    def __getitem__(self, problem: int) -> Cost:
        """What this problem cost so far; zeros for one that was never charged."""
        return self.problems.get(problem, Cost())

    def charge(self, problem: int, **amounts: float) -> None:
        """Add amounts, named as the fields of Cost, to one problem."""
        cost = self.problems.setdefault(problem, Cost())
        for name, amount in amounts.items():
            setattr(cost, name, getattr(cost, name) + amount)

    def reach(self, problem: int, depth: int) -> None:
        """Some sample of the problem is `depth` tokens long in sequence."""
        cost = self.problems.setdefault(problem, Cost())
        cost.depth = max(cost.depth, depth)

    @property
    def total(self) -> Cost:
        """The sum over problems; of depth the maximum, since problems run side by side."""
        costs = self.problems.values()
        total = Cost(*(sum(getattr(cost, name) for cost in costs) for name in NAMES))
        total.depth = max((cost.depth for cost in costs), default=0)
        return total


class Prices:
    """FLOPs and bytes of decoding and reading with one model, summed ahead so that a range of tokens costs a lookup.

    config: the model as it runs, `dtype` being that of its cache unless that is `quantized` to int8. max_len: the
    longest context.
    """

    def __init__(self, config: ModelConfig, max_len: int, quantized: bool = False):
        self._config = config
        self.cache_bytes = counts.kv_cache_bytes_per_token(config, quantized)
        self.state_bytes = counts.state_bytes_per_row(config)
        per_token = [counts.decode_flops(config, n) for n in (0, 1, max_len)]
        slope = per_token[1] - per_token[0]
        if per_token[2] == per_token[0] + slope * max_len:
            costs = [per_token[0] + slope * n for n in range(1, max_len + 1)]
        else:  # windows: no straight line
            costs = [counts.decode_flops(config, n) for n in range(1, max_len + 1)]
        self._decode = [0]
        for cost in costs:
            self._decode.append(self._decode[-1] + cost)

    def decode(self, context: int, tokens: int) -> int:
        """FLOPs of `tokens` tokens, the first of which attends to `context` keys, its own included."""
        return self._decode[context + tokens - 1] - self._decode[context - 1]

    def prefill(self, start: int, stop: int, scored: int = 0) -> int:
        """FLOPs of reading positions `start` to `stop` of a prompt, with logits for `scored` of them."""
        whole = counts.prefill_flops(self._config, stop, scored) if stop else 0
        return whole - (counts.prefill_flops(self._config, start, 0) if start else 0)

    def suffix_bytes(self, length: int, tokens: int) -> int:
        """Bytes of `tokens` decode steps over a row's own suffix: `length` tokens at first, each new one written, and
        what is kept of the row read and written."""
        read = tokens * length + tokens * (tokens + 1) // 2
        return self.cache_bytes * (read + tokens) + 2 * tokens * self.state_bytes
