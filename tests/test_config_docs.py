"""docs/config.md is what the comments beside the fields say, and every field that a person sets has one."""

from __future__ import annotations

from pathlib import Path

from launch import fields
from launch.jobs import JobConfig
from scaling.data import DataConfig, Source
from scaling.sweep.config import Prediction, SweepConfig
from scaling.sweep.isoflop import Isoflop
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig
from scaling.train.limits import Limits
from search.posttrain import MeasureConfig, PostTrainConfig, RolloutConfig
from search.study import SearchSweepConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "config.md"
REFRESH = "to write it again: python -m tests.test_config_docs"
CLASSES = (SweepConfig, Trial, SearchSweepConfig, PostTrainConfig, JobConfig)


def test_the_page_of_config_fields_is_what_the_comments_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == fields.page(CLASSES), REFRESH


def test_comments_below_a_field_belong_to_it_and_defaults_read_as_written() -> None:
    found = {field.name: field for field in fields.fields_of(DataConfig)}
    assert found["cache_dir"].meaning == "None: $XDG_CACHE_HOME/isoflop, or ~/.cache/isoflop"
    assert found["root"].meaning.endswith("so that a worker started elsewhere reads the same text")
    assert (found["root"].kind, found["root"].default) == ("str | None", "None")
    assert {field.name: field.default for field in fields.fields_of(SweepConfig)}["model"] == "ModelConfig()"
    assert fields.meanings(Trial())["train.learning_rate"] == "peak"


def test_every_field_of_a_sweep_says_what_it_means() -> None:
    practice = (PostTrainConfig, RolloutConfig, MeasureConfig)
    for cls in (DataConfig, Source, TrainConfig, SweepConfig, Trial, Isoflop, Prediction, Limits, *practice):
        assert [field.name for field in fields.fields_of(cls) if not field.meaning] == []


if __name__ == "__main__":
    PAGE.write_text(fields.page(CLASSES), encoding="utf-8")
