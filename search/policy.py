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
from scaling.train.initial import load_initial
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
        """A text as tokens that may stand in the middle of others: without a first or last token of a whole text."""
        tokenizer: Any = self.tokenizer
        checkpoint = hasattr(tokenizer, "chat")  # whose `encode` adds what the checkpoint expects around a text
        return tuple(int(t) for t in (tokenizer.encode(text, False) if checkpoint else tokenizer.encode(text)))

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


def load_policy(directory: str | Path, mesh: Mesh | None = None, step: int | None = None) -> Policy:
    """A trial's directory (runs/x/trials/0123456789ab) or a local folder of a Hugging Face model.

    mesh: of the engine; every device then gets its share of each parameter, and none a whole one.
    step: of a trial's checkpoints; None: the newest.

    Raises:
      ConfigError: neither; missing, unknown or damaged tensors; no tokenizer; a mesh that does not divide the model; no
        such step.
    """
    path = Path(directory)
    fix = "give the directory of a trial, as in runs/x/trials/0123456789ab, or a folder of a Hugging Face model"
    require(path.is_dir(), FIELD, f"{directory} is no directory", fix)
    config = path / "config.json"
    require(config.is_file(), FIELD, f"{directory} has no config.json", fix)
    written = kept.read(config, dict, "copy the model again")
    if "model_type" in written or "architectures" in written:
        require(step is None, FIELD, f"{directory} has no steps", "name no step of a Hugging Face model")
        return _hugging_face(path, mesh)
    require("model" in written and "data" in written, FIELD, f"{directory} is no trial and no model", fix)
    return _trial(path, written, mesh, step)


def _trial(path: Path, written: dict[str, Any], mesh: Mesh | None, step: int | None) -> Policy:
    model = from_json(ModelConfig, written["model"], "model")
    tokenizer = tokenizer_of(from_json(DataConfig, written["data"], "data"))
    check_vocabulary(model.vocab_size, tokenizer.vocab_size)
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
    total = hashlib.sha256()
    for file in sorted([path / "config.json", *path.glob("*.safetensors")]):
        with open(file, "rb") as f:
            total.update(file.name.encode() + hashlib.file_digest(f, "sha256").digest())
    return Policy(model, params, tokenizer, tokenizer.ends, total.hexdigest(), str(path), model.max_seq_len)
