"""CheckpointTokenizer: the tokenizer.json of a Hugging Face folder, its special tokens and its chat template."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from models import limits
from models.errors import ConfigError, require
from models.huggingface.files import read_json
from models.huggingface.tokenizer_config import configured, token_name

_OTHER = "change the text, or use another checkpoint"
Message = Mapping[str, Any]  # {"role": "user", "content": "..."}


class CheckpointTokenizer:
    """Text to token ids and back, as the checkpoint's authors meant it.

    settings: tokenizer_config.json. ends: ids that end a generation, in the order of their files. Special tokens that a
    text spells are read as such, and `encode` adds the ones that the checkpoint expects (Llama: a first token), as
    `transformers` does.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any], ends: tuple[int, ...]):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self.settings, self.ends = tokenizer, dict(settings), ends
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        identity = [json.loads(tokenizer.to_str()), self.ends]
        self.digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def end_of_document(self) -> int:
        """The first of `ends`."""
        return self.ends[0]

    def encode(self, text: str, add_special_tokens: bool = True) -> np.ndarray:
        """Token ids [tokens] int32."""
        with _reading(text):
            return np.asarray(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of every text, in parallel."""
        with _reading(""):
            return [np.asarray(encoding.ids, np.int32) for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def decode(self, tokens: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of token ids; bytes that are not UTF-8 (a cut character) become U+FFFD."""
        return self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=skip_special_tokens)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes of text that each id stands for [vocab_size] int32, 0 for special tokens."""
        return token_bytes(self._tokenizer)

    @functools.cached_property
    def spelling(self) -> tuple[bytes, ...]:
        """What each id adds to a text that has begun."""
        return spelling(self._tokenizer)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that turns a conversation into text, or None."""
        template = self.settings.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        return template

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True, **values: Any) -> np.ndarray:
        """Token ids [tokens] int32 of a conversation, ready for the model to answer.

        Where the last message is the model's own, it is ready to be gone on with: nothing comes after its content.
        """
        last = messages[-1]["content"] if messages and messages[-1].get("role") == "assistant" else None
        if last is not None and not last.strip():  # a turn that has not begun
            messages, last = messages[:-1], None
        if last is None or not add_generation_prompt:
            return self.encode(self.chat_text(messages, add_generation_prompt, **values), add_special_tokens=False)
        text = self.chat_text(messages, False, **values)
        at = text.rfind(last.strip())
        fix = "use another template, or leave the last message out"
        require(at >= 0, "messages", "have a last one that the chat template does not write as it is", fix)
        kept = last.lstrip() if text.startswith(last.lstrip(), at) else last.strip()  # some templates trim it
        return self.encode(text[: at + len(kept)], add_special_tokens=False)

    def chat_text(self, messages: Sequence[Message], add_generation_prompt: bool = True, **values: Any) -> str:
        """The conversation as the chat template renders it; `values` are further variables of the template.

        Raises:
          ConfigError: the checkpoint has no template, jinja2 is not installed, or the template refuses the messages.
        """
        if self.chat_template is None:
            fix = "use a checkpoint that was tuned for chat, or give prompts as text"
            raise ConfigError("messages", "the checkpoint has no chat template", fix)
        special = {name: self._name(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        special = {name: token for name, token in special.items() if token is not None}
        values = {"tools": None, "documents": None, **special, **values}
        values |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return limits.render(self.chat_template, values)

    def _name(self, key: str) -> str | None:
        return token_name(self.settings, key)

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json at `path` and tokenizer_config.json beside it."""
        Path(path).write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        settings = json.dumps(self.settings, indent=2, ensure_ascii=False)
        Path(path).with_name("tokenizer_config.json").write_text(settings, encoding="utf-8")


def load_checkpoint_tokenizer(folder: Path) -> CheckpointTokenizer:
    """The tokenizer of a Hugging Face folder; ends from generation_config.json, config.json or tokenizer_config.json.

    Raises:
      ConfigError: no tokenizer.json, a damaged file, or no token that ends a text.
    """
    path = folder / "tokenizer.json"
    fix = "write it with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    require(path.is_file(), str(path), "does not exist", fix)
    limits.check_tokenizer(path)
    with limits.foreign(str(path), "is no tokenizer.json"):
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    settings = read_json(folder / "tokenizer_config.json", optional=True)
    template = folder / "chat_template.jinja"
    if template.is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    tokenizer = configured(tokenizer, settings, str(folder / "tokenizer_config.json"))
    return CheckpointTokenizer(tokenizer, settings, _ends(folder, tokenizer, settings))


def _ends(folder: Path, tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end a text; with a chat template also the token that the tokenizer ends a turn with."""
    name = token_name(settings, "eos_token")
    own = None if name is None else tokenizer.token_to_id(name)
    for file in ("generation_config.json", "config.json"):
        ids = read_json(folder / file, optional=True).get("eos_token_id")
        if ids is None:
            continue
        ids = ids if isinstance(ids, list) else [ids]
        wrong = [id for id in ids if not isinstance(id, int) or isinstance(id, bool) or id < 0]
        require(not wrong and bool(ids), str(folder / file), f"eos_token_id is {ids!r}", "give token ids")
        limits.check_ids(ids, str(folder / file), "eos_token_id")
        more = own is not None and own not in ids and settings.get("chat_template") is not None
        return (*ids, own) if more and own is not None else tuple(ids)
    fix = "set eos_token_id in config.json"
    if own is None:
        raise ConfigError(str(folder / "config.json"), "names no token that ends a text (eos_token_id)", fix)
    return (own,)


def token_bytes(tokenizer: tokenizers.Tokenizer) -> np.ndarray:
    """Bytes of text that each id stands for [vocab_size] int32, 0 for special tokens."""
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    names = {id: name for name, id in tokenizer.get_vocab(with_added_tokens=True).items()}
    decoder = json.dumps(json.loads(tokenizer.to_str())["decoder"])
    byte_level = set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) if "ByteLevel" in decoder else set()
    sizes = np.zeros(max(names) + 1, np.int32)
    for id, name in names.items():
        if id not in special:
            sizes[id] = _bytes_of(name, byte_level)
    return sizes


def spelling(tokenizer: tokenizers.Tokenizer) -> tuple[bytes, ...]:
    """What each id adds to a text that has begun: its bytes, of special tokens the text that stands for them."""
    names = {id: name for name, id in tokenizer.get_vocab(with_added_tokens=True).items()}
    ids = range(max(names) + 1)
    lead = next((id for id in sorted(names) if tokenizer.decode([id]).strip().isalnum()), None)
    if lead is None:
        return tuple(_named_bytes(names.get(id, "")) for id in ids)
    begun = tokenizer.decode([lead], skip_special_tokens=False)
    texts = tokenizer.decode_batch([[lead, id] for id in ids], skip_special_tokens=False)
    added = [text[len(begun) :] if text.startswith(begun) else "\ufffd" for text in texts]
    # a byte of a longer character has no text of its own
    return tuple(_named_bytes(names.get(id, "")) if "\ufffd" in text else text.encode() for id, text in zip(ids, added))


def _named_bytes(name: str) -> bytes:
    """The bytes that a token's name stands for."""
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes.fromhex(name[3:5])
    if name and all(letter in BYTE_LETTERS for letter in name):
        return bytes(BYTE_LETTERS[letter] for letter in name)
    return name.replace("▁", " ").encode()


def _byte_letters() -> dict[str, int]:
    """The letters of byte-level vocabularies (GPT-2's): printable bytes are themselves, the others come after 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_LETTERS = _byte_letters()


def _bytes_of(name: str, byte_level: set[str]) -> int:
    """Bytes of text behind a token's name: one character per byte in a byte-level vocabulary, else UTF-8."""
    if byte_level and byte_level.issuperset(name):
        return len(name)
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return 1
    return len(name.replace("▁", " ").encode())


def _reading(text: str) -> contextlib.AbstractContextManager[None]:
    """ConfigError for what the library raises at a text."""
    return limits.foreign("prompt", "cannot be read by the tokenizer", _OTHER, repr(text[:30]) if text else "")
