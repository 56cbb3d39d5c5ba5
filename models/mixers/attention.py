"""Multi-head softmax attention with grouped queries: one fused q, k, v weight, stored so that heads split in place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import divisors, require
from models.kept import Kept
from models.rotary import Rotary
from models.serialize import added
from models.span import Span
from models.stream import NormedOver, Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.context import Lead
    from models.past import Past


@dataclass(frozen=True)
class Attention:
    """softmax(scale q.k) v over the keys that `window` leaves, in the compute dtype, accumulated in float32.

    Keeps k and v `[kv_heads, head_dim]` per token. Fields that are None are those of the model.
    """

    heads: int | None = None
    kv_heads: int | None = None  # each serves heads / kv_heads adjacent query heads
    head_dim: int | None = None
    window: int | None = None  # a query sees this many keys, its own included; None: all
    rotary: Rotary | None = None
    qk_norm: bool | None = None  # norms on q and k, before they rotate
    softcap: float | None = None  # scores s become c tanh(s / c) before the mask
    qk_norm_over: NormedOver | None = added(None)  # every head, or all heads together (OLMo 2)
    gated: bool = added(False)  # results times sigmoid of a gate per feature, read from x beside q (Qwen3-Next)

    slot: ClassVar[str] = "attention"
    last: ClassVar[str] = "out"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ()  # mesh axes that cannot divide it
    block: ClassVar[int] = 0

    def resolved(self, s: Stream) -> Attention:
        """Itself with the model's heads, rotary positions, norms and soft-cap where it has none of its own."""
        heads = self.heads or s.n_heads
        mixer = dataclasses.replace(
            self,
            heads=heads,
            kv_heads=self.kv_heads or (s.n_kv_heads if self.heads is None else heads),
            head_dim=self.head_dim or s.head_dim,
            rotary=self.rotary if self.rotary is not None else s.rotary,
            qk_norm=s.qk_norm if self.qk_norm is None else self.qk_norm,
            softcap=s.softcap if self.softcap is None else self.softcap,
            qk_norm_over=self.qk_norm_over or s.qk_norm_over,
        )
        mixer._check()
        return mixer

    def _check(self) -> None:
        heads, kv, head_dim, rotary = self.heads or 0, self.kv_heads or 0, self.head_dim or 0, self.rotary
        for field in ("heads", "kv_heads", "head_dim"):
            value = getattr(self, field)
            require(value >= 1, f"model.{field}", f"is {value}", "give a positive integer")
        softcap, fix = self.softcap, "give a positive number, or None"
        require(softcap is None or softcap > 0, "model.attention_softcap", f"is {softcap}", fix)
        require(self.window is None or self.window >= 1, "model.sliding_window", f"is {self.window}",
                "give a positive integer or None")  # fmt: skip
        problem = f"{kv} key-value heads do not divide {heads} heads"
        require(heads % kv == 0, "model.n_kv_heads", problem, f"use one of {divisors(heads)}")
        if rotary is None or rotary.share == 0:
            return
        problem = f"is {head_dim}, but rotary positions rotate pairs"
        fix = "use an even head_dim or positions='learned'"
        require(head_dim % 2 == 0, "model.head_dim", problem, fix)
        require(
            rotary.dims(head_dim) in range(2, head_dim + 1, 2),
            "model.partial_rotary_factor",
            f"is {rotary.share}, which rotates {head_dim * rotary.share:g} of {head_dim} dims",
            "give a share in (0, 1] that rotates an even number of dims",
        )
        dynamic = rotary.scaling is not None and rotary.scaling.kind == "dynamic"
        problem = f"is dynamic, but only {rotary.dims(head_dim)} dims of a head rotate"
        require(not dynamic or rotary.dims(head_dim) > 2, "model.rope_scaling", problem, "use more, or another kind")

    def _sizes(self, s: Stream) -> tuple[int, int, int]:
        """(heads, key-value heads, features of a head)."""
        a = self.resolved(s)
        assert a.heads and a.kv_heads and a.head_dim
        return a.heads, a.kv_heads, a.head_dim

    def weights(self, s: Stream) -> WeightTree:
        """qkv `[d_model, kv_heads, group + 2, head_dim]`: for each key-value head its query heads (each before its
        gate, where there are gates), then k, then v."""
        heads, kv, head_dim = self._sizes(s)
        group = heads // kv
        fused = group * (2 if self.gated else 1) + 2
        out_std = s.hidden_std(heads * head_dim) * s.residual_scale
        out_axes = ("kv_heads", "query_heads", "head_dim", "embed")
        weights: dict[str, Any] = {
            "qkv": Weight(
                (s.d_model, kv, fused, head_dim),
                ("embed", "kv_heads", "qkv", "head_dim"),
                "matrix",
                std=s.hidden_std(s.d_model),
            ),
            "out": Weight((kv, group, head_dim, s.d_model), out_axes, "matrix", inputs=3, std=out_std),
        }
        if s.bias != "none":
            weights["qkv_bias"] = Weight((kv, fused, head_dim), ("kv_heads", "qkv", "head_dim"), "vector")
        if s.bias in ("attention", "all"):
            weights["out_bias"] = Weight((s.d_model,), ("embed",), "vector")
        a = self.resolved(s)
        if a.qk_norm:
            together = (heads, kv) if a.qk_norm_over == "all" else (1, 1)
            weights["q_norm"] = s.norm_weights(together[0] * head_dim, "head_dim")
            weights["k_norm"] = s.norm_weights(together[1] * head_dim, "head_dim")
        return weights

    def kept(self, s: Stream) -> dict[str, Kept]:
        """Keys and values."""
        _, kv, head_dim = self._sizes(s)
        one = Kept((kv, head_dim), ("kv_heads", "head_dim"), window=self.window)
        return {"k": one, "v": one}

    def scale(self, s: Stream) -> float:
        """Factor on q.k: head_dim^-1/2, in muP head_dim^-1 scaled to agree at the base (Yang et al. 2022).

        `query_pre_attn_scalar` stands in for head_dim where it is set.
        """
        head_dim = self._sizes(s)[2]
        if s.query_pre_attn_scalar is not None:
            return s.query_pre_attn_scalar**-0.5
        base = s.mup_base_head_dim if s.mup_base_width else None
        return head_dim**-0.5 if base is None else base**0.5 / head_dim

    def span(self, s: Stream) -> Span:
        """What a query sees, and how it is scored."""
        return Span(self.scale(s), self.window, self.resolved(s).softcap)

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Scores q.k and weighted values: 4 head_dim per head and visible query-key pair, or per pair."""
        heads, _, head_dim = self._sizes(s)
        pairs = self.span(s).pairs(seq, before) if causal else seq * (before + seq)
        return 4 * head_dim * heads * pairs

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past with its keys and values)."""
        a = self.resolved(s)
        heads, kv, head_dim = self._sizes(s)
        q, k, v = self.projected(s, w, x)
        if a.gated:
            q, gate = jnp.moveaxis(q.reshape(*x.shape[:2], heads, 2, head_dim), 3, 0)
            q = q.reshape(*x.shape[:2], -1, head_dim)
        if a.qk_norm:
            q, k = self._normed(s, w["q_norm"], q), self._normed(s, w["k_norm"], k)
        lead = self.lead(s, w, q)
        if a.rotary is not None and a.rotary.share:
            angles = ops.rotary_angles(past.positions, a.rotary.dims(head_dim), a.rotary.theta, a.rotary.scaling)
            q, k = (ops.rotate(y, *angles, interleaved=a.rotary.interleaved) for y in (q, k))
        y, past = self.attended(s, q, k, v, past, lead)
        if a.gated:
            y = y * jax.nn.sigmoid(gate.astype(jnp.float32)).astype(y.dtype)
        y = ops.scatter_positions(ops.contract(y.reshape(*x.shape[:-1], kv, heads // kv, head_dim), w["out"], dims=3))
        return y + w["out_bias"] if "out_bias" in w else y, past, None

    def projected(self, s: Stream, w: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x `[batch, seq, d_model]` -> (q, k, v), `[batch, seq, heads, head_dim]` each, a gate after every head of q
        where there are gates."""
        qkv = ops.contract(ops.gather_positions(x), w["qkv"])
        if "qkv_bias" in w:
            qkv = qkv + w["qkv_bias"]
        fused = qkv.shape[-2] - 2
        parts = jnp.split(qkv, [fused, fused + 1], axis=-2)  # one concatenation backwards, where slices would pad
        q, k, v = (y.reshape(*x.shape[:2], -1, y.shape[-1]) for y in parts)
        return q, k, v

    def attended(
        self, s: Stream, q: jax.Array, k: jax.Array, v: jax.Array, past: Past, lead: Lead | None
    ) -> tuple[jax.Array, Past]:  # fmt: skip
        """(the weighted values `[batch, seq, heads, head_dim]`, the past with k and v)."""
        besides: dict[str, Any] = {} if lead is None else {"lead": lead}  # a caller's own past need not know of any
        return past.attend(q, {"k": k, "v": v}, self.span(s), **besides)

    def lead(self, s: Stream, w: Any, q: jax.Array) -> Lead | None:
        """Keys and values that every token sees besides, with its queries before they are rotated: none."""
        return None

    def _normed(self, s: Stream, w: Any, x: jax.Array) -> jax.Array:
        """x `[batch, seq, heads, head_dim]`, each head normed or all of them together."""
        if self.resolved(s).qk_norm_over == "head":
            return ops.norm(s, w, x)
        return ops.norm(s, w, x.reshape(*x.shape[:2], -1)).reshape(x.shape)
