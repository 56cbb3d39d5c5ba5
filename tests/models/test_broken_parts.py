"""Parts that break one promise each: the contract suite must see every kind of fault that it is there for."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest

from models.channels.dense import Dense
from models.config import Layer
from models.mixers.attention import Attention
from models.mixers.mamba2 import Mamba2
from search.engine import decode
from tests.models import parts, test_parts
from tests.models.parts import of


class Miscounted(Dense):
    """Says that it costs two FLOPs more than it does."""

    def flops(self, s: Any, seq: int) -> int:
        return super().flops(s, seq) + 2


class Widened(Attention):
    """Keeps keys that are twice as wide as what it declares to the counts."""

    asked: ClassVar[Any] = itertools.count()

    def kept(self, s: Any) -> Any:
        kept = super().kept(s)
        wide = dataclasses.replace(kept["k"], shape=(kept["k"].shape[0], 2 * kept["k"].shape[1]))
        return kept | {"k": wide} if next(self.asked) % 2 else kept


class Restarted(Attention):
    """Counts positions from the first token of every call."""

    def apply(self, s: Any, w: Any, x: jax.Array, past: Any) -> Any:
        past = dataclasses.replace(past, positions=past.positions - past.positions[:, :1])
        return super().apply(s, w, x, past)


class Shifted(Attention):
    """Looks at the token before, whoever's it is, and keeps nothing of it."""

    def apply(self, s: Any, w: Any, x: jax.Array, past: Any) -> Any:
        return super().apply(s, w, x + jnp.roll(x, 1, axis=1), past)


class Numbered(Dense):
    """Computes something else every time that it is traced."""

    traced: ClassVar[Any] = itertools.count(1)

    def apply(self, s: Any, w: Any, x: jax.Array, tokens: Any) -> Any:
        y, aux = super().apply(s, w, x, tokens)
        return y * next(self.traced), aux


class Coarse(Dense):
    """Rounds bfloat16 to a few steps."""

    def apply(self, s: Any, w: Any, x: jax.Array, tokens: Any) -> Any:
        y, aux = super().apply(s, w, x, tokens)
        return (jnp.round(y * 2) / 2 if x.dtype == jnp.bfloat16 else y), aux


class Summed(Dense):
    """Adds up over the rows of the batch."""

    def apply(self, s: Any, w: Any, x: jax.Array, tokens: Any) -> Any:
        return super().apply(s, w, x + x.sum(0, keepdims=True), tokens)


class Unscaled(Dense):
    """Draws its matrices with one spread at every width."""

    def weights(self, s: Any) -> Any:
        return {name: dataclasses.replace(w, std=0.02) for name, w in super().weights(s).items()}


def forgets_who_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row's state goes on."""
    carry = decode.SlotPast.carry

    def wrong(self: Any, *args: Any) -> Any:
        return carry(dataclasses.replace(self, live=jnp.ones_like(self.live)), *args)

    monkeypatch.setattr(decode.SlotPast, "carry", wrong)


in_steps = functools.partial(
    test_parts.test_tokens_read_in_any_steps_are_scored_as_the_whole_sequence, steps=(7, 1, 12)
)
BROKEN: dict[str, tuple[Layer, Callable[[str], None]]] = {
    "flops": (Layer(channel=Miscounted()), test_parts.test_parameters_flops_and_kept_bytes_are_those_declared),
    "kept bytes": (Layer(Widened()), test_parts.test_parameters_flops_and_kept_bytes_are_those_declared),
    "positions of a step": (Layer(Restarted()), in_steps),
    "what a step keeps": (Layer(Shifted()), in_steps),
    "chunks": (Layer(Shifted()), test_parts.test_packed_chunks_over_pages_score_as_the_whole_sequences),
    "documents": (Layer(Shifted()), test_parts.test_packed_documents_are_separate_ones_in_values_and_gradients),
    "scan": (Layer(channel=Numbered()), test_parts.test_scanned_layers_compute_what_unrolled_ones_do),
    "bfloat16": (Layer(channel=Coarse()), test_parts.test_bfloat16_scores_agree_to_its_precision),
    "meshes": (Layer(channel=Summed()), test_parts.test_meshes_compute_what_one_device_does),
    "stages": (Layer(channel=Summed()), test_parts.test_stages_compute_what_one_device_does),
    "muP": (Layer(channel=Unscaled()), test_parts.test_only_the_width_grows_what_mup_scales),
}


@pytest.mark.parametrize("promise", BROKEN)
def test_a_part_that_breaks_a_promise_fails_the_suite(promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, check = BROKEN[promise]
    name = f"broken: {promise}"
    monkeypatch.setitem(parts.PARTS, name, of(layer))
    with pytest.raises(AssertionError):
        check(name)


def test_a_state_that_goes_on_without_its_row_fails_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    forgets_who_runs(monkeypatch)
    name = "broken: states"  # compiled anew
    monkeypatch.setitem(parts.PARTS, name, parts.PARTS["mamba2"])
    with pytest.raises(AssertionError):
        test_parts.test_rows_that_do_not_run_keep_their_states(name)


def test_a_part_without_a_model_fails_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n, c in parts.PARTS.items() if any(type(x.mixer) is Mamba2 for x in c.layers)]:
        monkeypatch.delitem(parts.PARTS, name)
    with pytest.raises(AssertionError):
        test_parts.test_every_part_of_the_catalogue_has_a_model_here()
