"""Reader: how a model is shown an item: its context and what continues it, as tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import ConfigError, require
from scaling.evaluate.item import Item

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Reader:
    """encode: text -> ids, with what the tokenizer puts first. begin: ids before the context.

    between: how shots are set apart, a text or the ids that end a document. empty: the context of a continuation that
    has none. chat: messages -> ids, where items are asked as a conversation.
    """

    encode: Callable[[str], Sequence[int]]
    continue_: Callable[[str], Sequence[int]]  # text -> ids, without what the tokenizer puts first
    empty: Tokens
    begin: Tokens = ()
    between: str | Tokens = "\n\n"
    chat: Callable[[list[dict[str, str]]], Sequence[int]] | None = None

    def question(self, item: Item, continuation: str = "") -> tuple[Tokens, Tokens]:
        """(context, continuation) of an item with its shots before it.

        The continuation's ids are what the whole text has beyond the context's, after spaces that end the context were
        moved into the continuation: a tokenizer may merge across the border.
        """
        if self.chat is not None:
            return self._conversation(item, continuation)
        shots = [f"{prompt}{item.delimiter}{answer}" for prompt, answer in item.shots]
        continuation = f"{item.delimiter}{continuation}" if continuation else ""
        if isinstance(self.between, str):
            return self._pair(self.between.join([*shots, item.prompt]), continuation)
        before = [token for shot in shots for token in (*self.encode(shot), *self.between)]
        context, after = self._pair(item.prompt, continuation)
        return (*self.begin, *map(int, before), *context), after

    def unconditional(self, item: Item, continuation: str) -> tuple[Tokens, Tokens]:
        """(context, continuation) without the question."""
        if not item.unconditional:
            return self.empty, tuple(map(int, self.continue_(f"{item.delimiter}{continuation}")))
        context, after = self._pair(item.unconditional, f"{item.delimiter}{continuation}")
        return (*self.begin, *context), after

    def _pair(self, context: str, continuation: str) -> tuple[Tokens, Tokens]:
        spaces = len(context) - len(context.rstrip()) if continuation else 0
        if 0 < spaces < len(context):
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        head = tuple(map(int, self.encode(context)))
        if not continuation:
            return head, ()
        whole = tuple(map(int, self.encode(context + continuation)))
        after = whole[len(head) :]
        problem = f"{continuation!r} adds no token to its context"
        require(len(after) > 0, "continuation", problem, "give another choice, or another tokenizer")
        return whole[: len(head)], after

    def _conversation(self, item: Item, continuation: str) -> tuple[Tokens, Tokens]:
        messages = []
        for prompt, answer in item.shots:
            messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        messages.append({"role": "user", "content": item.prompt})
        assert self.chat is not None
        context = tuple(map(int, self.chat(messages)))
        return context, tuple(map(int, self.continue_(continuation))) if continuation else ()


def document_reader(tokenizer: Any, packed: bool) -> Reader:
    """For a model trained on a stream of documents: each begins after the end of the one before (`packed`), and shots
    are documents. With attention within documents a context begins with nothing."""
    end = (int(tokenizer.end_of_document),)
    return Reader(tokenizer.encode, tokenizer.encode, empty=end, begin=end if packed else (), between=end)


def text_reader(tokenizer: Any, chat: bool = False) -> Reader:
    """For a Hugging Face checkpoint: what its tokenizer puts first is the empty context, or else its end of a text.

    Raises:
      ConfigError: `chat` of a checkpoint without a template.
    """

    def bare(text: str) -> Sequence[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    if chat and getattr(tokenizer, "chat_template", None) is None:
        raise ConfigError("--chat", "the checkpoint has no chat template", "leave it out")
    begin = tuple(map(int, tokenizer.encode("")))
    return Reader(
        tokenizer.encode, bare, begin or (int(tokenizer.end_of_document),), chat=tokenizer.chat if chat else None
    )
