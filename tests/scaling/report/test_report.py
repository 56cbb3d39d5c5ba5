import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from models.errors import ConfigError
from scaling import report
from scaling.fitting.fit import fit
from scaling.laws.chinchilla import CHINCHILLA
from scaling.report import figures, record, sections
from tests.scaling.report import synthetic

HOSTILE = """<script>alert(1)</script>"'&$\\frac{$ %s {0} \u202e step 7"""
VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Tags, attribute values and text of a page; fails when tags do not nest."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.text, self._open, self.sections = [], [], [], [], {}
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "section":
            self.sections[dict(attrs)["id"]] = []
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "section" in self._open:
            list(self.sections.values())[-1].append(data)

    def section(self, name):
        return " ".join("".join(self.sections[name]).split())


@pytest.fixture(scope="session")
def sweep():
    """(fitted rows, held-out row, its prediction, the fit)."""
    rows = synthetic.sweep_rows()
    held_out = synthetic.held_out_row()
    law = fit(CHINCHILLA, pd.DataFrame(rows), bootstrap=60)
    predicted = law.predict(params=held_out["params"], tokens=held_out["tokens"], interval=0.9)
    held_out["loss"] = float((2 * predicted.mean + predicted.high) / 3)  # inside: the tests read the verdict
    line = synthetic.prediction(held_out, predicted.mean, predicted.low, predicted.high)
    return rows, held_out, line, law


