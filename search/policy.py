"""Policy: a trained model that generates, with its tokenizer, from a trial of ours or a Hugging Face folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError, require
from models.serialize import from_json
from models.sharding import DEFAULT_RULES, weight_shardings
from scaling import kept
from scaling.data import DataConfig, Tokenizer, check_vocabulary, tokenizer_of
from scaling.sweep.parameters import check_parameters
from scaling.sweep.trial import Trial
from scaling.tasks import Task
from scaling.train.checkpoint import digest as checkpoint_digest
from scaling.train.initial import check_initial, load_initial
from search.engine.placement import rules_for

FIELD = "--checkpoint"


@dataclass(frozen=True)
class Policy:
    """What an engine needs to generate, and what an output says it came from."""

    model: ModelConfig
    params: dict[str, Any]  # as models.transformer.init gives them, numpy or device arrays
    tokenizer: Tokenizer
    ends: tuple[int, ...]  # token ids that end a generation
    digest: str  # sha256 of the parameters
    source: str  # the directory they were read from
    context: int | None = None  # tokens that the model was made to read at once

    @property
    def spelling(self) -> Sequence[bytes]:
        """Bytes that each token adds to a text that has begun: what an engine and a search need to look for texts."""
        return self.tokenizer.spelling

    def continuation(self, text: str) -> tuple[int, ...]:
        """See the function."""
        return continuation(self.tokenizer, text)

    def text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """What tokens add to the text of their prompt: what comes after it decides spaces and cut characters."""
        before = self.tokenizer.decode(prompt)
        whole = self.tokenizer.decode([*prompt, *tokens])
        if whole.startswith(before):
            return whole[len(before) :]
        return whole[next((i for i, (a, b) in enumerate(zip(before, whole)) if a != b), len(whole)) :]

    def chat(self, messages: Sequence[Mapping[str, str]], **values: Any) -> tuple[int, ...]:
        """Token ids of a conversation that the model is to answer, or whose last turn, if it is its own, to go on with.

        values: variables of the chat template. ConfigError without one.
        """
        chat = getattr(self.tokenizer, "chat", None)
        if chat is None:
            raise ConfigError("messages", f"{self.source} has no chat template", "give a prompt instead")
        return tuple(int(token) for token in chat(messages, **values))


@dataclass(frozen=True)
class Description:
    """What a policy is, as far as can be said without reading its weights."""

    trial: str | None  # id; None: a Hugging Face folder
    model: ModelConfig
    tokenizer: Tokenizer
    digest: str  # what `Policy.digest` will be
    source: str  # the directory


def continuation(tokenizer: Any, text: str) -> tuple[int, ...]:
    """A text as tokens that may stand in the middle of others: without a first or last token of a whole text."""
    checkpoint = hasattr(tokenizer, "chat")  # whose `encode` adds what the checkpoint expects around a text
    return tuple(int(t) for t in (tokenizer.encode(text, False) if checkpoint else tokenizer.encode(text)))


def describe_policy(directory: str | Path) -> Description:
    """What `load_policy` would load; ConfigError as there, except for weights that are damaged."""
    path, written = _written(directory)
    if _is_hugging_face(written):
        from models.huggingface import import_config
        from models.huggingface.tokenizer import load_checkpoint_tokenizer

        tokenizer: Any = load_checkpoint_tokenizer(path)
        return Description(None, import_config(path), tokenizer, _folder_digest(path), str(path))
    model, own = _of_trial(written)
    check_initial(path, model, FIELD)
    check_parameters(path, FIELD)
    trial = from_json(Trial, written).id
    return Description(trial, model, own, checkpoint_digest(path / "checkpoints"), str(path))


def check_writes(model: ModelConfig, tokenizer: Any, source: str, task: Task, name: str) -> None:
    """ConfigError when a policy cannot write a task's characters, or reads them as something else.

    source: what the policy is called. name: of the task, as text.
    """
    fix = f"train it on this task (data.source=task, data.path={name!r}, data.tokenizer=characters)"
    lost = [character for character in sorted(set(task.alphabet)) if not _writes(tokenizer, character)]
    require(not lost, "tasks", f"{source} does not know the characters of {name!r} ({''.join(lost[:5])})", fix)
    whole = _writes(tokenizer, task.alphabet)
    require(whole, "tasks", f"{source} does not give back the texts of {name!r} from its tokens", fix)
    single = all(len(continuation(tokenizer, mark)) == 1 for mark in (task.delimiter, task.end))
    require(single, "tasks", f"{source} has no single tokens for the ends of steps of {name!r}", fix)
    require(model.vocab_size >= tokenizer.vocab_size, "tasks", f"{source} is damaged", "train it again")


def _writes(tokenizer: Any, text: str) -> bool:
    """Whether a text comes back from its tokens, blanks at its ends aside, which some tokenizers add."""
    try:
        return tokenizer.decode(continuation(tokenizer, text)).strip() == text.strip()
    except ConfigError:
        return False


def load_policy(directory: str | Path, mesh: Mesh | None = None, step: int | None = None) -> Policy:
    """A trial's directory (runs/x/trials/0123456789ab) or a local folder of a Hugging Face model.

    mesh: of the engine; every device then gets its share of each parameter, and none a whole one.
    step: of a trial's checkpoints; None: the newest.

    Raises:
      ConfigError: neither; missing, unknown or damaged tensors; no tokenizer; a mesh that does not divide the model; no
        such step.
    """
    path, written = _written(directory)
    if _is_hugging_face(written):
        require(step is None, FIELD, f"{directory} has no steps", "name no step of a Hugging Face model")
        return _hugging_face(path, mesh)
    return _trial(path, written, mesh, step)


def _written(directory: str | Path) -> tuple[Path, dict[str, Any]]:
    """The directory of a policy and its config.json; ConfigError when it is none."""
    path = Path(directory)
    fix = "give the directory of a trial, as in runs/x/trials/0123456789ab, or a folder of a Hugging Face model"
    require(path.is_dir(), FIELD, f"{directory} is no directory", fix)
    config = path / "config.json"
    require(config.is_file(), FIELD, f"{directory} has no config.json", fix)
    written = kept.read(config, dict, "copy the model again")
    ours = "model" in written and "data" in written
    require(ours or _is_hugging_face(written), FIELD, f"{directory} is no trial and no model", fix)
    return path, written


def _is_hugging_face(written: Mapping[str, Any]) -> bool:
    return "model_type" in written or "architectures" in written


def _of_trial(written: Mapping[str, Any]) -> tuple[ModelConfig, Tokenizer]:
    model = from_json(ModelConfig, written["model"], "model")
    tokenizer = tokenizer_of(from_json(DataConfig, written["data"], "data"))
    check_vocabulary(model.vocab_size, tokenizer.vocab_size)
    return model, tokenizer


def _trial(path: Path, written: dict[str, Any], mesh: Mesh | None, step: int | None) -> Policy:
    model, tokenizer = _of_trial(written)
    shardings = None
    if mesh is not None:
        shardings = weight_shardings(transformer.weights(model), rules_for(model, mesh.shape), mesh)
    params, digest = load_initial(path, model, FIELD, shardings, step)
    check_parameters(path, FIELD)
    return Policy(model, params, tokenizer, (tokenizer.end_of_document,), digest, str(path))


def _hugging_face(path: Path, mesh: Mesh | None) -> Policy:
    from models.huggingface import import_config, import_model

    rules = DEFAULT_RULES if mesh is None else rules_for(import_config(path), mesh.shape)
    model, params, tokenizer = import_model(path, mesh=mesh, rules=rules)
    return Policy(model, params, tokenizer, tokenizer.ends, _folder_digest(path), str(path), model.max_seq_len)


def _folder_digest(path: Path) -> str:
    """sha256 of a Hugging Face folder's config and weights."""
    total = hashlib.sha256()
    for file in sorted([path / "config.json", *path.glob("*.safetensors")]):
        total.update(file.name.encode() + kept.file_digest(file))
    return total.hexdigest()
