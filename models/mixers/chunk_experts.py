"""Experts that whole chunks of tokens are sent to, as what the chunk before held says (after Chaudhary et al. 2025,
"Hydra", arXiv:2508.15099, whose experts are chosen by chunks)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from models.blocks import block_flops
from models.channels.experts import Experts
from models.deferred import jax, jnp, ops
from models.errors import require
from models.kept import Kept
from models.routers.hashed import Hashed
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past


@dataclass(frozen=True)
class ChunkExperts:
    """`Experts` whose router reads, for all tokens of a chunk, the mean of the chunk before it in the same document; of
    the first chunk a learned vector. Its own mean would tell a token of later ones.

    A mixer, because it reads earlier tokens: a layer of it has no channel, `Layer(ChunkExperts(), None)`. Keeps the
    sums of the last two chunks and how many tokens there were, per row; all else is as in `Experts`.
    """

    experts: Experts = field(default_factory=lambda: Experts(dispatch="dropless"))
    chunk: int = 64  # tokens that go to the same experts

    slot: ClassVar[str] = "chunk_experts"
    last: ClassVar[str] = "shared_down"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ("context",)  # mesh axes that cannot divide it: positions follow one another

    def __post_init__(self) -> None:
        require(self.chunk >= 1, "chunk", f"is {self.chunk}", "give a positive integer")
        problem = f"is {self.experts.dispatch}, which cuts sequences into other stretches"
        require(self.experts.dispatch == "dropless", "experts.dispatch", problem, "use dropless")
        hashed = isinstance(self.experts.routing, Hashed)
        require(not hashed, "experts.router", "is Hashed, which reads a token's own id", "use TopK or Grouped")

    @property
    def block(self) -> int:
        """Tokens that are computed at once from one state."""
        return self.chunk

    def resolved(self, s: Stream) -> ChunkExperts:
        """Itself; the experts take their width from the model."""
        self.experts.resolved(s)
        return self

    def weights(self, s: Stream) -> WeightTree:
        """Those of the experts, and what stands for the chunk before the first, `[d_model]`."""
        return {**self.experts.weights(s), "first": Weight((s.d_model,), ("embed",), "vector")}

    def kept(self, s: Stream) -> dict[str, Kept]:
        """Sums of the chunk before the current one and of the current one, and the tokens so far, of which whole
        chunks beyond the first are forgotten; in float32."""
        sums = Kept((2, s.d_model), ("gate", "embed"), per="row", dtype="float32", int8=False)
        return {"sums": sums, "count": Kept((1,), ("gate",), per="row", dtype="float32", int8=False)}

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """In a block of several tokens the sum that each of them makes of the others: 2 d_model for every pair."""
        return block_flops(seq, self.block, 0, 2 * s.d_model, causal)

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, Any]:
        """x `[batch, seq, d_model]` -> (as x, the past with its state, its `Routing`)."""
        key, past = past.carry(self._step, {"x": ops.gather_positions(x)}, self.kept(s), self.block)
        mean, known = key
        key = jnp.where(known[..., None], mean, w["first"].astype(jnp.float32)).astype(x.dtype)
        y, routing = self.experts.apply(s, w, x, jnp.zeros(x.shape[:2], jnp.int32), key)
        return y, past, routing

    def _step(self, state: Any, inputs: Any, reach: Any) -> tuple[Any, dict[str, jax.Array]]:
        """One block (models.past.Step): inputs x `[rows, size, d_model]`; out come the mean of the chunk before each
        token, as x in float32, and whether there is one `[rows, size]`."""
        x, sums, count = inputs["x"].astype(jnp.float32), state["sums"], state["count"][:, 0]
        index = reach.within.sum(-1) - 1 + jnp.where(reach.before, count[:, None], 0)  # within the document
        own, last = index // self.chunk, (count // self.chunk)[:, None]
        here = reach.before[..., None] & (own[..., None] - 1 == jnp.stack([last - 1, last], -1))  # [rows, size, 2]
        total = jnp.where(here[..., None], sums[:, None], 0).sum(2)
        if x.shape[1] > 1:
            inside = reach.within & (own[:, None, :] == own[:, :, None] - 1)
            total = total + jnp.einsum("rij,rjd->rid", inside.astype(jnp.float32), x)
        after = jnp.where(reach.kept, count, 0) + reach.after.sum(-1)
        ends = (after // self.chunk)[:, None]
        entering = []
        for behind in (1, 0):
            mine = reach.after & (own == ends - behind)
            found = jnp.where(mine[..., None], x, 0).sum(1)
            stays = reach.kept[:, None] & (jnp.concatenate([last - 1, last], -1) == ends - behind)
            entering.append(found + jnp.where(stays[..., None], sums, 0).sum(1))
        after = jnp.where(after < 2 * self.chunk, after, self.chunk + after % self.chunk)
        state = {"sums": jnp.stack(entering, 1), "count": after[:, None]}
        return (total / self.chunk, own > 0), state
