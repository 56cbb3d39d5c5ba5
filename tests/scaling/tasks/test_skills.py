"""Skills: a reader of the tokens answers as a loop would; noise, weights, clutter and passes are what they say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.skills import RULES, STYLES, Skills, joined, passes

LOOPS = {  # each answer symbol by symbol
    "copy": lambda x, i, n: x[i],
    "reverse": lambda x, i, n: x[len(x) - 1 - i],
    "rotate": lambda x, i, n: x[(i + 1) % len(x)],
    "swap": lambda x, i, n: x[i - 1] if i % 2 else x[min(i + 1, len(x) - 1)],
    "successor": lambda x, i, n: 0 if x[i] == n - 1 else x[i] + 1,
    "complement": lambda x, i, n: range(n)[-1 - x[i]],
    "sort": lambda x, i, n: sorted(x)[i],
    "highest": lambda x, i, n: max(x[: i + 1]),
    "sums": lambda x, i, n: sum(x[: i + 1]) % n,
    "differences": lambda x, i, n: (x[i] - x[i - 1]) % n,
}


def read(kind: Skills, tokens: list[int]) -> tuple[str, list[int]]:
    """The skill that is named and the right answer, by dropping the clutter and looking for the name."""
    clear = [token for token in tokens if token < kind.vocab_size - kind.symbols]
    asked = clear[: clear.index(kind.mark)]
    (name,) = (token for token in asked if token > kind.mark)
    row = [token for token in asked if token < kind.mark]
    assert asked.index(name) == (0 if kind.style == "question" else kind.length)
    style, skill = divmod(name - kind.mark - 1, len(RULES))
    assert STYLES[style] == kind.style
    called = list(RULES)[skill]
    return called, [LOOPS[called](row, i, kind.symbols) for i in range(len(row))]


@pytest.mark.parametrize(("style", "clutter", "length"), [("question", 0, 6), ("statement", 0, 3), ("question", 9, 5)])
def test_every_label_follows_from_the_tokens_before_it(style: str, clutter: int, length: int) -> None:
    kind = Skills(style=style, clutter=clutter, length=length, symbols=7)  # type: ignore[arg-type]
    data = kind.draw(np.random.default_rng(0), 300)
    assert data.tokens.shape == (300, kind.size) and data.tokens.max() < kind.vocab_size
    named = set()
    for tokens, labels, scored in zip(*map(np.ndarray.tolist, data), strict=True):
        name, answer = read(kind, tokens)
        named.add(name)
        assert [label for label, asked in zip(labels, scored, strict=True) if asked] == answer
        clear = [i for i, token in enumerate(tokens) if token < kind.vocab_size - kind.symbols]
        assert len(clear) == kind.size - clutter and [i for i, asked in enumerate(scored) if asked] == clear[-length:]
        assert [tokens[i] for i in clear[2 + length :]] == answer[:-1]
    assert named == set(RULES)


def test_weights_and_noise_are_the_shares_that_they_say() -> None:
    kind = Skills(("sort", "copy"), weights=(3, 1), length=8, noise=0.3)
    data = kind.draw(np.random.default_rng(1), 4000)
    seen, wrong = Counter(), 0
    for tokens, labels, scored in zip(*data, strict=True):
        name, answer = read(kind, tokens.tolist())
        seen[name] += 1
        wrong += labels[scored].tolist() != answer
    assert abs(seen["sort"] / 4000 - 0.75) < 0.03 and abs(wrong / 4000 - 0.3) < 0.03 and len(seen) == 2
    with pytest.raises(ConfigError, match="did you mean 'sort'"):
        Skills(("sorted",))
    with pytest.raises(ConfigError, match="weights"):
        Skills(("sort", "copy"), weights=(1,))


def test_a_pass_over_a_set_shows_every_row_once_and_joined_rows_keep_their_labels() -> None:
    short, long = Skills(length=2).draw(np.random.default_rng(2), 3), Skills(length=3).draw(np.random.default_rng(3), 4)
    both = joined([short, long])
    assert both.tokens.shape == (7, 7) and both.scored.sum() == 3 * 2 + 4 * 3
    assert (both.labels[:3, :5] == short.labels).all() and not both.scored[:3, 5:].any()
    feed = passes(both, 3, seed=5)
    shown = np.concatenate([feed(step).tokens for step in range(7)])  # three passes of seven rows
    orders = [shown[7 * i : 7 * i + 7].tolist() for i in range(3)]
    assert all(sorted(order) == sorted(both.tokens.tolist()) for order in orders) and orders[0] != orders[1]
    assert (passes(both, 3, seed=5)(4).labels == feed(4).labels).all()


def test_a_rephrased_row_asks_the_same_clearly_and_is_answered_rightly() -> None:
    noisy = Skills(style="statement", clutter=7, noise=0.5, length=4)
    data = noisy.draw(np.random.default_rng(6), 200)
    clear = noisy.rephrased(data, "question")
    assert clear.tokens.shape == (200, 9) and (clear.scored.sum(1) == 4).all()
    asked = Skills(length=4)
    for before, tokens, labels in zip(data.tokens.tolist(), clear.tokens.tolist(), clear.labels.tolist(), strict=True):
        name, answer = read(asked, tokens)
        assert (name, answer) == read(noisy, before) and labels[5:] == answer
        row = [token for token in before if token < noisy.mark][:4]
        assert tokens[1:5] == row
