"""Verifiers by name: what each says of a completion, and what it refuses before anything is searched."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.huggingface import import_weights
from models.serialize import from_json, to_json
from scaling.data import DataConfig
from scaling.sweep.trial import Trial
from search.config import SearchConfig
from search.decoder import Context, Outputs, ValueHead
from search.named import written
from search.policy import Policy, load_policy
from search.population import fresh
from search.verifiers.catalogue import VERIFIERS, Row, read_verifier
from search.verifiers.generative import GenerativeVerifier
from search.verifiers.reward_folder import read_reward, write_reward
from search.verifiers.reward_model import RewardModel
from search.verifiers.sandbox import levels
from search.verifiers.scorer import ValueScorer
from search.verifiers.value_head import last_hidden
from tests.launch.test_infer_huggingface import GOLDEN, with_tokenizer

SEARCH = SearchConfig(prompt_len=8, max_tokens=64, ends=(0, "\nQ"))
MODEL = ModelConfig(vocab_size=256, d_model=8, n_layers=1, n_heads=2, d_ff=8, max_seq_len=64)
TRIAL = Trial(MODEL, DataConfig(source="text", path="absent"))
HEAD = ValueHead(jnp.linspace(-1, 1, 8), jnp.float32(0.5))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy as a trial, which its value head makes a reward model of."""
    root = tmp_path_factory.mktemp("trial")
    (root / "source").mkdir()
    (root / "source" / "config.json").write_text(json.dumps(to_json(TRIAL)))
    write_reward(root / "trial", root / "source", HEAD, transformer.init(TRIAL.model, jax.random.key(1)))
    return root / "trial"


@pytest.fixture(scope="module")
def policy(trial: Path) -> Policy:
    return load_policy(trial)


def scores(policy: Policy, text: str, fields: dict[str, Any], *completions: str, answer: str = "whole") -> list[float]:
    """What a verifier of the host says of completions that wrote an end."""
    judge = read_verifier(text).judging(policy, SEARCH, answer).scorer
    rows = [Row((65, 66), {"prompt": "AB"} | fields)] * len(completions)
    return [float(x) for x in judge(rows, [(*completion.encode(), 0) for completion in completions])]


def test_exact_and_numeric_answers_are_compared_with_the_prompts_own(policy: Policy) -> None:
    assert scores(policy, "exact", {"answer": "4 2"}, " 4 2\n", "42", "4 2\nQ: more") == [1, 0, 1]
    assert scores(policy, "exact:answer=after:=", {"answer": "b"}, "a = b", "b") == [1, 0]
    assert scores(policy, "exact:field=gold", {"gold": 7}, "so 7.0", "8", answer="number") == [1, 0]
    assert scores(policy, "numeric", {"answer": "1,000"}, "1000.0", "it is 999", "none") == [1, 0, 0]
    assert scores(policy, "numeric:tolerance=0.01", {"answer": 1000}, "1000.0", "it is 999", "980") == [1, 1, 0]
    assert scores(policy, "numeric:answer=number:####", {"answer": "as 3+4 #### 7"}, "8 #### 7", "7") == [1, 0]
    assert scores(policy, "numeric:answer=boxed", {"answer": r"\boxed{-3}"}, r"so \boxed{x=-3}", "-3") == [1, 0]
    for fields, words in (({}, "the prompt has no field 'answer'"), ({"answer": "x"}, "holds no number")):
        with pytest.raises(ValueError, match=words):
            scores(policy, "numeric", fields, "1")