@pytest.fixture(scope="session")
def finished(sweep, tmp_path_factory):
    """A complete run directory with its report."""
    rows, held_out, line, law = sweep
    path = tmp_path_factory.mktemp("runs") / "complete"
    synthetic.write_directory(path, [*rows, held_out, synthetic.failed_row()], [line])
    law.to_json(path / "fit.json")
    report.write(path)
    return path


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the drawing, which takes most of the time and which `finished` covers."""
    blank = figures.Picture("blank", "blank", b"png", b"<svg/>", b"<svg/>")
    monkeypatch.setattr(figures.Drawing, "render", lambda self: blank)
    monkeypatch.setattr(figures.Drawing, "png", lambda self: b"png")


def test_report_has_every_section_and_figure(finished):
    page = Page(finished / "report.html")
    anchors = ["headline", "predictions", "isoflops", "frontier", "surface", "residuals", "training", "fit", "cost",
               "failed", "runs"]  # fmt: skip
    assert list(page.sections) == anchors
    drawn = {path.stem for path in (finished / "figures").glob("*.png")}
    assert drawn == {"isoflops", "frontier", "scaling", "surface", "residuals", "predictions", "training", "overview"}
    assert page.tags.count("img") == page.tags.count("source") == len(drawn) - 1
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (finished / "figures").glob("*.png"))


def test_headline_states_prediction_measurement_and_verdict(finished, sweep):
    _, held_out, line, _ = sweep
    said = Page(finished / "report.html").section("headline")
    assert "8x the compute" in said
    for value in (line["mean"], line["low"], line["high"], held_out["loss"]):
        assert f"{value:.4f}" in said
    assert "the interval held" in said
    assert "1 trial failed" in said


def test_report_is_self_contained_and_needs_no_script(finished):
    page = Page(finished / "report.html")
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "srcset"):
            assert value.startswith("data:image/svg+xml;base64,")
        if name == "href":
            assert value.startswith("#")
            assert value[1:] in page.sections
    assert not re.search(r"url\(|@import", (finished / "report.html").read_text())


def test_same_inputs_give_the_same_bytes(finished):
    files = [finished / "report.html", *sorted((finished / "figures").glob("*.png"))]
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    report.write(finished)
    assert [path.read_bytes() for path in files] == before


def test_second_call_changes_nothing_until_an_input_changes(sweep, tmp_path, undrawn):
    rows = sweep[0]
    path = synthetic.write_directory(tmp_path / "run", rows)
    written = report.write(path)
    stamp = written.stat().st_mtime_ns
    assert report.write(path).stat().st_mtime_ns == stamp
    (path / "figures" / "isoflops.png").unlink()
    report.write(path)
    assert (path / "figures" / "isoflops.png").exists()
    synthetic.write_directory(path, rows[:-1])
    report.write(path)
    assert rows[-1]["trial"] not in written.read_text()


def test_hostile_strings_are_shown_as_text(sweep, tmp_path, undrawn):
    rows, held_out, line, law = sweep
    hostile = [{**row, "sweep": HOSTILE, "device": HOSTILE} for row in rows]
    failed = synthetic.failed_row(error=HOSTILE, sweep=HOSTILE, device=HOSTILE)
    path = tmp_path / "<b> & $x$"
    synthetic.write_directory(path, [*hostile, held_out, failed], [{**line, "time": HOSTILE, "commit": HOSTILE}],
                              config={"name": HOSTILE, HOSTILE: [HOSTILE]})  # fmt: skip
    escaped = {**failed, "trial": f"../{HOSTILE}"}
    pd.DataFrame([*hostile, held_out, failed, escaped]).to_parquet(path / "results.parquet")
    law.to_json(path / "fit.json")
    page = Page(report.write(path))
    assert "script" not in page.tags
    assert "b" in page.tags  # ours, of the tiles; the directory's name adds none
    everything = "".join(page.text)
    assert everything.count("<script>alert(1)</script>") >= 6
    assert "<b> & $x$" in everything


def test_a_prediction_that_missed_says_so(sweep, tmp_path, undrawn):
    rows, held_out, line, _ = sweep
    missed = {**line, "low": 3.0, "mean": 3.1, "high": 3.2}
    page = Page(report.write(synthetic.write_directory(tmp_path / "run", [*rows, held_out], [missed])))
    assert "the interval did not hold" in page.section("headline")
    assert "outside" in page.section("predictions")


def test_a_prediction_without_an_interval_neither_holds_nor_misses(sweep, tmp_path, undrawn):
    rows, held_out, line, _ = sweep
    bare = {**line, "low": None, "high": None}
    page = Page(report.write(synthetic.write_directory(tmp_path / "run", [*rows, held_out], [bare])))
    assert "without an interval, which its rows do not support" in page.section("headline")
    for section in ("headline", "predictions"):
        assert "there was no interval" in page.section(section)
        assert "did not hold" not in page.section(section) and "outside" not in page.section(section)


def test_the_first_prediction_of_a_trial_counts(sweep, tmp_path, undrawn):
    rows, held_out, line, _ = sweep
    later = {**line, "mean": 3.1, "low": 3.0, "high": 3.2}
    page = Page(report.write(synthetic.write_directory(tmp_path / "run", [*rows, held_out], [line, later])))
    assert "the interval held" in page.section("headline")
    assert "1 later prediction(s) of the same trials are ignored" in page.section("headline")


def test_a_held_out_run_that_is_missing_or_failed_is_told_apart(sweep, tmp_path, undrawn):
    rows, held_out, line, _ = sweep
    page = Page(report.write(synthetic.write_directory(tmp_path / "a", rows, [line])))
    assert "has not been measured yet" in page.section("headline")
    stopped = synthetic.failed_row(held_out["trial"])
    page = Page(report.write(synthetic.write_directory(tmp_path / "b", [*rows, stopped], [line])))
    assert "That run has failed" in page.section("headline")


def test_an_absent_part_says_why(sweep, tmp_path, undrawn):
    rows = sweep[0]
    page = Page(report.write(synthetic.write_directory(tmp_path / "no_fit", rows, curves=False)))
    assert "no run was held out" in page.section("predictions")
    for name in ("surface", "residuals", "fit"):
        assert "There is no fit.json" in page.section(name)
    assert "No trial has a metrics.jsonl" in page.section("training")
    page = Page(report.write(synthetic.write_directory(tmp_path / "one_trial", rows[:1])))
    assert "1 transformer of" in page.section("headline")
    assert "no curve" in page.section("isoflops")
    assert "There is no frontier" in page.section("frontier")
    one_budget = [row for row in rows if abs(row["flops"] / 6e11 - 1) < 0.05]
    page = Page(report.write(synthetic.write_directory(tmp_path / "one_budget", one_budget)))
    assert "One budget only" in page.section("isoflops")
    failed = [synthetic.failed_row(f"f{i}") for i in range(3)]
    page = Page(report.write(synthetic.write_directory(tmp_path / "all_failed", failed)))
    assert "nothing to fit" in page.section("headline")
    assert page.section("failed").count("loss spiked to 9.31 at step 812") == 3


def test_an_empty_directory_gives_a_report_and_none_an_error(tmp_path):
    page = Page(report.write(tmp_path))
    assert "results.parquet is missing" in page.section("headline")
    assert "config.json is missing" in page.section("headline")
    with pytest.raises(ConfigError, match="nowhere: is not a directory: "):
        report.write(tmp_path / "nowhere")


def test_damaged_files_are_named(sweep, tmp_path, undrawn):
    rows, held_out, line, _ = sweep
    path = synthetic.write_directory(tmp_path / "run", [*rows, held_out], [line])
    with open(path / "predictions.jsonl", "a", encoding="utf-8") as f:
        f.write('{"trial": "x", "inputs": {"params": [1]}, "mean": 1, "low": 1, "high": 1, "interval": 0.9}\n{"trial"')
    (path / "fit.json").write_text('{"law": ')
    (path / "config.json").write_text("{")
    with open(path / "trials" / rows[0]["trial"] / "metrics.jsonl", "a", encoding="utf-8") as f:
        f.write('{"step": 3, "heldout_loss": 2.0}\n{"step": 4, "loss": null}\n{"step": 9, "lo')
    page = Page(report.write(path))
    said = page.section("headline")
    assert "predictions.jsonl has 2 unreadable line(s)" in said
    assert "fit.json cannot be used" in said
    assert "config.json cannot be read" in said
    assert "the interval held" in said
    (path / "results.parquet").write_bytes(b"PAR1")
    assert "results.parquet cannot be read" in Page(report.write(path)).section("headline")


@pytest.mark.parametrize("name", ["config.json", "predictions.jsonl", "fit.json", "metrics.jsonl", "results.parquet"])
def test_no_file_of_another_structure_keeps_the_report_from_being_read(sweep, tmp_path, name):
    rows, held_out, line, _ = sweep
    path = synthetic.write_directory(tmp_path / "run", [*rows, held_out], [line])
    file = path / "trials" / rows[0]["trial"] / name if name == "metrics.jsonl" else path / name
    for shape in ("{}", "[]", "null", "1", '"x"', "[" * 100_000, "\udcff", '{"loss": 1' + "0" * 400 + "}", "9" * 5000):
        file.write_bytes((shape + "\n").encode(errors="surrogateescape"))
        assert isinstance(record.read(path).notes, tuple)
    for columns in ({"loss": [[1.0], None]}, {"trial": [1]}, {"flops": ["x"]}, {"seed": [None]}):
        pd.DataFrame(columns).to_parquet(path / "results.parquet")
        assert len(record.read(path).runs) == len(next(iter(columns.values())))


def test_failed_trials_carry_step_and_reason(finished):
    said = Page(finished / "report.html").section("failed")
    assert "812" in said
    assert "loss spiked to 9.31 at step 812" in said
    assert report.record.failure("loss or its gradient is not finite at step 12345") == (
        "12,345", "loss or its gradient is not finite at step 12345")  # fmt: skip
    assert report.record.failure(None) == ("–", "no reason was recorded")


def test_every_row_has_a_command_that_a_shell_reads_back(finished, sweep):
    import shlex

    run = report.read(finished)
    page = Page(finished / "report.html")
    for trial in run.runs["trial"]:
        words = shlex.split(run.command(trial))
        assert words[:4] == ["python", "-m", "launch.train", "--config"]
        assert words[4] == str(finished / "trials" / trial / "config.json")
        assert run.command(trial) in page.section("runs")
    odd = report.RunRecord(finished / "a b;$(rm)", {}, run.runs, run.predictions, None)
    assert shlex.split(odd.command("t"))[4] == str(finished / "a b;$(rm)" / "trials" / "t" / "config.json")


def test_costs_add_up(finished, sweep):
    rows, held_out, _, _ = sweep
    run = report.read(finished)
    spent = sum(row["flops"] for row in [*rows, held_out])
    stopped = run.metrics["ff0048abcdef"]["flops"].max()
    assert run.runs["spent_flops"].sum() == pytest.approx(spent + stopped, rel=1e-12)
    said = Page(finished / "report.html").section("cost")
    assert report.numbers.scientific(spent + stopped) in said
    for kind in ("all fitted", "all held out", "all failed", "total"):
        assert kind in said


def test_parameters_come_with_intervals_and_the_certificate_in_words(finished, sweep):
    said = Page(finished / "report.html").section("fit")
    for name in (*CHINCHILLA.parameters, *CHINCHILLA.derived):
        assert name in said
    assert "L = E + A / N**alpha + B / D**beta" in said
    assert "starts reached this optimum" in said
    assert f"{len(sweep[0])} distinct runs determine 5 parameters" in said


def test_a_fit_with_flags_shows_them_first(sweep):
    law = fit(CHINCHILLA, pd.DataFrame(sweep[0][:6]))
    words = sections.certificate(law.certificate, law.objective)
    assert law.certificate.warnings
    assert words.startswith('<p class="warning">')


def test_all_trials_are_grouped_by_budget():
    flops = pd.DataFrame({"flops": [1e12, 1.05e12, 1.2e12, 3e12, np.nan, 0.0, 2.95e12]})
    labels = report.budgets(flops)
    assert labels[0] == labels[1] == pytest.approx(np.sqrt(1e12 * 1.05e12))
    assert labels[2] == pytest.approx(1.2e12)
    assert labels[3] == labels[6]
    assert labels[[4, 5]].isna().all()


def test_a_dense_series_of_costs_does_not_become_one_budget():
    flops = pd.DataFrame({"flops": np.geomspace(1e12, 1e13, 60)})
    labels = report.budgets(flops)
    assert (np.abs(np.log(flops["flops"] / labels)) < np.log(1.1)).all()


def test_overview_is_written_where_asked(finished, tmp_path):
    target = report.plot_overview(finished, tmp_path / "docs" / "overview.png")
    assert target.read_bytes() == (finished / "figures" / "overview.png").read_bytes()
    with pytest.raises(ConfigError, match="finish the sweep first"):
        report.plot_overview(tmp_path)


def test_config_is_shown_as_written(finished):
    assert json.dumps({"name": "synthetic"}, indent=2).split() == Page(finished / "report.html").section("runs").split(
        "(config.json)")[1].split()  # fmt: skip


def test_a_sweep_without_budgets_shows_its_trials_best_first_and_no_empty_section(sweep, tmp_path, undrawn):
    rows = [dict(row) for row in sweep[0][:3]]
    for row, rate in zip(rows, (0.1, 0.2, 0.4), strict=True):
        row |= {"config": json.dumps({"train": {"learning_rate": rate, "seed": 0}}), "params": 1000}
    path = synthetic.write_directory(tmp_path / "plain", rows, curves=False)
    points = [{"train.learning_rate": rate} for rate in (0.1, 0.2, 0.4)]
    config = {"name": "plain", "isoflop": None, "prediction": None, "points": points, "seeds": 1}
    (path / "config.json").write_text(json.dumps(config))
    sizes = {"train": {"tokens": 9000, "documents": 30}, "heldout": {"tokens": 9000, "documents": 1}}
    source = {"name": "book.txt"} | sizes
    record = {"digest": "x", "heldout_fraction": 0.05, "sources": [source | {"duplicates": 2}], "epochs": 10.0}
    (path / "manifest.json").write_text(json.dumps({"data": {"key": record}}))
    page = Page(report.write(path))
    assert list(page.sections) == ["headline", "best", "data", "training", "cost", "failed", "runs"]
    trials = re.findall(r"\d{6}abcdef", page.section("best"))
    assert trials == [row["trial"] for row in sorted(rows, key=lambda row: row["loss"])]
    assert "learning_rate" in page.section("best") and "predicted" not in page.section("headline")
    assert "2 a duplicate" in page.section("data") and "10 times" in page.section("data")
    assert "book.txt: 50.0% of the tokens are held out" in page.section("data")


def test_a_parameter_on_its_bound_is_said_in_short(sweep, tmp_path, undrawn):
    rows, _, _, law = sweep
    bound = dataclasses.replace(law, certificate=dataclasses.replace(law.certificate, active_bounds=("E",)))
    path = synthetic.write_directory(tmp_path / "bound", rows, curves=False)
    (path / "fit.json").write_text(bound.to_json())
    page = Page(report.write(path))
    assert "E of the fitted law ended on its bound (E = " in page.section("headline")
