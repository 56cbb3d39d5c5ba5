"""Inference jobs on a Hugging Face folder: its weights, its tokenizer, its chat template, and what can be wrong."""

from __future__ import annotations

import json
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from launch import cli
from launch import infer as command
from models import transformer
from models.huggingface import export_model, import_weights
from tests.launch import commands

pytestmark = pytest.mark.slow
GOLDEN = commands.REPOSITORY / "tests" / "models" / "golden"
SIZES = ("--samples=2", "--max_tokens=10", "--temperature=0", "--config.engine.slots=2",
         "--config.engine.max_len=48",
         "--config.engine.page_size=8", "--config.engine.prefill_chunk=16",
         "--config.engine.stage_tokens=4")  # fmt: skip
START, END, USER, MODEL_TURN = 1, 2, 3, 4
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROMPTS = [
    {"prompt": "w10 w20 w30"},
    {"messages": [{"role": "user", "content": "w11 w12"}], "id": "chat"},
    {"tokens": [START, 40, 41, 42, 43]},
]
TOKENS = [[START, 10, 20, 30], [USER, 11, 12, MODEL_TURN], [START, 40, 41, 42, 43]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden checkpoint of a model that attends."""
    return with_tokenizer(GOLDEN / "llama", tmp_path_factory.mktemp("hf") / "llama")


def with_tokenizer(golden: Path, folder: Path) -> Path:
    """The golden checkpoint with a tokenizer whose word wN is token N, and a chat template."""
    shutil.copytree(golden, folder)
    special = ["<unk>", "<s>", "</s>", "<user>", "<assistant>"]
    words = special + [f"w{i}" for i in range(len(special), 64)]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(special)
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", START)])
    made.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "bos_token": "<s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def arguments(folder: Path, out: str) -> tuple[str, ...]:
    prompts = folder.parent / "p.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return "infer", f"--checkpoint={folder}", f"--prompts={prompts}", f"--out={folder.parent / out}", *SIZES


def infer(folder: Path, out: str) -> Any:
    return commands.run(*arguments(folder, out))


def start(folder: Path, out: str) -> Any:
    return commands.start(*arguments(folder, out))


def greedy(folder: Path, tokens: list[int], most: int) -> list[int]:
    """What the plain model says, one token after the other."""
    model, params = import_weights(folder)[:2]
    apply = jax.jit(partial(transformer.apply, model, params))
    found = list(tokens)
    while len(found) < len(tokens) + most and found[-1] != END:
        padded = jnp.zeros((1, len(tokens) + most), jnp.int32).at[0, : len(found)].set(jnp.asarray(found))
        found.append(int(apply(padded)[0, len(found) - 1].argmax()))  # which does not see what comes later
    return found[len(tokens) :]


def test_a_folder_generates_with_its_own_tokenizer_and_chat_template(folder: Path) -> None:
    done = infer(folder, "whole")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder.parent / "whole" / "samples.jsonl").read_text().splitlines()]
    assert [(line["line"], line["sample"]) for line in lines] == [(i, s) for i in (1, 2, 3) for s in (0, 1)]
    for line in lines:
        prompt = TOKENS[line["line"] - 1]
        assert line["tokens"] == greedy(folder, prompt, 10)
        assert line["ledger"]["prompt_tokens"] == len(prompt)
        assert line["finish_reason"] == ("eos" if line["tokens"][-1] == END else "length")
        assert line["text"].split() == [f"w{t}" if t > MODEL_TURN else line["text"].split()[i]
                                        for i, t in enumerate(t for t in line["tokens"] if t != END)]  # fmt: skip
        assert line.get("id") == ("chat" if line["line"] == 2 else None)


def test_a_recurrent_model_that_is_exported_killed_and_resumed_generates_what_it_does_alone(tmp_path: Path) -> None:
    export_model(tmp_path / "out_of_here", *import_weights(GOLDEN / "mamba2"))
    folder = with_tokenizer(tmp_path / "out_of_here", tmp_path / "mamba2")
    samples = tmp_path / "killed" / "samples.jsonl"
    job = start(folder, "killed")
    while job.poll() is None and not (samples.exists() and samples.read_text().count("\n")):
        time.sleep(0.002)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    done = infer(folder, "killed")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [(line["line"], line["sample"]) for line in lines] == [(i, s) for i in (1, 2, 3) for s in (0, 1)]
    for line in lines:
        assert line["tokens"] == greedy(folder, TOKENS[line["line"] - 1], 10)


@pytest.mark.parametrize("fault", ["tensor", "tokenizer", "weights"])
def test_a_folder_that_lacks_something_is_refused_in_one_line(
    folder: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "llama"
    shutil.copytree(folder, broken)
    if fault == "tensor":
        index = json.loads((broken / "model.safetensors.index.json").read_text())
        name = "model.layers.1.mlp.up_proj.weight"
        part = broken / index["weight_map"].pop(name)
        save_file({k: v for k, v in load_file(part).items() if k != name}, part, {"format": "pt"})
        (broken / "model.safetensors.index.json").write_text(json.dumps(index))
        words = name
    elif fault == "tokenizer":
        (broken / "tokenizer.json").unlink()
        words = "tokenizer.json: does not exist"
    else:
        for path in broken.glob("model*"):
            path.unlink()
        words = "safetensors"
    line = arguments(broken, "out")[1:]
    assert cli.execute(command.main, command.FLAGS, command.__doc__, line, command.kinds) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