@pytest.mark.skipif(not levels(), reason="no sandbox on this machine")
def test_programs_are_run_on_the_tests_of_their_prompt(policy: Policy) -> None:
    tests = [{"given": "2\n", "expected": "4"}, {"given": "3\n", "expected": "9"}, {"expected": "1"}]
    square = "n = int(input() or 1)\nprint(n * n)"
    text = f"Here:\n```python\n{square.replace('or 1', '')}\n```\n"
    assert scores(policy, "program", {"tests": tests[:2]}, text, "print(4)") == pytest.approx([1, 0.5], abs=1e-5)
    assert scores(policy, "program:all_or_nothing=true", {"tests": tests[:2]}, "print(4)")[0] < 1e-5
    continued = {"tests": tests[:1], "prompt": "n = int(input())\n"}
    assert scores(policy, "program:source=continued", continued, "print(n * n)") == pytest.approx([1], abs=1e-5)
    for wrong in ([], "4", [{"given": "2"}]):
        with pytest.raises(ValueError, match="is no list of"):
            scores(policy, "program", {"tests": wrong}, "print(4)")


def classifier(folder: Path, labels: int, bias: bool, name: str) -> tuple[Path, dict[str, np.ndarray]]:
    """A golden checkpoint without its head, ending in a classifier."""
    with_tokenizer(GOLDEN / "qwen3", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    rng = np.random.default_rng(0)
    width = next(iter(tensors.values())).shape[-1]
    own = {f"{name}.weight": rng.standard_normal((labels, width)).astype(np.float32)}
    own |= {f"{name}.bias": rng.standard_normal(labels).astype(np.float32)} if bias else {}
    save_file(tensors | own, folder / "model.safetensors")
    return folder, own


@pytest.mark.parametrize(("labels", "bias", "name"), [(1, False, "score"), (2, True, "classifier")])
def test_a_hugging_face_classifier_is_its_trunk_and_one_logit(
    labels: int, bias: bool, name: str, tmp_path: Path
) -> None:
    folder, own = classifier(tmp_path / "reward", labels, bias, name)
    reward, (_, params) = read_reward(folder), import_weights(GOLDEN / "qwen3")
    trunk = {place: leaf for place, leaf in params.items() if place != "head"}
    jax.tree.map(np.testing.assert_array_equal, reward.params, trunk)
    weight, shift = own[f"{name}.weight"], own.get(f"{name}.bias", np.zeros(labels, np.float32))
    logits = weight @ last_hidden(reward.model, reward.params, [(5, 6, 7)])[0] + shift
    right = np.exp(logits[-1]) / np.exp(logits).sum() if labels == 2 else 1 / (1 + np.exp(-logits[0]))
    hidden = last_hidden(reward.model, reward.params, [(5, 6, 7)])[0]
    found = 1 / (1 + np.exp(-(hidden @ np.asarray(reward.head.weight) + float(reward.head.bias))))
    assert found == pytest.approx(right, rel=1e-5)
    if labels == 2:
        other = read_reward(folder, label=0).head
        np.testing.assert_allclose(other.weight, -np.asarray(reward.head.weight), rtol=1e-6)
        assert reward.digest == read_reward(folder, label=0).digest


def test_a_folder_that_is_no_reward_model_is_refused(policy: Policy, trial: Path, tmp_path: Path) -> None:
    folder, _ = classifier(tmp_path / "three", 3, False, "score")
    plain = with_tokenizer(GOLDEN / "qwen3", tmp_path / "plain")
    bare = tmp_path / "bare"
    shutil.copytree(trial, bare)
    (bare / "reward_head.safetensors").unlink()
    broken = tmp_path / "broken"
    shutil.copytree(trial, broken)
    save_file({"weight": np.zeros(3, np.float32), "bias": np.zeros((), np.float32)}, broken / "reward_head.safetensors")
    for path, words in (
        (folder, "has 3 labels"), (plain, "has no tensor score.weight or classifier.weight"),
        (bare, "has no reward_head.safetensors"), (broken, "where weight \\[8\\] and bias"),
        (tmp_path / "absent", "holds no reward model"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            read_reward(path)
    other, _ = classifier(tmp_path / "other", 1, False, "score")
    with pytest.raises(ConfigError, match="has another tokenizer than"):
        read_verifier(f"reward:folder={other}").judging(policy, SEARCH, "whole")


def test_a_trial_with_a_head_is_a_reward_model_and_free_for_its_own_policy(policy: Policy, trial: Path) -> None:
    judging = read_verifier(f"reward:folder={trial}").judging(policy, SEARCH, "whole")
    assert isinstance(judging.scorer, ValueScorer) and judging.head is not None
    np.testing.assert_array_equal(judging.head.weight, HEAD.weight)
    tuned = dataclasses.replace(policy, digest="of another policy")
    made = read_verifier(f"reward:folder={trial}").judging(tuned, SEARCH, "whole")
    assert isinstance(made.scorer, RewardModel) and made.digest == judging.digest != policy.digest
    assert made.scorer.flops_per_token > 0 and made.head is None


def test_a_judge_with_a_checkpoint_of_its_own_reads_and_votes(policy: Policy, trial: Path, tmp_path: Path) -> None:
    text = f"generative:checkpoint={trial},question=?,yes=[y],no=[n,no],votes=3".replace("[y]", '["y"]')
    judging = read_verifier(text.replace("[n,no]", '["n","no"]')).judging(policy, SEARCH, "whole")
    judge = judging.scorer
    assert isinstance(judge, GenerativeVerifier) and judging.digest == policy.digest and judge.votes == 3
    one = jnp.zeros(1)
    outputs, tokens = Outputs(jnp.zeros((1, 256)), one, one > 1), jnp.full((1, 8), 65, jnp.int32)
    context = Context((), jnp.full(1, 2), outputs, tokens, (), (), jnp.ones(1))
    rows = fresh(outputs, (), (1, 1), 64, 2)._replace(length=jnp.full((1, 1), 5))
    assert judge.tokens(context, rows).tolist() == [[2 + 5 + 1 + 3]]  # prompt, completion, question, one token a vote
    with pytest.raises(ConfigError, match=r"generative.yes: \('yes',\) are no single tokens"):
        read_verifier(f'generative:checkpoint={trial},yes=["yes"]').judging(policy, SEARCH, "whole")
    other = with_tokenizer(GOLDEN / "qwen3", tmp_path / "other")
    with pytest.raises(ConfigError, match="generative.checkpoint: .* has another tokenizer"):
        read_verifier(f"generative:checkpoint={other}").judging(policy, SEARCH, "whole")


NAMED = ("likelihood", "confidence:top=3", "reward:folder=x,label=0", "generative:checkpoint=x,votes=2", "exact",
         "numeric:tolerance=0.1", "program:seconds=1,source=completion", "function:file=a b.py")  # fmt: skip


def test_every_verifier_is_named_as_text_and_as_json() -> None:
    assert [read_verifier(text).name for text in NAMED] == list(VERIFIERS)
    for text in NAMED:
        made = read_verifier(text)
        assert from_json(type(made), to_json(made)) == made == read_verifier(written(made))
        assert read_verifier(json.dumps({"name": made.name} | to_json(made))) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidense", "verifier: 'confidense' is none: did you mean 'confidence'?"),
        ("numeric:tol=1", "numeric.tol: is no field of this verifier"),
        ("reward", "reward: needs folder"),
        ("exact:answer=nmber", "exact.answer: 'nmber' is no way of reading answers"),
        ("numeric:tolerance=-1", "numeric.tolerance: is -1.0: give a number that is not negative"),
        ("function:file={here},function=absent", "has no attribute 'absent'"),
        ("function:file={here}", "verifier: {here}: RuntimeError: it fails to load"),
    ],
)
def test_what_is_no_verifier_is_one_line(policy: Policy, text: str, message: str, tmp_path: Path) -> None:
    here = tmp_path / "judge.py"
    here.write_text("" if "absent" in text else "raise RuntimeError('it fails to load')\n")
    with pytest.raises(ConfigError) as error:
        read_verifier(text.format(here=here)).judging(policy, SEARCH, "whole")
    assert message.format(here=here) in str(error.value) and "\n" not in str(error.value)
