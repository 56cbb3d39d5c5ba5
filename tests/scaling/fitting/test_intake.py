"""Tables as people publish them: forms, separators, units, statuses; what was done to the rows is said."""

from __future__ import annotations

import gzip
import json
import os

import numpy as np
import pandas as pd
import pytest

from models.errors import ConfigError
from scaling.fitting.runs import RowsWarning, as_table
from scaling.fitting.where import select
from scaling.laws import CHINCHILLA, UnitWarning, fit, holdout, isoflop_minima, load


@pytest.fixture
def runs(synthetic):
    return synthetic(20)


FORMS = ("a.csv", "a.CSV", "a.csv.gz", "a.tsv", "a.json", "a.jsonl", "a.jsonl.gz", "a.json.gz")


@pytest.mark.parametrize("name", FORMS)
def test_every_form_reads_the_same(runs, tmp_path, name):
    lower = name.lower()
    if ".json" in lower:
        text = runs.to_json(orient="records", lines=".jsonl" in lower, double_precision=15)
    else:
        text = runs.to_csv(index=False, sep="\t" if ".tsv" in lower else ",")
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if lower.endswith(".gz") else data)
    assert np.allclose(load(tmp_path / name)[list(runs)], runs, rtol=1e-12)


@pytest.mark.parametrize(
    "document", [lambda r: r, lambda r: {"data": r}, lambda r: {name: [row[name] for row in r] for name in r[0]}]
)
def test_records_may_lie_in_a_list_under_a_key_or_as_columns(runs, tmp_path, document):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(document(runs.to_dict("records"))))
    assert np.allclose(load(path)[list(runs)], runs)


