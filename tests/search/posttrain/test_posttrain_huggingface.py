"""A Hugging Face folder practises as a trial does, and what comes out is a folder that practises and is evaluated."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import tokenizers

from launch import evaluate
from launch.cli import execute
from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.huggingface import export_model
from models.huggingface.tokenizer import CheckpointTokenizer
from scaling.sweep.trial import override
from scaling.tasks.calculation import Calculation
from scaling.train.config import TrainConfig
from scaling.train.objectives import PolicyGradient
from search.policy import load_policy
from search.posttrain import MeasureConfig, PostTrainConfig, Rollouts
from search.posttrain.trial import PostTrial, pretraining_flops

TASK = Calculation(operations=1, digits=1)
LETTERS = sorted(set(TASK.alphabet))
MODEL = ModelConfig(vocab_size=2 + len(LETTERS), d_model=8, n_layers=1, n_heads=2, d_ff=16, max_seq_len=64).resolved()
READ = 1000  # tokens that the model is said to have read
Run = tuple[PostTrainConfig, Path, dict[str, Any], Rollouts]


def folder_of(place: Path) -> Path:
    """A random Llama whose tokenizer puts <s> before a text and has a token for each character of the task."""
    words = {word: i for i, word in enumerate(["</s>", "<s>", *LETTERS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="</s>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    made.add_special_tokens(["</s>", "<s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    params = jax.jit(partial(transformer.init, MODEL))(jax.random.key(0))
    tokenizer = CheckpointTokenizer(made, {"eos_token": "</s>", "bos_token": "<s>"}, (0,))
    export_model(place, MODEL, jax.tree.map(lambda x: 2 * x, params), tokenizer, model_type="llama")
    return place


@pytest.fixture(scope="module")
def practised(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """(the config, the run directory, the row, what drew) of two updates with a calculator."""
    root = tmp_path_factory.mktemp("hf")
    train = TrainConfig(
        steps=2, batch_size=2, seq_len=15, learning_rate=1e-2, warmup_steps=0, objective=PolicyGradient(group=4),
        init_from=str(folder_of(root / "start")),
    )  # fmt: skip
    config = PostTrainConfig(
        task="calculation:operations=1,digits=1", train=train, pretrain_tokens=READ,
        measure=MeasureConfig(problems=2, samples=2),
    )  # fmt: skip
    trial = PostTrial(override(config, {"rollouts.problems": 10}), root)
    drawn = trial.rollouts()
    return trial.config, root, trial.run(trial.training(drawn)), drawn


def test_a_folder_practises_and_leaves_a_folder(practised: Run) -> None:
    config, root, row, _ = practised
    model = root / "trials" / config.id / "model"
    before, after = load_policy(root / "start"), load_policy(model)
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), before.params, after.params)
    assert max(jax.tree.leaves(moved)) > 1e-3
    assert list(after.tokenizer.encode("1+2:")) == list(before.tokenizer.encode("1+2:")) and after.ends == (0,)
    assert row["sampler_gap"] < 5e-6  # nats: float32 sums in another order
    assert row["pretrain_flops"] == counts.train_flops(MODEL, 64, 64) / 64 * READ
    assert pretraining_flops(model, MODEL) == row["total_flops"]


def test_prompts_begin_as_the_tokenizer_begins_texts_and_replies_do_not(practised: Run) -> None:
    """<s> stands once, before the prompt: a reply or an end that had one too would never stop a sample."""
    drawn = practised[-1]
    stage, policy = drawn.stage, load_policy(practised[1] / "start")
    end = policy.continuation(".")
    assert len(end) == 1 and set(drawn.engine.config.ends) == {0, *end}
    (episode,) = stage.play([TASK.problem([3, 4], ["+"])], 1, seed=0)
    assert episode.prompt[0] == 1 and 1 not in episode.prompt[1:]
    episode.tokens, episode.own = list(policy.continuation("3+4=")), [True] * 4
    episode.logprobs, episode.fault = [0.0] * 4, None
    assert stage._answered(episode) and episode.text == "3+4=7"
    assert tuple(episode.tokens) == policy.continuation("3+4=7")


def test_an_evaluation_of_what_practised_bears_the_runs_trial(practised: Run, tmp_path: Path) -> None:
    config, root, *_ = practised
    model = root / "trials" / config.id / "model"
    given = [f"--checkpoint={model}", "--tasks=choice.calculation:operations=1,digits=1,items=3", f"--out={tmp_path}"]
    assert execute(evaluate.main, evaluate.FLAGS, evaluate.__doc__, given) == 0
    rows = pd.read_parquet(tmp_path / "items.parquet")
    assert rows["trial"].unique().tolist() == [config.id] and rows["step"].isna().all()


def test_a_folder_that_does_not_say_what_it_read_is_one_line(practised: Run, tmp_path: Path) -> None:
    config = practised[0]
    with pytest.raises(ConfigError, match=r"pretrain_tokens: is not set, and .* does not say"):
        PostTrial(override(config, {"pretrain_tokens": None}), tmp_path)
