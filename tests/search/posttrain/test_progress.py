"""Progress: segments add up to the reward less the chance of an answer at once, which is that of the model's law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import transformer
from models.errors import ConfigError
from models.serialize import from_json, to_json
from scaling.train.config import TrainConfig
from scaling.train.objectives import PolicyGradient
from search.posttrain import PostTrainConfig, RolloutConfig
from search.posttrain.filters import Balanced, FewestErrors
from search.posttrain.progress import Progress, gains, segments
from tests.search.posttrain.test_posttrain import GROUP, MODEL, PROMPTS, SEQ, TOKENS, graded, made, start


def runs(values: np.ndarray) -> list[float]:
    return [float(x) for i, x in enumerate(values) if i == 0 or x != values[i - 1]]


@given(st.text("ab|", max_size=12), st.integers(0, 10**6))
def test_segments_end_behind_delimiters_and_their_gains_add_up(text: str, seed: int) -> None:
    ends = segments([text[:n] for n in range(1, len(text) + 1)], "|")
    assert ends == [i + 1 for i, letter in enumerate(text[:-1]) if letter == "|"]
    rng = np.random.default_rng(seed)
    chances, reward = rng.random(len(ends) + 1), float(rng.random())
    found, start = gains(chances.tolist(), reward, ends, len(text)), 0
    for i, stop in enumerate([*ends, len(text)]):
        expected = ([*chances, reward][i + 1]) - chances[i]
        assert np.allclose(found[start:stop], expected, atol=1e-6)
        start = stop
    firsts = found[[0, *ends]] if len(text) else np.zeros(0)
    assert len(text) == 0 or firsts.sum() == pytest.approx(reward - chances[0], abs=1e-5)
    if len(text):
        assert gains(chances.tolist(), float("nan"), ends, len(text))[-1] == 0


def test_tokens_of_several_letters_end_a_segment_that_they_hold_the_end_of() -> None:
    assert segments(["a", "ab|c", "ab|c|", "ab|c|", "ab|c|d"], "|") == [2, 3]
    assert segments(["a||", "a||b"], "||") == [1]


def test_a_batch_holds_for_every_token_what_its_segment_adds() -> None:
    """The answers here are one digit behind "=", and a "1" ends a segment."""
    how = Progress(mark="=", delimiter="1", samples=512, tokens=1)
    drawn = made(progress=how)
    batch, cost = drawn.batch(0, start())
    assert batch["progress"].shape == (PROMPTS, GROUP, SEQ) and cost.flops > made().batch(0, start())[1].flops
    by_text = {p.prompt: p for p in drawn.problems}
    for row in range(PROMPTS):
        for i in range(GROUP):
            places = np.flatnonzero(batch["weights"][row, i])
            tokens = batch["tokens"][row, i][: places[-1] + 2]
            prompt, own = TOKENS.decode(tokens[: places[0] + 1]), tokens[places[0] + 1 :]
            ends = [n + 1 for n, token in enumerate(own[:-1]) if TOKENS.decode([token]) == "1"]
            chances = []
            for n in (0, *ends):
                asked = [*tokens[: places[0] + 1], *own[:n], *TOKENS.encode("=")]
                scores = np.asarray(transformer.apply(MODEL, start(), np.array([asked])))[0, -1].astype(float)
                law = np.exp(scores - scores.max())
                texts = [TOKENS.decode([*asked[places[0] + 1 :], token]) for token in range(len(law))]
                chances.append(law @ [graded(by_text[prompt], text) for text in texts] / law.sum())
            expected = gains(chances, float(batch["rewards"][row, i]), ends, len(own))
            assert np.abs(batch["progress"][row, i][places] - expected).max() < 8 * 0.06 / np.sqrt(how.samples)
            assert (np.delete(batch["progress"][row, i], places) == 0).all()
    again, _ = drawn.batch(0, start())
    assert (again["progress"] == batch["progress"]).all()


def test_an_objective_that_asks_for_progress_gets_it_from_rollouts_that_know_it() -> None:
    train = TrainConfig(init_from="there", objective=PolicyGradient(progress=0.5))
    with pytest.raises(ConfigError, match=r"train\.objective: \(PolicyGradient\) needs progress"):
        PostTrainConfig(train=train).check()
    whole = PostTrainConfig(train=train, rollouts=RolloutConfig(progress=Progress(), filter=Balanced(3)))
    whole.check()
    assert from_json(PostTrainConfig, to_json(whole)) == whole
    assert to_json(RolloutConfig(filter=FewestErrors()))["filter"] == {"oversample": 2}  # as it was written before
    with pytest.raises(ConfigError, match=r"rollouts\.progress\.samples: is 0"):
        Progress(samples=0)
