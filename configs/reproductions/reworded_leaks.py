"""Word vectors find the leaked problems that n-grams miss because they were put into other words.

    python -m launch.reproduce reworded_leaks --workdir runs/reproductions/reworded_leaks

A minute on one core: training sets of made-up word problems, half in each of two wordings, into which test items fell.
"""

import numpy as np

from scaling.data.select import Neighbours
from scaling.evaluate.measures.leakage import Overlap, recall_and_precision
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, t_interval
from scaling.tasks.word_problems import reworded, word_problems

WORDS = 8  # of an n-gram, as for short items
LARGEST = 200  # number of a problem
TOP = 20  # directions left out: the least of 0, 3, 10, 20 ... 100 that found all rewordings in corpora 1000 and 1001
WAYS = ("n-grams", "words", "vectors", "both")  # words: vectors with no direction left out


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="reworded_leaks",
        methods=(261,),
        claim="Searching by meaning on top of n-grams cleans a training set of leaked problems better than n-grams "
        "alone",
        source="He et al. 2025, arXiv:2504.11456, section 2 (decontamination)",
        smallest_effect=0.1,
        unit="F1 of finding leaked items, both searches less n-grams alone",
        minutes=2,
        not_covered="a trained embedding and a judging model (weighted words without their strongest "
        "directions stand for both; with these directions, the first form tried, rewordings stay hidden: see "
        "words); leaks with other numbers or "
        "in another language; the filter by difficulty; training on the cleaned set",
        simulated=True,
        run=run,
    )


def run(work: Workspace) -> Measured:
    seeds = range(2 if work.quick else 16)
    found = work.keep("found", lambda: [searched(seed, 200 if work.quick else 2000) for seed in seeds])
    gain = np.array([one["f1"]["both"] - one["f1"]["n-grams"] for one in found])
    means = {key: {way: float(np.mean([one[key][way] for one in found])) for way in WAYS} for key in found[0]}
    details = {"means over corpora": means, "gain by corpus": list(gain)}
    return Measured(float(gain.mean()), t_interval(gain), 0.0, details)


def searched(seed: int, size: int) -> JSON:
    """F1, precision, and recall of verbatim and of reworded leaks, by every way of searching one training set."""
    rng, quarter = np.random.default_rng(seed), size // 20
    problems = word_problems(seed, 6 * quarter, "test", LARGEST)
    tests, clean = problems[: 4 * quarter], problems[4 * quarter :]  # `clean` is known to lie in no training set
    training = word_problems(seed, size, "train", LARGEST)
    texts = [p.question if i % 2 else reworded(p, rng) for i, p in enumerate(training)]
    texts += [p.question for p in tests[:quarter]]
    texts += [reworded(p, rng) for p in tests[quarter : 2 * quarter]]
    asked = [p.question for p in tests]
    by_gram = Overlap.of(texts, WORDS).flagged(asked, least=0.5)
    by_word, by_vector = (
        near.flagged(asked, near.least([p.question for p in clean]))
        for near in (Neighbours.of(texts), Neighbours.of(texts, TOP))
    )
    planted = np.arange(len(tests)) < 2 * quarter
    report: dict[str, dict[str, float]] = {"f1": {}, "precision": {}, "verbatim": {}, "reworded": {}}
    for way, flagged in zip(WAYS, (by_gram, by_word, by_vector, by_gram | by_vector), strict=True):
        recall, precision = recall_and_precision(flagged, planted)
        precision = precision if flagged.any() else 1.0
        report["f1"][way] = 2 * recall * precision / (recall + precision) if recall else 0.0
        report["precision"][way] = precision
        report["verbatim"][way] = float(flagged[:quarter].mean())
        report["reworded"][way] = float(flagged[quarter : 2 * quarter].mean())
    return report
