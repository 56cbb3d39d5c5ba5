"""Answers are read from tokens on the device as they are from text on the host, and as people write them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from models.errors import ConfigError
from search.strategies.answers import reader
from search.strategies.votes import UNREAD

LONG, TEXTS = 16, 1024
# Tokens of one and of several bytes, so that marks and numbers are cut in many ways; 0 ends a text, 1 is nothing.
WORDS = [b"</s>", b"", *(bytes([c]) for c in b"0123456789.,- \n#x{}")]
WORDS += [b"##", b"# 1", b"\\box", b"ed{", b"\\boxed{", b"00", b"1,2", b"-3."]


@pytest.mark.parametrize("way", ["whole", "after:##", "number", "number:##", "boxed"])
def test_codes_are_equal_where_answers_of_the_host_are(way: str) -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(1, LONG + 1, TEXTS)  # short ones, so that many answers are equal
    tokens = np.where(np.arange(LONG) < length[:, None] - 1, rng.integers(1, len(WORDS), (TEXTS, LONG)), -1)
    tokens[np.arange(TEXTS), length - 1] = 0
    said = [reader(way).read(b"".join(WORDS[t] for t in text if t > 0).decode()) for text in tokens]
    codes = np.asarray(jax.jit(jax.vmap(reader(way).on_device(WORDS, len(WORDS), (0,))))(tokens, length)).tolist()
    by_answer = dict(zip(said, codes))
    assert [by_answer[answer] for answer in said] == codes and len(set(codes)) == len(by_answer) > 20
    assert [code == UNREAD for code in codes] == [answer is None for answer in said]


@pytest.mark.parametrize(
    ("way", "text", "answer"),
    [
        ("number", "so 1,200.50 dollars", "1200.5"), ("number", "5-3 is 2", "2"), ("number", "it is -07", "-7"),
        ("number", "of 3 and -0", "0"), ("number", "12.", "12"), ("number", "v1.2.3", "1.2"), ("number", "none", None),
        ("number", "0.50", ".5"), ("number:####", "1 #### $72\n3", "72"), ("number:####", "72", None),
        ("after:####", "a #### b c \nd", "b c"), ("after:####", "a ####  \n", None), ("whole", " 4 2\n", "4 2"),
        ("boxed", r"\boxed{1} so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"), ("boxed", r"\boxed{1", None),
    ],
)  # fmt: skip
def test_answers_are_read_as_people_write_them(way: str, text: str, answer: str | None) -> None:
    assert reader(way).read(text) == answer


def test_a_right_answer_may_be_alone_or_in_a_solution() -> None:
    way = reader("number:####")
    assert way.right("so #### 72", "72.0") and way.right("#### 72", "it is #### 72") and not way.right("#### 7", "72")
    assert not way.right("none", "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [("numbers", "did you mean 'number'"), ("after", "write after:####"), ("boxed:3", "takes no mark")],
)
def test_a_way_of_reading_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reader(text)
