"""lm-eval's model on our engine: on the same items it reports our own scores, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from models import transformer
from models.errors import ConfigError
from models.presets import ladder
from models.serialize import to_json
from scaling.data import DataConfig
from scaling.evaluate.evaluate import evaluate
from scaling.evaluate.suites import suite
from scaling.sweep.trial import Trial
from scaling.tasks import CharTokenizer, task_by_name
from scaling.train.checkpoint import Checkpoints
from scaling.train.config import TrainConfig

NAME = "choice.copy:items=8"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trial of random parameters, as lm-eval sees it."""
    pytest.importorskip("lm_eval", reason="compares with lm-eval, which the test install leaves out")
    from search.lm_eval_adapter import PolicyModel

    path = tmp_path_factory.mktemp("trial")
    shape = ladder(8, 1, vocab_size=CharTokenizer.of(task_by_name("copy")).vocab_size).resolved()
    data = DataConfig(source="task", path="copy", tokenizer="characters")
    config = to_json(Trial(shape, data, TrainConfig(steps=20, batch_size=2, seq_len=16)).resolved())
    (path / "config.json").write_text(json.dumps(config))
    with Checkpoints(path / "checkpoints", keep=1) as checkpoints:
        params = jax.tree.map(lambda x: 3 * np.asarray(x), transformer.init(shape, jax.random.key(1)))
        checkpoints.save(20, {"params": params}, {"config": config})
    return PolicyModel(path, max_tokens=6)


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]  # type: ignore[arg-type]


@pytest.mark.slow
def test_choices_of_a_task_of_lm_eval_score_as_ours_do(model: Any, tmp_path: Path) -> None:
    from lm_eval import simple_evaluate

    items = suite(NAME)
    ours = evaluate(model.subject, items)
    lines = [{"question": item.prompt, "choices": item.choices, "gold": item.gold[0]} for item in items]  # type: ignore[index]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {
        "task": "copied", "dataset_path": "json", "output_type": "multiple_choice", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "items.jsonl")}, "cache_dir": str(tmp_path)},
        "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "gold", "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    found = simple_evaluate(model=model, tasks=[task], bootstrap_iters=0, log_samples=True)
    for row, sample in zip(ours, found["samples"]["copied"], strict=True):
        assert [nats for nats, _ in sample["filtered_resps"]] == row["logprobs"]
        assert [greedy for _, greedy in sample["filtered_resps"]] == row["greedy"]
    scores = found["results"]["copied"]
    for metric, column in (("acc", "correct_raw"), ("acc_norm", "correct_char")):
        assert scores[f"{metric},none"] == pytest.approx(np.mean([row[column] for row in ours]), abs=1e-12)


def test_whole_texts_are_the_sum_of_their_tokens_and_the_empty_context_begins_a_document(model: Any) -> None:
    subject = model.subject
    text = (2 * suite(NAME)[0].prompt)[:6]
    ids = [*subject.reader.empty, *subject.reader.continue_(text)]
    assert len(ids) == 7

    def nats(tokens: list[int]) -> float:
        """Of all tokens but the first."""
        logp = jax.nn.log_softmax(transformer.apply(subject.model, subject.params, np.array([tokens[:-1]])))
        return float(np.take_along_axis(np.asarray(logp)[0], np.array(tokens[1:])[:, None], -1).sum())

    (whole,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    assert whole == pytest.approx(nats(ids), abs=1e-5)
    ((conditioned, _),) = model.loglikelihood(requests("loglikelihood", ("", text)))
    assert conditioned == whole
    model.subject = subject.__class__(subject.model, subject.params, subject.reader, most=3)
    try:
        (cut,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
        assert cut == pytest.approx(nats(ids[:4]) + nats(ids[3:]), abs=1e-5)  # in two windows of three tokens
    finally:
        model.subject = subject


def test_answers_are_greedy_and_end_where_the_task_says(model: Any) -> None:
    contexts = [item.prompt for item in suite(NAME)[:3]]
    free = model.generate_until(requests("generate_until", *((text, {"until": []}) for text in contexts)))
    assert all(0 <= len(text) <= 6 for text in free)
    for text, made in zip(contexts, free, strict=True):
        if made:
            ((_, greedy),) = model.loglikelihood(requests("loglikelihood", (text, made)))
            assert greedy
    mark = next(made[1] for made in free if len(made) > 1)
    stopped = model.generate_until(
        requests("generate_until", *((text, {"until": [mark], "max_gen_toks": 6}) for text in contexts))
    )
    assert stopped == [made.split(mark)[0] for made in free]
    with pytest.raises(ConfigError, match="do_sample: is set, but answers are greedy here"):
        model.generate_until(requests("generate_until", (contexts[0], {"do_sample": True})))
