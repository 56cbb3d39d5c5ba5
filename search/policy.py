"""Policy: a trained model that generates, with its tokenizer, from a trial of ours or a Hugging Face folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config import ModelConfig
from models.errors import ConfigError, require
from models.serialize import from_json
from scaling.data import DataConfig, Tokenizer, check_vocabulary, tokenizer_of
from scaling.train.initial import load_initial

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

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Token ids of a conversation that the model is to answer; ConfigError without a chat template."""
        chat = getattr(self.tokenizer, "chat", None)
        if chat is None:
            raise ConfigError("messages", f"{self.source} has no chat template", "give a prompt instead")
        return tuple(int(token) for token in chat(messages))


def load_policy(directory: str | Path) -> Policy:
    """A trial's directory (runs/x/trials/0123456789ab) or a local folder of a Hugging Face model.

    Raises:
      ConfigError: neither; missing, unknown or damaged tensors; no tokenizer.
    """
    path = Path(directory)
    fix = "give the directory of a trial, as in runs/x/trials/0123456789ab, or a folder of a Hugging Face model"
    require(path.is_dir(), FIELD, f"{directory} is no directory", fix)
    config = path / "config.json"
    require(config.is_file(), FIELD, f"{directory} has no config.json", fix)
    try:
        written = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(str(config), f"is not JSON ({error})", "copy the model again") from None
    if "model_type" in written or "architectures" in written:
        return _hugging_face(path)
    require("model" in written and "data" in written, FIELD, f"{directory} is no trial and no model", fix)
    return _trial(path, written)


def _trial(path: Path, written: dict[str, Any]) -> Policy:
    model = from_json(ModelConfig, written["model"], "model")
    tokenizer = tokenizer_of(from_json(DataConfig, written["data"], "data"))
    check_vocabulary(model.vocab_size, tokenizer.vocab_size)
    params, digest = load_initial(path, model, FIELD)
    return Policy(model, params, tokenizer, (tokenizer.end_of_document,), digest, str(path))


def _hugging_face(path: Path) -> Policy:
    from models.huggingface import import_model

    model, params, tokenizer = import_model(path)
    total = hashlib.sha256()
    for file in sorted([path / "config.json", *path.glob("*.safetensors")]):
        with open(file, "rb") as f:
            total.update(file.name.encode() + hashlib.file_digest(f, "sha256").digest())
    return Policy(model, params, tokenizer, tokenizer.ends, total.hexdigest(), str(path))
