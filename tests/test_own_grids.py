"""What the reproductions of own grids compute, on runs drawn from laws that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from configs.reproductions import _grids as grids
from configs.reproductions import batch_trajectory, own_step_law, precision_law, repeated_tokens
from models import counts
from scaling.laws.data_constrained import DATA_CONSTRAINED
from scaling.laws.kaplan import KAPLAN_STEPS
from scaling.laws.precision import PRECISION

TRUE = dict(Nc=3e6, alpha_N=0.11, Sc=60.0, alpha_S=0.7, B_star=4e5, alpha_B=0.15)
SIZES = (800, 1700, 3100)


def drawn() -> pd.DataFrame:
    """Curves of the law of a whole run, at each batch the better the nearer the rate to 0.02, without noise."""
    parts = []
    tokens = np.arange(grids.ROW, grids.TOKENS[-1] + 1, grids.ROW)
    for params, batch, rate in itertools.product(SIZES, grids.BATCHES, grids.RATES):
        step = grids.SEQ * batch
        at = dict(params_nonembed=np.full(len(tokens), float(params)), batch_tokens=np.full(len(tokens), float(step)))
        loss = KAPLAN_STEPS(TRUE, steps=(tokens - grids.ROW / 2) / step, **at)
        loss = np.asarray(loss) * (1 + 0.01 * np.log(rate / grids.RATES[2]) ** 2)
        setting = dict(params_nonembed=params, learning_rate=rate, batch_tokens=step, seed=0, flops=1e12)
        parts.append(pd.DataFrame({"tokens": tokens, "loss": loss}).assign(**setting))
    return pd.concat(parts, ignore_index=True)


def test_the_curve_of_a_size_and_batch_left_out_is_that_of_the_law_which_drew_the_others() -> None:
    found = batch_trajectory.foretell(drawn(), grids.largest(False))
    assert found["learning_rate"] == grids.RATES[2] and found["batch_tokens"] == grids.SEQ * grids.BATCHES[-1]
    size, step = found["params_nonembed"], found["batch_tokens"]
    steps = (np.array(found["tokens"]) - grids.ROW / 2) / step
    at = dict(params_nonembed=np.full(len(steps), float(size)), batch_tokens=np.full(len(steps), float(step)))
    np.testing.assert_allclose(found["loss"], KAPLAN_STEPS(TRUE, steps=steps, **at), rtol=1e-5)
    assert {name: pytest.approx(value, rel=1e-2) for name, value in TRUE.items()} == found["constants"]


def test_laws_of_grids_find_the_optima_that_drew_them_and_the_excess_of_a_setting() -> None:
    rows = []
    for params, tokens, rate, batch in itertools.product(SIZES, grids.TOKENS, grids.RATES, grids.BATCHES):
        best = 1.0 * params**-0.7 * tokens**0.1, 0.5 * tokens**0.57
        far = np.log(rate / best[0]) ** 2 + 0.5 * np.log(batch * grids.SEQ / best[1]) ** 2
        rows.append((params, rate, batch * grids.SEQ, 0, 3 * (1 + 0.004 * far), tokens))
    table = pd.DataFrame(rows, columns=[*grids.SETTING, "loss", "tokens"])
    laws = own_step_law.fit_laws(table, quick=False)
    assert laws["learning_rate"] == pytest.approx({"c": 1.0, "p": -0.7, "q": 0.1}, rel=1e-3)
    assert laws["batch"] == pytest.approx({"c": 0.5, "r": 0.57}, rel=1e-3)
    cell = table[table["params_nonembed"] == SIZES[0]]
    setting = dict(nearest_learning_rate=grids.RATES[0], nearest_batch_tokens=64)
    best = dict(best_learning_rate=grids.RATES[2], best_batch_tokens=512)
    row = next(pd.DataFrame([dict(tokens=grids.TOKENS[0]) | setting | best]).itertuples())
    at = cell[cell["tokens"] == grids.TOKENS[0]].set_index(["learning_rate", "batch_tokens"])["loss"]
    wanted = at[grids.RATES[0], 64] / at[grids.RATES[2], 512] - 1
    assert own_step_law.excess(cell, row) == pytest.approx(wanted)


def test_a_length_has_the_mean_loss_of_its_last_quarter_of_tokens() -> None:
    found = drawn()
    table = grids.losses(found)
    one = found[(found["params_nonembed"] == SIZES[1]) & (found["batch_tokens"] == 256)]
    one = one[one["learning_rate"] == grids.RATES[0]]
    got = table[(table["params_nonembed"] == SIZES[1]) & (table["batch_tokens"] == 256)]
    got = got[got["learning_rate"] == grids.RATES[0]].set_index("tokens")["loss"]
    for length in grids.TOKENS:
        last = one[(one["tokens"] > length * 3 / 4) & (one["tokens"] <= length)]["loss"]
        assert len(last) == length // grids.ROW // 4 and got[length] == pytest.approx(last.mean())


def test_the_law_of_few_epochs_foretells_many_where_it_drew_both() -> None:
    true = dict(A=90.0, B=120.0, E=1.2, alpha=0.35, R_D=9.0, R_N=5.0)
    axes = (2816, 7232, 13248), repeated_tokens.UNIQUE, range(1, 9)
    rows = [(n, k * repeated_tokens.EVERY, u or repeated_tokens.TOKENS) for n, u, k in itertools.product(*axes)]
    runs = pd.DataFrame(rows, columns=repeated_tokens.INPUTS).astype(float)
    runs["loss"] = DATA_CONSTRAINED(true, **{name: runs[name].to_numpy() for name in repeated_tokens.INPUTS})
    constants, many = repeated_tokens.foretold(runs)
    assert set(many["epochs"]) == {5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32}
    assert float(many["error"].abs().max()) < 1e-6 and constants["R_D"] == pytest.approx(9.0, rel=1e-3)


def test_the_law_of_few_sizes_and_bits_foretells_others_where_it_drew_both_and_the_one_without_bits_does_not() -> None:
    true = dict(A=20.0, B=300.0, E=1.2, alpha=0.4, beta=0.6, gamma_w=0.7, gamma_a=1.0, gamma_kv=1.0)
    trials = precision_law.plan("small", quick=False).trials()
    cells = {(counts.params_nonembed(t.model), 1 + t.train.trains.mantissa) for t in trials}
    rows = [(*cell, tokens, seed) for cell in cells for tokens in (2**14, 2**14 + 2**13, 2**15) for seed in range(2)]
    runs = pd.DataFrame(rows, columns=[*precision_law.CELL, "seed"]).astype(float)
    runs = runs.assign(activation_bits=precision_law.FULL, cache_bits=precision_law.FULL)
    runs["run"] = runs.groupby(["params", "weight_bits", "seed"]).ngroup().astype(str)
    runs["loss"] = PRECISION(true, **{name: runs[name].to_numpy() for name in PRECISION.inputs})
    at = precision_law.asked(runs, quick=False)
    said = precision_law.foretold(runs, at)
    full = {name: np.full(6, precision_law.FULL) for name in ("activation_bits", "cache_bits")}
    wanted = np.asarray(PRECISION(true, **{name: np.array(values) for name, values in at.items()}, **full))
    assert set(at["weight_bits"]) == {1.0, 3.0} and set(at["params"]) == {7008.0}
    np.testing.assert_allclose(said["with bits"], [wanted] * 2, rtol=1e-4)
    assert np.abs(np.array(said["without"]) / wanted - 1)[:, :3].min() > 0.02  # at one bit, which costs most
