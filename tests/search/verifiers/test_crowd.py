"""Verdicts of judges are weighed as Bayes' rule says, and no more of them are asked for than it takes."""

import itertools

import numpy as np
import pytest

from models.errors import ConfigError
from search.verifiers.crowd import Reliability, reliability, retired

KNOWN = Reliability(np.array([0.9, 0.6, 0.75]), np.array([0.7, 0.8, 0.55]))
PRIOR, REJECT, ACCEPT = 0.3, 0.08, 0.9


def by_hand(said: tuple[int, ...]) -> tuple[float, int]:
    """(posterior, votes), by multiplying likelihoods one vote at a time."""
    right, wrong = PRIOR, 1 - PRIOR
    for judge, verdict in enumerate(said):
        c, s = KNOWN.completeness[judge], KNOWN.soundness[judge]
        right *= c if verdict else 1 - c
        wrong *= 1 - s if verdict else s
        posterior = right / (right + wrong)
        if not REJECT <= posterior <= ACCEPT:
            break
    return posterior, judge + 1


def test_every_course_of_votes_ends_where_bayes_rule_ends_it() -> None:
    courses = list(itertools.product((0, 1), repeat=3))
    found = retired(courses, np.broadcast_to(np.arange(3), (8, 3)), KNOWN, PRIOR, REJECT, ACCEPT)
    posterior, votes = zip(*map(by_hand, courses))
    np.testing.assert_allclose(found.posterior, posterior, rtol=1e-12)
    assert found.votes.tolist() == list(votes)
    assert len(set(votes)) > 1  # some are retired early, some never


def test_reliability_is_counted_on_solutions_that_are_known() -> None:
    found = reliability([1, 1, 0], [[1, 0, 0], [1, 1, 1]])
    assert found.completeness.tolist() == [3 / 5, 4 / 5] and found.soundness.tolist() == [3 / 4, 2 / 4]


def test_a_prior_beyond_the_thresholds_is_refused() -> None:
    with pytest.raises(ConfigError, match="prior: is 0.995"):
        retired([[1]], [[0]], KNOWN, 0.995)
    with pytest.raises(ConfigError, match="verdicts"):
        reliability([1, 0], [[1, 0, 1]])
