"""Budget forcing (s1, Muennighoff et al. 2025): thinking that ends too early goes on, and ends where it must."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from models.errors import require
from search.strategies.best_of_n import best_of_n
from search.strategies.setting import Setting, Voting, needs
from search.strategies.strategy import Aggregate, Control, Strategy
from search.strategies.survey import Tags

WAITS, QUEUE, CLOSED = 1, 1 << 8, 1 << 16  # aux: waits used + QUEUE * place in the queue + CLOSED once thinking ended


def budget_forcing(
    samples: int,
    end_think: int,
    *,
    least: int = 0,
    most: int | None = None,
    wait: tuple[int, ...] = (),
    waits: int = 2,
    header: tuple[int, ...] = (),
    agg: str = "last",
    scored: bool = True,
) -> Strategy:
    """`samples` generations whose thinking, up to the token `end_think`, takes `least` to `most` tokens.

    When `end_think` is drawn before `least` tokens it is suppressed and `wait` is written in its place, at most `waits`
    times. When thinking is `most` tokens long, `end_think` and then `header`, the beginning of the answer, are written.
    `end_think` may be a token that ends the generation. What is written is charged as read, not as generated.
    """
    control = forcing(end_think, least=least, most=most, wait=wait, waits=waits, header=header)
    return dataclasses.replace(best_of_n(samples, agg, scored), name="budget_forcing", control=control)


def forcing(
    end_think: int,
    *,
    least: int = 0,
    most: int | None = None,
    wait: tuple[int, ...] = (),
    waits: int = 2,
    header: tuple[int, ...] = (),
) -> Control:
    """The same as the `control` of any strategy."""
    require(least == 0 or bool(wait), "wait", f"is empty, but least is {least}", "give the tokens that go on")
    require(end_think not in wait, "wait", f"holds the end of thinking {end_think}", "leave it out")
    require(0 <= waits < 256, "waits", f"is {waits}", "use 0 to 255")
    require(most is None or most >= least, "most", f"is {most}, below the least {least}", "raise it")
    require(len(wait) + len(header) < 255, "wait", "and header are longer than 254 tokens", "shorten them")
    queue = jnp.asarray((0, *wait, *header, 0), jnp.int32)  # place 0: nothing waits

    def control(token: jax.Array, length: jax.Array, aux: jax.Array) -> tuple[jax.Array, jax.Array]:
        used, place, closed = aux % QUEUE, aux // QUEUE % 256, aux >= CLOSED
        cut = ~closed & (length >= most) if most is not None else jnp.bool_(False)
        queued = (place > 0) & ~cut
        early = ~closed & ~cut & ~queued & (token == end_think) & (length < least) & (used < waits)
        now = jnp.where(queued, place, jnp.where(early, 1, 0))  # which token of the queue is written
        more = (now > 0) & (now != len(wait)) & (now != len(wait) + len(header))
        # After the forced end the header is next, if there is one.
        after = jnp.where(cut, len(wait) + 1 if header else 0, jnp.where(more, now + 1, 0))
        written = jnp.where(cut, end_think, jnp.where(now > 0, queue[now], token))
        closed = closed | cut | (~queued & ~early & (token == end_think))
        return written, used + early * WAITS + after * QUEUE + closed * CLOSED

    return control


@dataclass(frozen=True)
class BudgetForcing(Voting):
    """Thinking that ends too early goes on, and ends where it must."""

    samples: int
    end_think: str | None = None  # text of the token that ends thinking; None: the policy's own end of a text
    least: int = 0  # tokens of thinking
    most: int | None = None  # tokens of thinking; None: no limit
    wait: str = ""  # text written in the place of an end of thinking that comes too early
    waits: int = 2  # times that it is written, at most
    header: str = ""  # text written after an end of thinking that was forced
    agg: Aggregate = "last"  # how a sample's score comes from those of its steps
    scored: bool = True  # False: no verifier looks, and the first complete sample answers, or a vote

    name = "budget_forcing"
    tags = Tags("sequential", ("stimulation",), "thoughts", ("accuracy", "controllability", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `budget_forcing`."""
        at = needs(setting, self.name)
        end = at.ends[0] if self.end_think is None else at.token(self.end_think, f"{self.name}.end_think")
        texts = {name: getattr(self, name) for name in ("wait", "header")}
        wait, header = (at.tokens(text, f"{self.name}.{name}") if text else () for name, text in texts.items())
        return budget_forcing(
            self.samples, end, least=self.least, most=self.most, wait=wait, waits=self.waits, header=header,
            agg=self.agg, scored=self.scored,
        )  # fmt: skip
