"""What tokenizer_config.json says against tokenizer.json: further tokens, first and last tokens, the space in front.

`transformers` 4 follows these keys and 5 some of them; a folder whose files disagree means what its config says.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from models.errors import require
from models.huggingface.files import Json

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token


def configured(tokenizer: tokenizers.Tokenizer, settings: Json, file: str) -> tokenizers.Tokenizer:
    """The tokenizer as `settings`, the content of `file`, want it; ConfigError names a key that cannot be followed."""
    _add_tokens(tokenizer, settings.get("added_tokens_decoder") or {}, file)
    tokenizer = _with_space(tokenizer, settings.get("add_prefix_space"))
    _set_ends(tokenizer, settings, file)
    return tokenizer


def token_name(settings: Json, key: str) -> str | None:
    """A special token's text; older files keep it in an object."""
    token = settings.get(key)
    return token.get("content") if isinstance(token, Mapping) else token


def _add_tokens(tokenizer: tokenizers.Tokenizer, entries: Any, file: str) -> None:
    """`added_tokens_decoder`: tokens that tokenizer.json lacks, or has with other flags."""
    field = f"{file}: added_tokens_decoder"
    fix = "copy the file again"
    require(isinstance(entries, Mapping), field, "is no object", fix)
    known = tokenizer.get_added_tokens_decoder()
    for name, entry in sorted(entries.items(), key=lambda item: (len(item[0]), item[0])):
        fine = name.isdecimal() and isinstance(entry, Mapping) and isinstance(entry.get("content"), str)
        require(fine and bool(entry["content"]), field, f"has an entry {name!r} without content", fix)
        flags = {flag: bool(entry[flag]) for flag in FLAGS if isinstance(entry.get(flag), bool)}
        token = tokenizers.AddedToken(entry["content"], **flags)
        if repr(known.get(int(name))) == repr(token):
            continue
        tokenizer.add_special_tokens([token]) if flags.get("special") else tokenizer.add_tokens([token])
        found = tokenizer.token_to_id(entry["content"])
        problem = f"puts {entry['content']!r} at {name}, where tokenizer.json leads to {found}"
        require(found == int(name), field, problem, "use the tokenizer.json that belongs to it")


def _with_space(tokenizer: tokenizers.Tokenizer, wanted: Any) -> tokenizers.Tokenizer:
    """`add_prefix_space`: whether a text that does not begin with a space is read as if it did."""
    if not isinstance(wanted, bool):
        return tokenizer
    data = json.loads(tokenizer.to_str())
    before = json.dumps([data[part] for part in ("normalizer", "pre_tokenizer", "decoder")])
    for part in ("pre_tokenizer", "decoder"):
        state = data[part] or {}
        if state.get("type") == "Metaspace":
            kept = state["prepend_scheme"] if state["prepend_scheme"] != "never" else "always"
            state["prepend_scheme"] = kept if wanted else "never"
        elif state.get("type") == "ByteLevel" and part == "pre_tokenizer":
            state["add_prefix_space"] = wanted
    if not wanted and _drop(data, "normalizer", "normalizers", "Prepend"):
        _drop(data, "decoder", "decoders", "Strip")
    if before == json.dumps([data[part] for part in ("normalizer", "pre_tokenizer", "decoder")]):
        return tokenizer
    return tokenizers.Tokenizer.from_str(json.dumps(data))


def _drop(data: dict[str, Any], part: str, members: str, kind: str) -> bool:
    """Remove the steps of one kind from a part of a tokenizer; whether there were any."""
    state = data[part] or {}
    if state.get("type") == kind:
        data[part] = None
        return True
    left = [step for step in state.get(members, []) if step["type"] != kind]
    found = state.get("type") == "Sequence" and len(left) < len(state[members])
    if found:
        state[members] = left
    return found


def _set_ends(tokenizer: tokenizers.Tokenizer, settings: Json, file: str) -> None:
    """`add_bos_token` and `add_eos_token`: the special tokens that every text begins and ends with."""
    texts = ("a", *itertools.islice(tokenizer.get_vocab(with_added_tokens=False), 1000))
    probe = next((text for text in texts if tokenizer.encode(text, add_special_tokens=False).tokens), "")
    bare, now = tokenizer.encode(probe, add_special_tokens=False).tokens, tokenizer.encode(probe).tokens
    at = next((i for i in range(len(now) - len(bare) + 1) if now[i : i + len(bare)] == bare), 0)
    first, last = now[:at], now[at + len(bare) :]
    wanted = {"first": first, "last": last}
    for place, key, end in (("first", "add_bos_token", "bos_token"), ("last", "add_eos_token", "eos_token")):
        name = token_name(settings, end)
        if not isinstance(settings.get(key), bool) or name is None:
            continue
        if not settings[key]:
            wanted[place] = [token for token in wanted[place] if token != name]
        elif name not in wanted[place]:
            wanted[place] = [name, *first] if place == "first" else [*last, name]
    if wanted == {"first": first, "last": last}:
        return
    names = [*wanted["first"], *wanted["last"]]
    ids = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(names)]
    unknown = [name for name, id in ids if id is None]
    require(not unknown, file, f"names {unknown}, which is no token", "use the tokenizer.json that belongs to it")
    pieces = [*({"SpecialToken": {"id": name, "type_id": 0}} for name in wanted["first"]),
              {"Sequence": {"id": "A", "type_id": 0}},
              *({"SpecialToken": {"id": name, "type_id": 0}} for name in wanted["last"])]  # fmt: skip
    state = {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]} for name, id in ids},
    }
    template = tokenizers.processors.TemplateProcessing(single="$A", pair="$A $B")
    template.__setstate__(json.dumps(state).encode())
    tokenizer.post_processor = template
