"""Observational laws: principal components with missing scores, the capability link, and a cutoff in compute."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws.observational import Components, observe

BENCHMARKS = ["MMLU", "ARC-C", "HellaSwag", "Winograd", "TruthfulQA", "XWinograd", "HumanEval"]


def models(n: int = 60, seed: int = 0, noise: float = 0.0):
    """Models of 6 families whose 6 benchmarks are linear in two capabilities and whose target is a sigmoid of them."""
    rng = np.random.default_rng(seed)
    family = np.arange(n) % 6
    flops = np.exp(rng.uniform(np.log(1e20), np.log(1e24), n))
    # every family has its own efficiency on the first capability
    first = 0.4 * (np.log(flops) - 50) + 0.3 * family
    latent = np.column_stack([first, rng.normal(size=n)])
    loadings = np.array([[0.10, 0.08, 0.06, 0.05, 0.09, 0.07], [0.02, -0.03, 0.04, 0.0, -0.02, 0.03]])
    table = pd.DataFrame(0.5 + latent @ loadings + noise * rng.standard_normal((n, 6)), columns=list("abcdef"))
    link = 0.8 / (1 + np.exp(-(1.2 * latent[:, 0] - 0.5 * latent[:, 1])))
    return table.assign(family=[f"f{k}" for k in family], flops=flops, target=link)


def test_components_are_those_of_the_covariance_matrix():
    table = models(noise=0.02)[list("abcdef")]
    found = Components.of(table, 3)
    values, vectors = np.linalg.eigh(np.cov(table.T.to_numpy(), bias=True))
    assert found.scale**2 == pytest.approx(values[::-1][:3], rel=1e-9)
    assert np.abs(found.loadings @ vectors[:, ::-1][:, :3]) == pytest.approx(np.eye(3), abs=1e-9)
    pcs = found.transform(table)
    assert pcs.std(ddof=0).to_numpy() == pytest.approx(np.ones(3), rel=1e-9)
    assert found.explained.sum() < 1


def test_missing_scores_of_a_low_rank_table_are_filled_in_exactly():
    table = models()[list("abcdef")]
    holes = table.copy()
    rng = np.random.default_rng(1)
    for row in rng.choice(len(table), 20, replace=False):
        holes.iloc[row, rng.integers(6)] = np.nan
    complete, filled = Components.of(table, 2), Components.of(holes, 2)
    assert filled.loadings == pytest.approx(complete.loadings, abs=1e-5)
    assert filled.transform(holes).to_numpy() == pytest.approx(complete.transform(table).to_numpy(), abs=1e-4)


def test_a_two_component_world_is_recovered():
    table = models()
    found = observe(table, list("abcdef"), "target", components=2)
    assert found.predict(table) == pytest.approx(table["target"], abs=1e-7)
    assert found.link.params.h == pytest.approx(0.8, rel=1e-5)


def test_equivalent_compute_of_a_family_is_its_own_compute():
    table = models(noise=0.0)
    found = observe(table, list("abcdef"), "target", components=1)
    inside = table["family"] == "f2"
    own = found.equivalent_flops(table[inside], "f2")
    assert np.corrcoef(np.log(own), np.log(table["flops"][inside]))[0, 1] > 0.9
    # later families are more efficient: they are worth more of the first one's compute
    ratio = [
        np.median(
            np.log(found.equivalent_flops(table[table["family"] == f], "f0") / table["flops"][table["family"] == f])
        )
        for f in ("f0", "f2", "f5")
    ]
    assert ratio[0] == pytest.approx(0, abs=0.7) and ratio[0] < ratio[1] < ratio[2]
    with pytest.raises(ValueError, match="'f9' has no law"):
        found.equivalent_flops(table, "f9")


def test_bad_tables_name_the_model_or_the_benchmark():
    table = models()[list("abcdef")]
    with pytest.raises(ValueError, match="benchmark c: has no score"):
        Components.of(table.assign(c=np.nan), 2)
    with pytest.raises(ValueError, match="7 components"):
        Components.of(table, 7)
    found = Components.of(table, 2)
    with pytest.raises(ValueError, match="model 0: 1 scores"):
        found.transform(table.assign(**dict.fromkeys("bcdef", np.nan)).head(1))


def test_public_models_follow_few_components_and_extrapolate_over_a_compute_cutoff(published):
    table = published("obs_base_llm_benchmark_eval.csv").rename(
        columns={"FLOPs (1E21)": "flops", "Model Family": "family"}
    )
    table["flops"] *= 1e21
    whole = observe(table, BENCHMARKS, "GSM8K")
    assert whole.components.explained.sum() > 0.95
    large_families = whole.families[whole.families["models"] >= 5]
    assert len(large_families) >= 5 and large_families["r2"].median() > 0.9
    known = table[table["flops"].notna()]
    below, above = known[known["flops"] <= 84e21], known[known["flops"] > 84e21]
    assert len(above) >= 15
    found = observe(below, BENCHMARKS, "GSM8K")
    error = np.mean(np.abs(found.predict(above) - above["GSM8K"]))
    assert error < 0.12
    assert error < 0.5 * np.mean(np.abs(below["GSM8K"].mean() - above["GSM8K"]))