def test_separators_thousands_encodings_and_units_are_read_and_said(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_bytes(
        "params (M) ;tokens (B); loss [nats];note;flops\n"
        "110,678.5;2.5;3.1;caf\xe9;110,678,115\n124.0;5;3.0;x;1,200,000\n".encode("latin-1")
    )
    table = load(path)
    assert list(table) == ["params", "tokens", "loss", "note", "flops"]
    assert table["params"].tolist() == pytest.approx([110678.5e6, 124e6]) and table["tokens"].tolist() == [2.5e9, 5e9]
    assert table["flops"].tolist() == [110678115, 1200000] and table["note"].iloc[0] == "café"
    said = " | ".join(table.attrs["notes"])
    for words in ("Latin-1", "';'", "flops: commas read as thousands", "params (M): read as params x 1e+06"):
        assert words in said


def test_decimal_commas_of_semicolon_files(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params;loss\n1000000;3,25\n2000000;3,1\n")
    assert load(path)["loss"].tolist() == [3.25, 3.1]


def test_numbers_and_headers_as_people_write_them(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "# sweep of March\n"
        "params_M|tokens, B|flops (EFLOPs)|compute (1e18 FLOPs)|size|data|loss (bits/token)\n"
        "110.5|2.5|1.5|2|1'460'958'746|1.46B|3.1\n||||||\n124|5|3|4|460'958|250M|3.0\n"
    )
    table = load(path)
    assert pytest.approx(np.array(
        [[110.5e6, 124e6], [2.5e9, 5e9], [1.5e18, 3e18], [2e18, 4e18], [1460958746, 460958], [1.46e9, 250e6]]
    )) == table.drop(columns="loss").to_numpy().T  # fmt: skip
    assert list(table)[:4] == ["params", "tokens", "flops", "compute"] and len(table) == 2
    said = " | ".join(table.attrs["notes"])
    for words in (
        "'|'",
        "comments",
        "1 blank rows",
        "params_M: read as params x 1e+06",
        "left in bits",
        "B, T read as",
    ):
        assert words in said


@pytest.mark.parametrize("form", ["split", "index", "table", "beside", "lines", "ndjson", "utf-16", "no gzip", "gzip"])
def test_other_forms_of_the_same_table_read_the_same(runs, tmp_path, form):
    name = {"ndjson": "a.ndjson", "utf-16": "a.csv", "no gzip": "a.csv.gz", "gzip": "a.csv"}.get(form, "a.json")
    if form in ("split", "index", "table"):
        text = runs.to_json(orient=form, double_precision=15)
    elif form == "beside":
        text = json.dumps({"meta": {"by": "us"}, "version": 3, "rows": runs.to_dict("records")})
    elif "json" in name:
        text = runs.to_json(orient="records", lines=True, double_precision=15)
    else:
        text = runs.to_csv(index=False)
    data = text.encode("utf-16" if form == "utf-16" else "utf-8")
    (tmp_path / name).write_bytes(gzip.compress(data) if form == "gzip" else data)
    assert np.allclose(load(tmp_path / name)[list(runs)], runs, rtol=1e-12)


def test_records_within_records_are_columns_that_can_be_renamed(runs, tmp_path):
    rows = [
        {"config": {"params": r.params}, "tokens": r.tokens, "summary": {"loss": r.loss}} for r in runs.itertuples()
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="rename it with columns={'params': 'config.params'}"):
        fit(CHINCHILLA, tmp_path / "a.jsonl")
    again = fit(CHINCHILLA, tmp_path / "a.jsonl", columns={"params": "config.params", "loss": "summary.loss"})
    assert again.params == pytest.approx(fit(CHINCHILLA, runs).params, rel=1e-9)


def test_columns_of_one_name_are_refused_where_they_are_read_and_left_out_elsewhere(runs):
    other = runs.assign(flops=6 * runs["params"] * runs["tokens"], trial="t", note=1.0)
    for name in ("flops", "trial"):
        with pytest.raises(ConfigError, match=f"2 columns are named '{name}'"):
            fit(CHINCHILLA, pd.concat([other, other[name]], axis=1))
    with pytest.warns(RowsWarning, match="several columns have these names: note"):
        assert "note" not in as_table(pd.concat([other, other["note"]], axis=1))


def test_two_columns_of_one_name_are_refused(tmp_path, runs):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss,loss\n" + "\n".join(f"{n}e8,{n}e9,3.0,3.1" for n in range(1, 9)))
    for table in (path, pd.concat([runs, runs["loss"]], axis=1)):
        with pytest.raises(ConfigError, match="^runs: 2 columns are named 'loss': drop or rename"):
            fit(CHINCHILLA, table)


def test_missing_sizes_follow_from_the_compute_and_it_is_said(runs):
    whole = runs.assign(flops=6 * runs["params"] * runs["tokens"])
    expected = fit(CHINCHILLA, whole).params
    for name in ("params", "tokens"):
        fitted = fit(CHINCHILLA, whole.drop(columns=name))
        assert fitted.params == pytest.approx(expected, rel=1e-6)
        assert f"{name} = flops / (6 " in fitted.summary()


def test_gaps_in_a_column_are_filled_from_the_compute_and_it_is_said(runs):
    whole = runs.assign(flops=6 * runs["params"] * runs["tokens"])
    gaps = whole.assign(tokens=whole["tokens"].where(whole.index > 3))
    fitted = fit(CHINCHILLA, gaps)
    assert fitted.params == pytest.approx(fit(CHINCHILLA, whole).params, rel=1e-6)
    assert "tokens = flops / (6 params) in 4 of 20 rows" in fitted.summary()


def test_exports_of_a_tracker_are_understood(runs):
    export = pd.DataFrame({"parameter_count": runs["params"], "eval/loss": runs["loss"],
                           "throughput/total_gflops": 6e-9 * runs["params"] * runs["tokens"]})  # fmt: skip
    fitted = fit(CHINCHILLA, export)
    assert fitted.params == pytest.approx(fit(CHINCHILLA, runs).params, rel=1e-6)
    assert "flops: throughput/total_gflops x 1e+09" in fitted.summary()


def test_a_run_is_done_by_any_word_for_it_and_what_is_left_out_is_said(runs):
    words = ["done"] * 9 + ["completed"] * 3 + ["Finished"] * 5 + [" OK ", None, "failed"]
    table = as_table(runs.assign(status=words))
    assert len(table) == 19 and table.attrs["notes"] == (
        "status: 1 of 20 rows say nothing and were taken for done",
        "status: 1 of 20 rows left out (1 'failed')",
    )
    assert "1 of 20 rows left out" in fit(CHINCHILLA, runs.assign(status=words)).summary()
    with pytest.warns(RowsWarning, match="is 'weird' a failure"):
        as_table(runs.assign(status=["weird"] + ["done"] * 19))
    with pytest.raises(ConfigError, match="^runs: no row's status says that its run is done: 20 'lost'"):
        as_table(runs.assign(status="lost"))
    for column in ("State", "run_status", "_state"):  # as trackers export it
        table = as_table(runs.assign(**{column: ["finished"] * 14 + ["Failed (out of memory)"] * 6}))
        assert len(table) == 14 and f"{column}: 6 of 20 rows left out" in table.attrs["notes"][0]
    assert len(as_table(runs.assign(state=["Utah"] * 20))) == 20  # no word of it is about a run


def test_what_was_done_to_the_rows_is_said_after_a_table_was_loaded_first(runs, tmp_path):
    path = tmp_path / "runs.csv"
    flops = 6 * runs["params"] * runs["tokens"]
    runs.assign(flops=flops, State=["finished"] * 17 + ["crashed"] * 3).to_csv(path, sep=";", index=False)
    said = ("separated by ';'", "State: 3 of 20 rows left out")
    cut = f"flops > {flops.iloc[:17].median():.4g}"
    texts = [fit(CHINCHILLA, load(path)).summary(), holdout(CHINCHILLA, load(path), cut, bootstrap=4).fit.summary()]
    assert not [(words, text) for words in said for text in texts if words not in text]


def test_bad_rows_that_are_held_out_are_dropped_like_those_that_are_fitted(runs):
    bad = runs.assign(loss=runs["loss"].where(runs.index != runs["tokens"].idxmax()))
    test = holdout(CHINCHILLA, bad, f"tokens > {runs['tokens'].median()}", bootstrap=4, drop_bad=True)
    assert len(test.table) == 9 and "1 of 20 rows dropped" in test.fit.summary()


def test_bad_rows_are_dropped_on_demand_and_counted(runs):
    bad = runs.assign(loss=[np.nan, -1.0, *runs["loss"].iloc[2:]])
    with pytest.raises(ConfigError, match="loss is nan"):
        fit(CHINCHILLA, bad)
    fitted = fit(CHINCHILLA, bad, drop_bad=True)
    assert fitted.certificate.points == 18 and "2 of 20 rows dropped" in fitted.summary()
    assert fit(CHINCHILLA, runs, where="params > 1e8").certificate.points == int((runs["params"] > 1e8).sum())


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz"])
def test_a_pipe_is_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="no regular file"):
        load(tmp_path / name)


def test_a_number_beyond_any_float_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("params,tokens,loss\n" + "9" * 400 + ",1e9,3\n" * 8)
    with pytest.raises(ConfigError, match="params: has a number beyond 1e308"):
        fit(CHINCHILLA, tmp_path / "a.csv")


def test_where_takes_quoted_columns_and_truth():
    table = pd.DataFrame({"eval/loss": [3.0, 2.0, 1.0], "Model Size": [1, 2, 3], "kept": ["True", "false", "TRUE"]})
    table["flag"] = [True, False, None]
    assert select(table, "'eval/loss' > 1.5 and \"Model Size\" >= 2").tolist() == [False, True, False]
    assert select(table, "kept").tolist() == [True, False, True]
    assert select(table, "not flag").tolist() == [False, True, True]
    assert select(table, "kept == true and flag != True").tolist() == [False, False, True]
    with pytest.raises(ConfigError, match="does not hold true and false"):
        select(table, "'Model Size' > true")


@pytest.mark.parametrize("changed", ["params", "tokens"])
def test_millions_beside_counts_are_noticed_and_planned_with_a_warning(runs, changed):
    with pytest.warns(UnitWarning, match="per parameter: are both columns counts, not millions"):
        fitted = fit(CHINCHILLA, runs.assign(**{changed: runs[changed] / 1e6}))
    assert any("counts, not millions" in warning for warning in fitted.certificate.warnings)


def test_units_are_checked_for_other_counts_of_parameters_for_budgets_and_for_all_in_millions(runs):
    flops = 6 * runs["params"] * runs["tokens"]
    with pytest.warns(UnitWarning, match="x 6 params_nonembed tokens"):
        fit("kaplan", runs.assign(params_nonembed=runs["params"] / 1e6, flops=flops))
    with pytest.warns(UnitWarning, match="FLOP, less than a minute of one processor"):
        fit(CHINCHILLA, runs.assign(params=runs["params"] / 1e6, tokens=runs["tokens"] / 1e6))
    sizes = np.geomspace(0.3, 3, 6)
    iso = pd.DataFrame([(n * 1e9 * c**0.5, 1e20 * c / (6e9 * n), 1e20 * c, 2 + np.log(n) ** 2)
                        for c in (1, 4, 16) for n in sizes], columns=["params", "tokens", "flops", "loss"])  # fmt: skip
    with pytest.warns(UnitWarning, match="x 6 params tokens"):
        assert "! flops: the median" in isoflop_minima(iso.assign(params=iso["params"] / 1e6), bootstrap=20).summary()


def test_losses_above_any_vocabulary_are_noticed(runs):
    with pytest.warns(UnitWarning, match="above ln\\(vocabulary\\) of any tokenizer"):
        fit(CHINCHILLA, runs.assign(loss=np.exp(runs["loss"])))


def test_points_of_one_run_are_noticed(synthetic):
    sizes, tokens = np.geomspace(5e7, 5e9, 6), np.geomspace(1e9, 1e11, 20)
    grid = pd.DataFrame([(n, d) for n in sizes for d in tokens], columns=["params", "tokens"])
    truth = dict(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
    curves = grid.assign(loss=CHINCHILLA(truth, **grid), run=np.repeat(np.arange(6), 20))
    named = fit(CHINCHILLA, curves)
    assert any("120 rows of 6 runs: they are not independent, name them with cluster='run'" in w
               for w in named.certificate.warnings)  # fmt: skip
    bare = fit(CHINCHILLA, curves.drop(columns="run"))
    assert any("look like 6 training curves" in warning for warning in bare.certificate.warnings)
    assert not any("not independent" in w for w in fit(CHINCHILLA, curves, cluster="run").certificate.warnings)
    few = fit(CHINCHILLA, curves[curves["run"] < 3], cluster="run")
    assert "3 runs for 5 parameters" in few.certificate.no_interval and np.isnan(few.interval(0.9).alpha.low)
    assert fit(CHINCHILLA, synthetic(40)).certificate.ok
    exported = fit(CHINCHILLA, curves.rename(columns={"run": "Name"}))  # as a tracker writes it
    assert any("name them with cluster='Name'" in warning for warning in exported.certificate.warnings)
    few = fit(CHINCHILLA, curves.drop(columns="run").iloc[::4])
    assert few.certificate.ok and "if these are points of one run, name the run with cluster=" in few.summary()
    # curves of one size under several schedules lie among each other until the setting parts them
    mixed = pd.concat([curves.assign(loss=curves["loss"] * k, epochs=k, tokens=curves["tokens"] * k) for k in (1, 1.1)])
    mixed = fit(CHINCHILLA, mixed.drop(columns="run"))
    assert any("240 rows look like 12 training curves" in warning for warning in mixed.certificate.warnings)


def test_a_nearly_constant_input_identifies_nothing(published):
    runs = published("steplaw_moe.csv")
    best = runs.loc[runs.groupby(["params_active", "tokens"])["smooth_loss"].idxmin()]
    fitted = fit(CHINCHILLA, best, columns={"params": "params_nonembed", "loss": "smooth_loss"})
    doubtful = {*fitted.certificate.not_identified, *fitted.certificate.active_bounds}
    assert "A" in fitted.certificate.not_identified and "alpha" in doubtful
    assert np.isnan(fitted.interval(0.9).alpha.low) and "params varies by 0.2" in fitted.summary()


def test_rows_that_repeat_others_to_the_last_bit_are_said(synthetic):
    runs = synthetic(30)
    twice = pd.concat([runs, runs.head(10)])
    assert any("10 of 40 rows repeat others exactly" in note for note in fit(CHINCHILLA, twice).certificate.warnings)
    assert not any("repeat" in note for note in fit(CHINCHILLA, runs).certificate.warnings)
