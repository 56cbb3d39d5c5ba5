"""Elastic spans: a window alpha + beta N for every head, chosen by what narrower ones would cost (Fu et al. 2024,
"MoA", arXiv:2406.14909).

The cost is a first-order profile. With attention weights A and g = dL/dA on some sequences, a window that drops the
keys S of a query leaves A_k / (1 - A_S) on the others, which changes the loss by

    A_S / (1 - A_S) sum_{k not in S} A_k g_k - sum_{j in S} A_j g_j

as far as L is linear in A; for one key alone that is A_j / (1 - A_j) (sum_k A_k g_k - g_j), which is published. Windows
are then chosen head by head, at all lengths together, so that the sum of costs is the least that a budget allows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models import transformer
from models.config import Layer, ModelConfig
from models.context import Lead
from models.errors import require
from models.kept import Kept
from models.mixers.attention import Attention
from models.mixers.head_spans import HeadSpans
from models.past import Arrays, Past, Read, Step, carry_blocks, keys_and_values, zeros
from models.span import Span

LEAST = 1e-6  # weight that is left after a window: below it nothing is known of what would be read instead


class Rule(NamedTuple):
    """A head sees alpha + beta N keys, its own included, of sequences of N tokens."""

    alpha: int
    beta: float

    def window(self, length: int) -> int:
        """Keys at a length: at least one, at most all."""
        return max(1, min(length, round(self.alpha + self.beta * length)))


@dataclass(frozen=True)
class Nudged(Past):
    """Whole sequences whose attention weights `[batch, heads, seq, seq]` are seen, and `nudge` of that shape added to
    them, whose gradient is dL/dA."""

    positions: jax.Array
    nudge: jax.Array
    weights: jax.Array | None = None
    keeps = False

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, Nudged]:  # fmt: skip
        """All pairs at once."""
        assert lead is None, "prefixes have no distance"
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2).astype(jnp.float32) for x in read(new))
        scores = span.scale * jnp.einsum("bqhd,bkhd->bhqk", q.astype(jnp.float32), k)
        if span.softcap is not None:
            scores = span.softcap * jnp.tanh(scores / span.softcap)
        at = jnp.arange(q.shape[1])
        weights = jax.nn.softmax(jnp.where(span.visible(at[:, None], at), scores, -jnp.inf))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights + self.nudge, v).astype(q.dtype)
        return y, dataclasses.replace(self, weights=weights)

    def carry(self, step: Step, inputs: Any, kept: Mapping[str, Kept], size: int) -> tuple[Any, Nudged]:
        """As in training."""
        first = jax.tree.leaves(inputs)[0]
        return carry_blocks(step, zeros(kept, first.shape[0], first.dtype), inputs, size)[0], self


def profile(
    config: ModelConfig,
    params: transformer.Params,
    tokens: jax.Array,
    loss: Callable[[jax.Array], jax.Array],
    windows: Sequence[int],
) -> np.ndarray:
    """What every window would add to the loss `[layers, heads, windows]` float64, were it that head's alone.

    tokens `[batch, seq]`; loss: of their logits `[batch, seq, vocab]`. All layers must be full attention.
    """
    c = config.resolved()
    heads = []
    for i, layer in enumerate(c.layers):
        mixer, fix = layer.mixer, "profile a model of Attention() alone"
        full = isinstance(mixer, Attention) and type(mixer) is Attention and mixer.window is None
        require(full, f"model.pattern[{i}].mixer", "is not full attention", fix)
        assert isinstance(mixer, Attention)
        heads.append(mixer.resolved(c.stream).heads or 0)
    positions, (rows, seq) = jnp.arange(tokens.shape[1])[None], tokens.shape

    def nudged(nudges: list[jax.Array]) -> tuple[jax.Array, list[Any]]:
        pasts = [Nudged(positions, nudge) for nudge in nudges]
        output = transformer.forward(c, params, tokens, positions, pasts=pasts)
        seen = [past.weights for past in output.pasts or () if isinstance(past, Nudged)]
        return loss(transformer.logits(c, output.hidden, output.head)), seen

    slopes, weights = jax.grad(nudged, has_aux=True)([jnp.zeros((rows, n, seq, seq)) for n in heads])
    pairs = zip(weights, slopes, strict=True)
    return np.stack([costs(np.asarray(a), np.asarray(slope), windows) for a, slope in pairs])


def costs(weights: np.ndarray, slopes: np.ndarray, windows: Sequence[int]) -> np.ndarray:
    """The formula above for A and dL/dA `[batch, heads, seq, seq]`: `[heads, windows]`, summed over all queries."""
    a, g = weights.astype(np.float64), slopes.astype(np.float64)
    distance = np.arange(a.shape[-1])[:, None] - np.arange(a.shape[-1])
    found = []
    for window in windows:
        far = distance >= window
        dropped, left = (a * far).sum(-1), np.maximum((a * ~far).sum(-1), LEAST)
        change = dropped / left * (a * g * ~far).sum(-1) - (a * g * far).sum(-1)
        found.append(change.sum((0, 2)))
    return np.stack(found, axis=-1)


def choose(costs: Mapping[int, np.ndarray], rules: Sequence[Rule], budget: float, unit: int = 1) -> list[Rule]:
    """The rule of every head: the least sum of costs over all lengths that keeps the mean window within budget N at
    each length N.

    costs: length -> `[heads, rules]`. Windows are counted in units, rounded up. Exact: a table of the least cost of
    every sum of windows, head after head. ConfigError where even the narrowest rules are beyond the budget.
    """
    lengths, total = list(costs), np.sum([np.asarray(one, np.float64) for one in costs.values()], axis=0)
    heads = len(total)
    used = np.array([[-(-rule.window(n) // unit) for n in lengths] for rule in rules])
    room = [int(budget * n * heads + 1e-9) // unit for n in lengths]
    problem, fix = f"{budget} is less than the narrowest rules take", "raise it, or give narrower rules"
    require(all(heads * used.min(0)[i] <= room[i] for i in range(len(room))), "budget", problem, fix)
    table = np.full([n + 1 for n in room], np.inf)
    table[(0,) * len(room)] = 0.0
    picks = []
    for head in range(heads):
        moved = np.full((len(rules), *table.shape), np.inf)
        for r, take in enumerate(used):
            if all(n <= most for n, most in zip(take, room, strict=True)):
                to = tuple(slice(n, None) for n in take)
                back = tuple(slice(0, most + 1 - n) for n, most in zip(take, room, strict=True))
                moved[r][to] = table[back] + total[head, r]
        picks.append(moved.argmin(0))
        table = moved.min(0)
    at = np.unravel_index(table.argmin(), table.shape)
    chosen = []
    for pick in reversed(picks):
        r = int(pick[at])
        chosen.append(rules[r])
        at = tuple(np.subtract(at, used[r]))
    return chosen[::-1]


def with_spans(config: ModelConfig, rules: Sequence[Sequence[Rule]], length: int) -> ModelConfig:
    """The model whose heads have the windows of `rules` (layer by layer, one per key-value head) at a length.

    Its parameters are those of unrolled layers of full attention as they are.
    """
    require(len(rules) == config.n_layers, "rules", f"are of {len(rules)} of {config.n_layers} layers", "give one each")
    shared = [field.name for field in dataclasses.fields(Attention)]
    layers = []
    for layer, own in zip(config.layers, rules, strict=True):
        fields = {name: getattr(layer.mixer, name) for name in shared}
        layers.append(Layer(HeadSpans(**fields, windows=tuple(rule.window(length) for rule in own)), layer.channel))
    return dataclasses.replace(config, pattern=tuple(layers), prologue=(), moe=None)
