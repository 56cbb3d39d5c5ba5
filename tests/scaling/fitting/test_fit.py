"""The Fit object: what a notebook asks of it, what a file keeps of it, and what bad input is told."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.fitting.where import select
from scaling.laws import (
    CHINCHILLA,
    Fit,
    Law,
    by_name,
    compare,
    fit,
    holdout,
    isoflop_minima,
    load,
    plan,
    rolling,
    runs_needed,
)


@pytest.fixture
def fitted(synthetic):
    return fit(CHINCHILLA, synthetic(), bootstrap=60, seed=1)


def test_json_keeps_every_digit(fitted, tmp_path):
    path = tmp_path / "fit.json"
    fitted.to_json(path)
    again = Fit.from_json(path)
    assert again.params == fitted.params
    assert np.array_equal(again.draws.z, fitted.draws.z)
    assert again.certificate == fitted.certificate
    assert again.predict(params=7e10, tokens=1.4e12) == fitted.predict(params=7e10, tokens=1.4e12)
    assert again.interval(0.9) == fitted.interval(0.9)
    assert repr(plan(again, flops=1e22)) == repr(plan(fitted, flops=1e22))
    assert again.to_json() == fitted.to_json()


def test_a_file_that_is_not_a_fit_is_refused(tmp_path):
    for content in ("{}", "not json", json.dumps({"format": 1})):
        (tmp_path / "fit.json").write_text(content)
        with pytest.raises(ValueError, match="fit.json"):
            Fit.from_json(tmp_path / "fit.json")
    with pytest.raises(ValueError, match="cannot be read"):
        Fit.from_json(tmp_path / "absent.json")
    (tmp_path / "fit.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        Fit.from_json(tmp_path / "fit.json")


@pytest.fixture(scope="module")
def document():
    """A saved fit, taken apart."""
    rng = np.random.default_rng(0)
    params, tokens = np.exp(rng.uniform(np.log([[5e7], [1e9]]), np.log([[1e10], [3e11]]), (2, 40)))
    loss = CHINCHILLA(dict(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36), params=params, tokens=tokens)
    return json.loads(fit(CHINCHILLA, {"params": params, "tokens": tokens, "loss": loss}, bootstrap=20).to_json())


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d["params"].pop("alpha"),
        lambda d: d["params"].update(alpha="big"),
        lambda d: d["z"].pop(),
        lambda d: d["table"]["inputs"].pop("tokens"),
        lambda d: d["table"]["measured"].pop(),
        lambda d: d["draws"].update(z=[[1.0, 2.0]]),
        lambda d: d["objective"].update(kind="guess"),
        lambda d: d["calibrations"]["flops"].pop("share"),
        lambda d: d.update(table=None),
        lambda d: d.update(kind="grouped fit"),
        lambda d: d.update(format=99),
    ],
)
def test_a_saved_fit_with_a_part_missing_is_refused_in_one_line(document, damage):
    broken = json.loads(json.dumps(document))
    damage(broken)
    with pytest.raises(ValueError, match=r"^(fit: is not a saved fit|objective: 'guess')") as caught:
        Fit.from_json(json.dumps(broken))
    assert "\n" not in str(caught.value)


def test_a_law_of_ones_own_comes_back_when_it_is_given(synthetic):
    law = Law(
        name="mine",
        formula="L = E + A / N**alpha",
        inputs=("params",),
        output="loss",
        predict=lambda p, x: p.E + p.A * x.params**-p.alpha,
        linear=("E", "A"),
        exponents=("alpha",),
        bounds=dict(E=(0, None), A=(0, None), alpha=(0, 2)),
    )
    one = fit(law, synthetic())
    text = one.to_json()
    assert Fit.from_json(text, law=law).params == one.params
    with pytest.raises(ValueError, match="have chinchilla"):
        Fit.from_json(text)


def test_prediction_is_the_law_inside_its_interval(fitted):
    one = fitted.predict(params=7e10, tokens=1.4e12, interval=0.9)
    assert one.mean == pytest.approx(float(CHINCHILLA(fitted.params, params=7e10, tokens=1.4e12)), rel=1e-12)
    assert one.low < one.mean < one.high
    wider = fitted.predict(params=7e10, tokens=1.4e12, interval=0.99)
    assert wider.low <= one.low and wider.high >= one.high
    many = fitted.predict(params=[7e9, 7e10], tokens=1.4e12)
    assert many.mean.shape == (2,) and many.mean[1] == pytest.approx(one.mean, rel=1e-12)
    with pytest.raises(ValueError, match="needs 'tokens'"):
        fitted.predict(params=1e9)


def test_interval_methods_agree_on_a_sound_fit(synthetic):
    fitted = fit(CHINCHILLA, synthetic(120), bootstrap=400, objective="gaussian")
    widths = {method: np.diff(fitted.interval(0.9, method)["alpha"])[0] for method in ("percentile", "bca", "normal")}
    assert max(widths.values()) < 1.6 * min(widths.values())
    with pytest.raises(ValueError, match="not known"):
        fitted.interval(0.9, "guess")


def test_summary_and_html_name_every_parameter(fitted):
    for text in (fitted.summary(), fitted._repr_html_()):
        for name in (*CHINCHILLA.parameters, "a", "b"):
            assert name in text


def test_columns_may_be_renamed_in_either_direction(synthetic):
    runs = synthetic().rename(columns={"params": "N", "tokens": "D"})
    one = fit(CHINCHILLA, runs, columns={"params": "N", "tokens": "D"})
    two = fit(CHINCHILLA, runs, columns={"N": "params", "D": "tokens"})
    assert one.params == two.params


@pytest.mark.parametrize("columns", [{"params": "sizes"}, {"sizes": "params"}, {"loss": "tokenz"}])
def test_a_rename_to_or_from_no_column_is_refused_even_where_the_law_has_its_columns(synthetic, columns):
    with pytest.raises(ValueError, match=r"^columns: .* is no column: (have params|did you mean 'tokens')"):
        fit(CHINCHILLA, synthetic(), columns=columns)
    with pytest.raises(ValueError, match=r"^columns: "):
        holdout("chinchilla", synthetic(), "tokens > 1e11", columns=columns)


def test_a_missing_column_is_named_with_its_likely_source(synthetic):
    with pytest.raises(ValueError, match=r"no column 'tokens' .*columns=\{'tokens': 'Tokens'\}"):
        fit(CHINCHILLA, synthetic().rename(columns={"tokens": "Tokens"}))
    with pytest.raises(ValueError, match=r"columns=\{'params': 'N'\}"):
        fit(CHINCHILLA, synthetic().rename(columns={"params": "N"}))


def test_an_unknown_law_lists_the_catalogue(synthetic):
    with pytest.raises(ValueError, match="did you mean 'chinchilla'"):
        fit("chinchila", synthetic())
    assert by_name("chinchilla") is CHINCHILLA


def test_failed_trials_are_left_out(synthetic):
    runs = synthetic().assign(status="done")
    broken = pd.concat([runs, pd.DataFrame([{"params": 1e8, "tokens": 1e9, "loss": np.nan, "status": "failed"}])])
    assert fit(CHINCHILLA, broken).certificate.points == len(runs)


def test_tables_load_from_files_and_run_directories(synthetic, tmp_path):
    runs = synthetic()
    runs.to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "sweep").mkdir()
    runs.to_parquet(tmp_path / "sweep" / "results.parquet")
    assert fit(CHINCHILLA, tmp_path / "runs.csv").params == fit(CHINCHILLA, str(tmp_path / "sweep")).params
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.parquet").write_text("not parquet")
    (tmp_path / "runs.xyz").write_text("")
    for path, problem in [
        ("empty", "no results.parquet"),
        ("bad.parquet", "unreadable"),
        ("absent.csv", "no such file"),
        ("runs.xyz", "cannot read .xyz"),
    ]:
        with pytest.raises(ValueError, match=problem):
            load(tmp_path / path)


def test_a_plan_for_a_loss_costs_what_reaches_it(fitted):
    cheapest = plan(fitted, loss=2.1)
    assert cheapest.loss == pytest.approx(2.1, rel=1e-9)
    assert plan(fitted, flops=cheapest.flops).loss == pytest.approx(2.1, rel=1e-9)
    with pytest.raises(ValueError, match="below what chinchilla can reach"):
        plan(fitted, loss=1.0)


def test_serving_many_tokens_makes_the_model_smaller(fitted):
    train, serve = plan(fitted, flops=1e22), plan(fitted, flops=1e22, inference_tokens=1e12)
    assert serve.params < train.params and serve.loss > train.loss
    assert 6 * serve.params * serve.tokens + 2 * serve.params * 1e12 == pytest.approx(1e22, rel=1e-9)
    assert "inference" in serve.cost
    assert (
        not serve.warnings
        and "times below the smallest fitted size" in plan(fitted, flops=1e20, inference_tokens=1e15).summary()
    )
    doubled = plan(fitted, flops=2e22, cost=lambda n, d: 12 * n * d)
    assert doubled.params == pytest.approx(train.params, rel=1e-4)


@pytest.mark.parametrize("served", [np.nan, np.inf, -1.0])
def test_tokens_to_serve_must_be_a_count(fitted, served):
    with pytest.raises(ValueError, match="^inference_tokens: .* is no count"):
        plan(fitted, flops=1e22, inference_tokens=served)


def test_a_budget_that_serving_eats_up_has_no_plan(fitted):
    with pytest.raises(ValueError, match="^plan: no model of 10 parameters or more can be trained and served"):
        plan(fitted, flops=1e20, inference_tokens=1e19)
    with pytest.raises(ValueError, match="^plan: no model"):
        plan(fitted, flops=1e20, cost=lambda n, d: 6 * n * d + 1e21)


@pytest.mark.parametrize("level", [0.0, 1.0, 90])
def test_a_level_is_a_probability(fitted, level):
    for ask in (
        lambda: fitted.predict(params=1e9, tokens=1e10, interval=level),
        lambda: plan(fitted, flops=1e22, interval=level),
        lambda: holdout(CHINCHILLA, fitted.table.inputs | {"loss": fitted.table.measured}, "flops > 1", interval=level),
    ):
        with pytest.raises(ValueError, match="is not a probability: use a value such as 0.95"):
            ask()


def test_plan_intervals_hold_the_plan(fitted):
    best = plan(fitted, flops=1e22, interval=0.95)
    for name in ("params", "tokens", "tokens_per_param", "loss"):
        low, high = best.intervals[name]
        assert low < getattr(best, name) < high


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flops > 1e20", [False, True, True]),
        ("flops>=1e20 and params < 3", [False, True, False]),
        ("not (flops < 1e20) or params == 1", [True, True, True]),
        ("params <= 1.5e0", [True, False, False]),
        ("name == 'b' or name != \"b\" and params > 2", [False, True, True]),
    ],
)
def test_row_selections_are_parsed(text, expected):
    table = pd.DataFrame({"flops": [1e19, 2e20, 3e21], "params": [1, 2, 3], "name": ["a", "b", "c"]})
    assert list(select(table, text)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("flops > 1e30", "matches none .* flops goes from 1e\\+19 to 3e\\+21"),
        ("flop > 1", "did you mean 'flops'"),
        ("flops >", "expected a number"),
        ("(flops > 1", "not closed"),
        ("flops > 1 flops", "unexpected"),
        ("__import__('os')", "cannot read|expected|no column"),
        ("", "expected a column"),
        ("flops > 'a'", "compared with =="),
        ("name > 3", "is text"),
    ],
)
def test_bad_row_selections_are_explained(text, problem):
    table = pd.DataFrame({"flops": [1e19, 2e20, 3e21], "params": [1, 2, 3], "name": ["a", "b", "c"]})
    with pytest.raises(ValueError, match=problem):
        select(table, text)


@given(st.text(alphabet="flopsarmd()<>=! andornt.0123456789e'\"", max_size=30))
def test_no_row_selection_crashes(text):
    table = pd.DataFrame({"flops": [1e19, 2e20], "params": [1.0, 2.0]})
    try:
        assert select(table, text).any()
    except ValueError as error:
        assert "\n" not in str(error)


def test_holdout_scores_what_was_not_fitted(synthetic):
    runs = synthetic(80)
    result = holdout(CHINCHILLA, runs, where="flops > 1e21")
    flops = 6 * runs["params"] * runs["tokens"]
    assert len(result.table) == (flops > 1e21).sum() and result.fit.certificate.points == (flops <= 1e21).sum()
    assert result.error < 0.05 < float((result.table["baseline_last"] / result.table["measured"] - 1).abs().mean())
    assert 0.7 <= result.coverage <= 1 and result.score > 0
    with pytest.raises(ValueError, match="holds out every row"):
        holdout(CHINCHILLA, runs, where="flops > 1")


@pytest.mark.parametrize("by", ["flops", "params", "tokens"])
def test_rolling_tests_extrapolate_only(synthetic, by):
    table = rolling(CHINCHILLA, synthetic(60), by=by, cuts=3, bootstrap=40)
    assert (table["reach"] > 1).all() and table["cut"].nunique() == 3
    assert table["error"].abs().mean() < 0.1


def test_cuts_of_our_own_lie_between_budgets_that_are_not_quite_equal(synthetic):
    rng = np.random.default_rng(0)
    budgets = np.repeat(np.geomspace(1e18, 1e21, 6), 6) * np.exp(rng.uniform(-0.04, 0.04, 36))
    params = np.sqrt(budgets / 120) * np.tile(np.geomspace(0.4, 2.5, 6), 6)
    runs = synthetic(36).assign(params=params, tokens=budgets / (6 * params))
    runs["loss"] = CHINCHILLA(dict(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36), **runs[["params", "tokens"]])
    table = rolling(CHINCHILLA, runs, cuts=6, bootstrap=20)
    assert set(table["fitted_on"]) == {18, 24, 30}


def test_a_law_of_a_loss_is_extrapolated_downwards():
    bpb = np.geomspace(1.6, 0.7, 24)
    truth = dict(a=-0.7, x0=0.9, k=5.0, b=0.97)
    law = by_name("task_sigmoid")
    accuracy = law(truth, bpb=bpb) + 0.004 * np.random.default_rng(0).standard_normal(24)
    fitted = fit(law, {"bpb": bpb, "accuracy": accuracy})
    assert fitted.table.axis_name == "1 / bpb" and fitted.table.axis == pytest.approx(1 / bpb)
    assert fitted.discrepancy(bpb=0.4) > fitted.discrepancy(bpb=0.7)
    inside = fit(law, {"bpb": np.geomspace(9.0, 0.7, 24), "accuracy": law(truth, bpb=np.geomspace(9.0, 0.7, 24))})
    assert inside.discrepancy(bpb=3.0) == 0 and inside.reach(bpb=0.35).iloc[0, 0] == pytest.approx(np.log(2))
    table = rolling(law, {"bpb": bpb, "accuracy": accuracy}, by="bpb", cuts=[1.0], bootstrap=20)
    assert (table["bpb"] < 1.0).all() and (table["cut"] == 1.0).all() and (table["reach"] > 1).all()
    counted = rolling(law, {"bpb": bpb, "accuracy": accuracy}, by="bpb", cuts=3, bootstrap=20)
    assert (counted["bpb"] < counted["cut"]).all()
    with pytest.raises(ValueError, match="no row of bpb"):
        rolling(law, {"bpb": bpb, "accuracy": accuracy}, by="bpb", cuts=[0.1])


def test_compare_ranks_the_true_law_first(synthetic):
    no_tokens = Law(
        name="size only",
        formula="L = E + A / N**alpha",
        inputs=("params",),
        output="loss",
        predict=lambda p, x: p.E + p.A * x.params**-p.alpha,
        linear=("E", "A"),
        exponents=("alpha",),
        bounds=dict(E=(0, None), A=(0, None), alpha=(0, 2)),
    )
    table = compare([no_tokens, CHINCHILLA], synthetic(60), cuts=2, bootstrap=40)
    assert table.index[0] == "chinchilla"
    assert {"last value", "power law without E", "size only"} < set(table.index)


def test_an_argument_that_nothing_takes_is_refused_with_the_nearest(fitted, synthetic):
    runs = synthetic(40).assign(flops=lambda t: 6 * t["params"] * t["tokens"])
    for ask, words in (
        (lambda: fitted.predict(params=1e9, tokens=1e10, level=0.5), r"predict\(level=\): is no .* 'interval'"),
        (lambda: fitted.predict(params=1e9, token=1e10, tokens=1e10), r"predict\(token=\): is no .* 'tokens'"),
        (lambda: plan(fitted, 1e21, level=0.5), r"plan\(level=\): is no .* 'interval'"),
        (lambda: holdout(CHINCHILLA, runs, "flops > 1e20", level=0.5), r"holdout\(level=\): is no .* 'interval'"),
        (lambda: rolling(CHINCHILLA, runs, objectiv="lad"), r"rolling\(objectiv=\): is no .* 'objective'"),
        (lambda: compare([CHINCHILLA], runs, level=0.5), r"compare\(level=\): is no .* 'interval'"),
        (lambda: fit(CHINCHILLA, runs, bootstraps=5), r"fit\(bootstraps=\): is no .* 'bootstrap'"),
        (lambda: fitted.interval(confidence=0.5), r"interval\(confidence=\): is no .* 'interval'"),
        (lambda: fitted.summary(level=0.5), r"summary\(level=\): is no .* 'interval'"),
        (lambda: fitted.plot("profile", level=0.5), r"plot\(level=\): is no .* 'interval'"),
        (lambda: fitted.reach(params=1e9, tokens=1e10, level=0.5), r"inputs\(level=\): is no argument"),
        (lambda: isoflop_minima(runs, level=0.5), r"isoflop_minima\(level=\): is no argument"),
        (lambda: runs_needed(fitted, "a", width=0.1, level=0.5), r"runs_needed\(level=\): is no .* 'interval'"),
        (lambda: fitted.predict("90%", params=1e9, tokens=1e10), "interval: '90%' is not a probability"),
        (lambda: fitted.predict(params=-1.0, tokens=1e10), "params: -1.0 is no input of chinchilla"),
        (lambda: fitted.predict(params=[1e9, 2e9], tokens=[1e10] * 3), "inputs: differ in length: 2 of params, 3 of"),
        (lambda: plan(fitted, "1e21"), "plan: 1e21 is not a positive number"),
        (lambda: fit(CHINCHILLA, runs, space="wurst"), "space: 'wurst' is no residual space"),
        (lambda: fit(CHINCHILLA, runs, fixed={"E": np.nan}), "fixed: E is nan: give a number between 0 and inf"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()


def test_an_undefined_interval_is_neither_hit_nor_miss(synthetic):
    runs = synthetic(40).assign(flops=lambda t: 6 * t["params"] * t["tokens"])
    smallest = runs.nsmallest(6, "flops")["flops"].max()
    test = holdout(CHINCHILLA, runs, f"flops > {smallest}", bootstrap=20)
    assert np.isnan(test.coverage) and test.table["inside"].isna().all()
    assert "no intervals: 6 distinct points for 5 parameters" in test.summary() and "0.0%" not in test.summary()


def test_a_plan_without_a_best_size_is_refused(synthetic, truth):
    runs = synthetic(30)
    one = runs.assign(tokens=1e10, loss=CHINCHILLA(truth, params=runs["params"], tokens=1e10))
    with pytest.raises(ValueError, match="^fit: the rows do not determine .* so there is no best size"):
        plan(fit(CHINCHILLA, one), 1e21)
    no_size = runs.assign(loss=1.8 + 2000 * runs["tokens"] ** -0.36)
    flat = fit(CHINCHILLA, no_size, fixed={"A": 1e-9, "alpha": 0.3})
    with pytest.raises(ValueError, match="falls to the end of the sizes searched"):
        plan(flat, 1e21)
