"""A trained reward model as a folder: a Hugging Face classifier, or a trial of ours with a head.

Hugging Face: `...ForSequenceClassification` and `...ForTokenClassification` of a family that is read here, with one
label, whose logit is the score's, or two, of which one says "right". Ours: a trial's directory with
`reward_head.safetensors` in it (weight [d_model], bias []), as `write_reward` leaves it. Both score a text by the
hidden state of its last token.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from models.config import ModelConfig
from models.errors import ConfigError, require
from models.huggingface import import_weights
from models.huggingface.imports import import_classifier
from models.huggingface.tokenizer import load_checkpoint_tokenizer
from models.transformer import Params
from scaling import kept
from scaling.kept import write_atomically
from scaling.train.checkpoint import Checkpoints
from search.decoder import ValueHead
from search.engine.text_stop import Spelling
from search.policy import load_policy

HEAD = "reward_head.safetensors"


class Reward(NamedTuple):
    """A trunk with a logistic head; digest: of both, trunk: of that alone, spelling: of its tokenizer."""

    model: ModelConfig
    params: Params
    head: ValueHead
    digest: str
    trunk: str
    spelling: Spelling


def read_reward(folder: str | Path, label: int = 1) -> Reward:
    """The reward model of a folder. label: of two, the one that says "right".

    Raises:
      ConfigError: it is no such folder, or has another number of labels.
    """
    path = Path(folder)
    fix = "give a Hugging Face classifier, or a trial's directory with a reward_head.safetensors"
    require((path / "config.json").is_file(), str(folder), "holds no reward model", fix)
    written = kept.read(path / "config.json", dict, "copy the model again")
    if "model_type" in written or "architectures" in written:
        return _classifier(path, label)
    require((path / HEAD).is_file(), str(folder), f"has no {HEAD}", fix)
    policy = load_policy(path)
    tensors = _tensors(path / HEAD)
    d_model = policy.model.resolved().d_model
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    problem = f"holds {shapes}, where weight [{d_model}] and bias [] belong"
    require(shapes == {"weight": (d_model,), "bias": ()}, str(path / HEAD), problem, "write it with write_reward")
    head = ValueHead(jnp.asarray(tensors["weight"]), jnp.asarray(tensors["bias"]))
    digest = _digest(policy.digest, *(tensors[name].tobytes() for name in sorted(tensors)))
    return Reward(policy.model, policy.params, head, digest, policy.digest, policy.spelling)


def write_reward(folder: str | Path, trial: str | Path, head: ValueHead, params: Params | None = None) -> None:
    """Write a reward model: the trial that its trunk was made from, its head, and its trunk where that was trained on.

    params: of the trunk, as `train_reward_model` gives them; None: those of the trial.
    """
    path, source = Path(folder), Path(trial)
    path.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "config.json", path / "config.json")
    if params is None:
        shutil.copytree(source / "checkpoints", path / "checkpoints", dirs_exist_ok=True)
    else:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        with Checkpoints(path / "checkpoints", keep=1, asynchronous=False) as checkpoints:
            checkpoints.save(0, {"params": params}, {"config": config})
    tensors = {"weight": np.asarray(head.weight, np.float32), "bias": np.asarray(head.bias, np.float32)}
    write_atomically(path / HEAD, safetensors.numpy.save(tensors))


def _classifier(path: Path, label: int) -> Reward:
    model, params = import_weights(path, trunk=True)
    weight, bias = import_classifier(path)
    problem = f"has {len(weight)} labels"
    require(len(weight) in (1, 2), str(path), problem, "give a model with one label, or with two")
    require(len(weight) == 1 or label in (0, 1), "label", f"is {label} of 2", "give 0 or 1")
    if len(weight) == 2:  # softmax over two is a sigmoid of their difference
        weight, bias = (x[label : label + 1] - x[1 - label : 2 - label] for x in (weight, bias))
    head = ValueHead(jnp.asarray(weight[0]), jnp.asarray(bias[0]))
    files = sorted([path / "config.json", *path.glob("*.safetensors")])
    digests = [kept.file_digest(file).hex() for file in files]
    digest = _digest(*digests)
    return Reward(model, params, head, digest, digest, load_checkpoint_tokenizer(path).spelling)


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(kept.read_bytes(path))
    except safetensors.SafetensorError as error:
        raise ConfigError(str(path), f"is damaged ({error})", kept.RESTORE) from None


def _digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
    return total.hexdigest()


def same_tokens(spelling: Spelling, other: Spelling) -> bool:
    """Whether two tokenizers write the same texts with the same tokens."""
    return tuple(spelling) == tuple(other)
