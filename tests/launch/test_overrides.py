"""Overrides, config files and the JSON of configs: every value survives, every mistake is one line with a fix."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.overrides import apply_overrides, config_help, flatten, load_config, parse
from models import serialize
from models.config import ModelConfig
from models.errors import ConfigError
from scaling.sweep.combinators import grid
from scaling.sweep.config import SweepConfig
from scaling.sweep.isoflop import Isoflop
from search.study import SearchSweepConfig

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class AdamW:
    b1: float = 0.9


@dataclass(frozen=True)
class Muon:
    momentum: float = 0.95


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 10
    learning_rate: float = 1e-3
    warmup: float | None = None
    clip: float | int = 1
    schedule: Literal["constant", "cosine"] | None = "cosine"
    log: bool = True
    note: str = ""
    name: str | None = None
    sizes: tuple[int, ...] = (8, 16)
    betas: tuple[float, float] = (0.9, 0.95)
    words: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    optimizer: AdamW | Muon = AdamW()
    noise: AdamW | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError("steps", f"is {self.steps}", "give at least one")
        if self.warmup is not None and self.warmup > self.steps:
            raise ConfigError("train.warmup", f"is longer than {self.steps} steps", "shorten it")
        if self.note == "plain":
            raise ValueError("something is off")
        if self.note == "formed":
            raise ValueError("note: is formed: change it")


@dataclass(frozen=True)
class Run:
    seed: int
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    draft: ModelConfig = ModelConfig()
    parts: tuple[AdamW, ...] = ()
    derived: int = field(init=False, default=0)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
ADAM = st.builds(AdamW, b1=FLOATS)
TRAIN = st.builds(
    TrainConfig,
    steps=st.integers(1, 2**63 - 1),
    learning_rate=FLOATS,
    warmup=st.none() | st.floats(-10, 1),
    clip=FLOATS | INTEGERS,
    schedule=st.sampled_from(["constant", "cosine", None]),
    log=st.booleans(),
    note=TEXT.filter(lambda text: text not in ("plain", "formed")),
    name=st.none() | TEXT,
    sizes=st.lists(INTEGERS).map(tuple),
    betas=st.tuples(FLOATS, FLOATS),
    words=st.lists(TEXT).map(tuple),
    weights=st.dictionaries(TEXT, FLOATS),
    optimizer=ADAM | st.builds(Muon, momentum=FLOATS),
    noise=st.none() | ADAM,
)
RUNS = st.builds(Run, seed=INTEGERS, train=TRAIN, parts=st.lists(ADAM).map(tuple))


def message(function: Any, *arguments: Any, **keywords: Any) -> str:
    """The one line of the ConfigError that a call must raise."""
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **keywords)
    line = str(caught.value)
    assert "\n" not in line and line.count(": ") >= 2
    return line


@given(RUNS)
def test_json_round_trip_returns_an_equal_config_and_digest(run: Run) -> None:
    again = serialize.from_json(Run, serialize.to_json(run))
    assert again == run
    assert serialize.canonical(again) == serialize.canonical(run)
    assert serialize.digest(again) == serialize.digest(run)


@given(RUNS, RUNS)
def test_configs_have_equal_digests_exactly_when_they_are_equal(one: Run, other: Run) -> None:
    assert (serialize.digest(one) == serialize.digest(other)) == (one == other)


def test_the_digest_does_not_see_how_a_number_was_written() -> None:
    plain = TrainConfig(learning_rate=1.0, steps=10, betas=(0.0, 1.0))
    typed = TrainConfig(learning_rate=np.float64(1), steps=np.int64(10), betas=(-0.0, 1))  # type: ignore[arg-type]
    assert serialize.digest(plain) == serialize.digest(typed)
    assert serialize.digest(plain) != serialize.digest(dataclasses.replace(plain, steps=11))


def test_the_digest_is_the_same_in_another_process_and_for_all_time() -> None:
    code = "from models import serialize, config; print(serialize.digest(config.ModelConfig()))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == serialize.digest(ModelConfig())
    assert serialize.canonical(AdamW(b1=0.1)) == '{"b1":0.1}'
    assert serialize.digest(AdamW(b1=0.1)) == "d42b60687e068ab1d1865b83cc1f616ee62fe145160da594134d37aeedda0e12"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"seed": 1, "sede": 2}, ["sede", "no such field", "did you mean seed?"]),
        ({}, ["seed", "is missing", "integer"]),
        ({"seed": "1"}, ["seed", "'1' is not an integer"]),
        ({"seed": True}, ["seed", "True is not an integer"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
        ({"seed": None}, ["seed", "None"]),
        ({"seed": 1, "train": 3}, ["train", "3"]),
        ({"seed": 1, "train": {"steps": 0}}, ["train.steps", "is 0"]),
        ({"seed": 1, "train": {"sizes": [1, "x"]}}, ["train.sizes[1]", "'x' is not an integer"]),
        ({"seed": 1, "train": {"betas": [1]}}, ["train.betas", "has 1 values"]),
        ({"seed": 1, "train": {"optimizer": {"b1": 1}}}, ["train.optimizer.type", "is missing", "AdamW, Muon"]),
        ({"seed": 1, "train": {"optimizer": {"type": "AdamW", "b2": 1}}}, ["train.optimizer.b2", "b1"]),
        ({"seed": 1, "parts": [{"b1": "x"}]}, ["parts[0].b1", "finite number"]),
        ({"seed": 1, "train": {"weights": {"a": "x"}}}, ["train.weights[a]"]),
        ({"seed": 1, "model": {"n_heads": 3}}, ["model.n_heads", "do not divide"]),
        ({"seed": 1, "draft": {"n_heads": 3}}, ["draft.n_heads", "do not divide"]),
    ],
)
def test_reading_json_names_the_field_and_the_fix(data: dict[str, Any], words: list[str]) -> None:
    line = message(serialize.from_json, Run, data)
    assert line.startswith(words[0] + ": ")
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": "10"}, ["train.steps", "'10' is not an integer"]),
        ({"learning_rate": math.nan}, ["train.learning_rate", "nan is not a finite number"]),
        ({"sizes": [8]}, ["train.sizes", "[8] is not a list"]),
        ({"schedule": "cosin"}, ["train.schedule", "did you mean cosine?"]),
        ({"optimizer": ModelConfig()}, ["train.optimizer", "AdamW or a Muon"]),
    ],
)
def test_writing_json_refuses_values_that_do_not_fit_their_annotation(values: dict[str, Any], words: list[str]) -> None:
    train = TrainConfig()
    for name, value in values.items():
        object.__setattr__(train, name, value)
    line = message(serialize.to_json, Run(seed=0, train=train))
    assert line.startswith(words[0] + ": ") and all(word in line for word in words)


@given(TRAIN)
def test_an_override_written_as_python_prints_it_gives_the_value_back(train: TrainConfig) -> None:
    plain = ("steps", "learning_rate", "warmup", "clip", "schedule", "log", "sizes", "betas")
    texts = {f"train.{name}": str(getattr(train, name)) for name in plain} | {"train.note": train.note}
    changed = apply_overrides(Run(seed=0), texts).train
    assert all(getattr(changed, name) == getattr(train, name) for name in (*plain, "note"))


@given(st.lists(TEXT.filter(lambda t: t and t == t.strip() and not set(t) & set(',()[]"{}'))))
def test_a_list_of_words_parses_with_and_without_brackets(words: list[str]) -> None:
    text = ",".join(words)
    for written in (text, f"({text})", f"[{text}]", f"[{text},]" if words else "[]"):
        assert parse(written, tuple[str, ...], "words") == tuple(words)


@given(TEXT, st.sampled_from([int, float, bool, int | None, tuple[int, ...], Literal["a", "b"], dict[str, int]]))
def test_any_text_gives_a_value_of_the_type_or_one_line(text: str, annotation: Any) -> None:
    try:
        value = parse(text, annotation, "field")
    except ConfigError as error:
        assert "\n" not in str(error) and str(error).startswith("field")
    else:
        assert serialize.decode(value if not isinstance(value, tuple) else list(value), annotation, "field") == value


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("512", int, 512),
        ("1_000", int, 1000),
        ("1e6", int, 1_000_000),
        ("1.5e3", int, 1500),
        ("-3", int, -3),
        ("1e-3", float, 1e-3),
        ("3", float, 3.0),
        ("3", float | int, 3),
        ("3", int | str, 3),
        ("true", bool, True),
        ("0", bool, False),
        ("None", int | None, None),
        ("none", Literal["none", "full"] | None, "none"),
        ("null", str | None, None),
        ("", str | None, ""),
        ("8,16,32", tuple[int, ...], (8, 16, 32)),
        ("8", tuple[int, ...], (8,)),
        ("", tuple[int, ...], ()),
        ("0.9,0.95", tuple[float, float], (0.9, 0.95)),
        ("[[1,2],[3]]", tuple[tuple[int, ...], ...], ((1, 2), (3,))),
        ('["a,b", "c"]', tuple[str, ...], ("a,b", "c")),
        ('{"code": 1, "text": 0.5}', dict[str, float], {"code": 1.0, "text": 0.5}),
    ],
)
def test_text_is_read_by_annotation(text: str, annotation: Any, value: Any) -> None:
    parsed = parse(text, annotation, "field")
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("model.d_modle", "8", ["no such field", "did you mean model.d_model?", "n_layers"]),
        ("modle.d_model", "8", ["modle", "did you mean model?"]),
        ("train.steps", "abc", ["'abc' is not an integer"]),
        ("train.steps", "1e-3", ["'1e-3' is not an integer"]),
        ("train.steps", "1.5", ["'1.5' is not an integer"]),
        ("train.steps", "1e99", ["integer"]),
        ("train.steps", "1e999999999", ["integer"]),
        ("train.steps", "", ["integer"]),
        ("train.steps", "0", ["is 0", "at least one"]),
        ("train.learning_rate", "nan", ["finite number"]),
        ("train.learning_rate", "inf", ["finite number"]),
        ("train.log", "maybe", ["true or false"]),
        ("train.schedule", "cosin", ["did you mean cosine?"]),
        ("train.betas", "0.9", ["has 1 values", "give 2"]),
        ("train.words", '["a', ["is not valid JSON"]),
        ("train.steps.x", "1", ["not a group of fields", "set train.steps itself"]),
        ("train", "1", ["is a group of fields", "train.steps"]),
        ("derived", "1", ["no such field"]),
        ("model.n_heads", "3", ["do not divide d_model"]),
        ("train.warmup", "11", ["is longer than 10 steps"]),
        ("train.note", "plain", ["something is off"]),
        ("train.note", "formed", ["is formed", "change it"]),
        ("draft.n_heads", "3", ["do not divide d_model"]),
    ],
)
def test_a_wrong_override_names_its_dotted_field(name: str, text: str, words: list[str]) -> None:
    line = message(apply_overrides, Run(seed=0), {name: text})
    assert line.startswith((f"{name}: ", "modle: ", "train.steps: ", "train: something"))
    assert all(word in line for word in words)


def test_an_element_of_a_list_is_named_by_its_place() -> None:
    assert message(apply_overrides, Run(seed=0), {"train.sizes": "8,x"}).startswith("train.sizes[1]: 'x' is not")


def test_fields_of_a_group_change_at_once_so_rules_across_them_see_only_the_result() -> None:
    run = apply_overrides(Run(seed=0), {"model.d_model": "96", "model.n_heads": "3", "seed": "7"})
    assert (run.model.d_model, run.model.n_heads, run.seed) == (96, 3, 7)
    assert run.train == TrainConfig() and Run(seed=0).model == ModelConfig()


def test_overriding_a_field_of_an_absent_group_starts_from_its_defaults() -> None:
    assert apply_overrides(Run(seed=0), {"train.noise.b1": "0.5"}).train.noise == AdamW(b1=0.5)
    assert apply_overrides(Run(seed=0), {"train.optimizer.b1": "0.5"}).train.optimizer == AdamW(b1=0.5)
    line = message(apply_overrides, Run(seed=0), {"train.noise": "None", "train.noise.b1": "1"})
    assert "keep one of the two" in line


@given(RUNS)
def test_flatten_lists_exactly_the_fields_that_can_be_overridden(run: Run) -> None:
    flat = flatten(run)
    assert flat["train.steps"] == run.train.steps and "derived" not in flat
    for name in ("seed", "model.d_model", "train.learning_rate"):
        assert apply_overrides(run, {name: str(flat[name])}) == run


CONFIG = '''
    """What to run: python -m launch.train.

    On what: two cores.
    """
    from models.config import ModelConfig

    def config() -> ModelConfig:
        {body}
'''


def write(folder: Any, body: str, name: str = "micro.py") -> Any:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(textwrap.dedent(CONFIG).lstrip().format(body=body))
    return folder / name


def test_a_config_file_gives_its_config_and_its_docstring(tmp_path: Any) -> None:
    path = write(tmp_path / "configs", "return ModelConfig(d_model=64)")
    assert load_config(path) == load_config(path, (ModelConfig, Run)) == ModelConfig(d_model=64)
    assert config_help(path).splitlines()[-1] == "On what: two cores."


def test_a_config_may_derive_from_its_neighbour(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "family", "return ModelConfig(d_model=64)", "base.py")
    source = "import dataclasses\nfrom family.base import config as base\n"
    source += "def config():\n    return dataclasses.replace(base(), n_layers=2)\n"
    (tmp_path / "family" / "wide.py").write_text(source)
    assert load_config(tmp_path / "family" / "wide.py") == ModelConfig(d_model=64, n_layers=2)
    assert str(tmp_path) not in sys.path
    monkeypatch.delitem(sys.modules, "family.base")
    monkeypatch.delitem(sys.modules, "family")


def test_a_helper_beside_a_config_is_importable_and_stands_in_for_no_package(tmp_path: Any, monkeypatch: Any) -> None:
    write(tmp_path / "family", "from helper_of_family import width\n    return ModelConfig(d_model=width)", "wide.py")
    (tmp_path / "family" / "helper_of_family.py").write_text("width = 64\n")
    (tmp_path / "family" / "models.py").write_text("raise SystemExit('the wrong models')\n")
    before = list(sys.path)
    assert load_config(tmp_path / "family" / "wide.py") == ModelConfig(d_model=64)
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "helper_of_family")


def test_our_configs_are_found_from_anywhere(tmp_path: Any, monkeypatch: Any) -> None:
    expected = load_config(REPOSITORY / "configs" / "micro.py")
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/micro.py") == expected
    write(tmp_path / "configs", "return ModelConfig(d_model=64)")
    assert load_config("configs/micro.py") == ModelConfig(d_model=64)  # the user's own comes first


def test_lists_in_a_config_file_are_tuples(tmp_path: Any) -> None:
    path = write(tmp_path / "configs", "return ModelConfig(sliding_window=4, layer_types=['sliding', 'full'])")
    assert load_config(path).layer_types == ("sliding", "full")
    hash(load_config(path))


def test_a_field_that_the_sweep_sets_in_every_trial_cannot_be_overridden_in_its_base() -> None:
    rates = SweepConfig(points=tuple(grid({"train.learning_rate": [0.1, 0.2], "model.d_model": [32, 64]})))
    plan = SweepConfig(isoflop=Isoflop((1e12,), (64, 128), min_ratio=0.1))
    both = dataclasses.replace(plan, points=({"train.steps": 5, "train.learning_rate": 0.1},))
    some = SweepConfig(points=({"train.steps": 5}, {"train.learning_rate": 0.1}))
    dead = [(rates, "train.learning_rate", "points"), (plan, "train.steps", "isoflop"),
            (both, "train.steps", "points and isoflop"), (rates, "data.seed", "train.seed"),
            (SweepConfig().base, "data.seed", "train.seed")]  # fmt: skip
    for config, name, what in dead:
        line = message(apply_overrides, config, {name: "7"})
        assert line == f"{name}: is set by {what} in every trial, so that giving it changes nothing: change it there"
    live = [(rates, "train.steps"), (plan, "train.learning_rate"), (both, "train.learning_rate"), (some, "train.steps"),
            (SweepConfig(), "train.steps")]  # fmt: skip
    for config, name in live:
        assert [t.id for t in apply_overrides(config, {name: "7"}).trials()] != [t.id for t in config.trials()]
    line = message(apply_overrides, SearchSweepConfig(policies=rates), {"policies.train.learning_rate": "7"})
    assert line.startswith("policies.train.learning_rate: is set by points")


def test_a_dataclass_defined_in_a_config_file_has_its_annotations_read(tmp_path: Any) -> None:
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    source += "@dataclass(frozen=True)\nclass Mine:\n    width: int = 3\ndef config() -> Mine:\n    return Mine()\n"
    (tmp_path / "mine.py").write_text(source)
    assert apply_overrides(load_config(tmp_path / "mine.py"), {"width": "5"}).width == 5


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 3", ["config() returned a int", "return a frozen dataclass"]),
        ("return ModelConfig", ["config() returned a type"]),
        ("return ModelConfig(d_model=10, n_heads=3)", [":8: model.n_heads 3 heads do not divide", "use one of"]),
        ("return 1 / 0", [":8: ZeroDivisionError, division by zero"]),
        ("return ModelConfig(d_modle=1)", [":8: TypeError", "d_modle"]),
        ("return ModelConfig(d_model='64')", [":8: ", "write numbers without quotes"]),
        ("raise SystemExit(3)", [":8: SystemExit"]),
        ("return (", [":8: SyntaxError"]),
    ],
)
def test_what_fails_in_a_config_file_is_named_by_file_and_line(tmp_path: Any, body: str, words: list[str]) -> None:
    path = write(tmp_path / "configs", body)
    line = message(load_config, path)
    assert line.startswith(str(path)) and all(word in line for word in words)


def test_a_config_file_with_values_of_the_wrong_type_names_the_field(tmp_path: Any) -> None:
    path = write(tmp_path / "configs", "return ModelConfig(norm='layer')")
    assert "norm: 'layer' is not one of rmsnorm, layernorm: did you mean layernorm?" in message(load_config, path)


def test_a_config_of_another_kind_is_refused(tmp_path: Any) -> None:
    path = write(tmp_path / "configs", "return ModelConfig()")
    assert message(load_config, path, (Run, TrainConfig)).endswith("return a Run or TrainConfig")


def test_a_file_that_is_missing_or_no_config_is_named_with_the_nearest(tmp_path: Any) -> None:
    path = write(tmp_path / "configs", "return ModelConfig()")
    folder = path.parent
    assert message(load_config, folder / "micor.py").endswith(f"no such file: did you mean {path}?")
    assert message(load_config, folder / "micro").endswith(f"did you mean {path}?")
    assert message(load_config, folder / "zzzzzz.py").endswith("config files there: micro.py")
    assert "is a directory" in message(load_config, folder)
    (folder / "table.csv").write_text("a,b")
    assert "is not a Python file" in message(load_config, folder / "table.csv")
    (folder / "other.py").write_text("def confg():\n    return 3\n")
    assert "has no function config(): rename confg to config" in message(load_config, folder / "other.py")
