"""A policy as lm-eval's model (Gao et al., lm-evaluation-harness, 0.4), so that its tasks run on our engine.

    pip install "isoflop[lm-eval]"

    from lm_eval import simple_evaluate
    from search.lm_eval_adapter import PolicyModel

    simple_evaluate(model=PolicyModel("runs/x/trials/0123456789ab"), tasks=["arc_easy"])

Scores are those of `scaling.evaluate` on the same texts: contexts, borders of tokens and what is too long are treated
by the same code. The package itself is read here alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from models.errors import require
from scaling.evaluate.item import Item
from scaling.evaluate.likelihood import continuations
from search.answers import GreedyAnswers, engine_config, subject
from search.policy import Policy, load_policy


class PolicyModel(LM):
    """A trial's directory, a Hugging Face folder, or a policy that is loaded already.

    chat: ask as a conversation, by the checkpoint's template. max_tokens: of an answer whose task sets no limit.
    """

    def __init__(self, policy: Policy | str | Path, chat: bool = False, max_tokens: int = 256) -> None:
        super().__init__()
        self.policy = policy if isinstance(policy, Policy) else load_policy(policy)
        self.subject, self.max_tokens = subject(self.policy, chat), max_tokens

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(nats of the continuation, whether it is what greedy decoding gives) of (context, continuation) each."""
        reader = self.subject.reader
        pairs = []
        for context, continuation in (request.args for request in requests):
            if context:
                pairs.append(reader.question(_item(context), continuation))
            else:
                pairs.append((reader.empty, tuple(map(int, reader.continue_(continuation)))))
        return self._scored(pairs)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Nats of whole texts, every token scored once, after what fits before it: one window where the model reads
        any length."""
        reader, found = self.subject.reader, []
        for (text,) in (request.args for request in requests):
            tokens = list(map(int, reader.continue_(text)))
            model = self.subject.model
            room = model.max_seq_len if model.positions == "learned" else self.subject.most or len(tokens)
            windows = get_rolling_token_windows(tokens, reader.empty[-1], max(1, room), context_len=1)
            pairs = [(tuple(a), tuple(b)) for a, b in map(make_disjoint_window, windows)]
            found.append(sum(nats for nats, _ in self._scored(pairs)))
        return found

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, up to the texts that end them. ConfigError for sampled ones."""
        groups: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
        for i, (_, asked) in enumerate(request.args for request in requests):
            sampled = asked.get("do_sample", False) and asked.get("temperature", 1.0) > 0
            fix = "set do_sample to false, or draw samples with launch.infer"
            require(not sampled, "generation_kwargs.do_sample", "is set, but answers are greedy here", fix)
            until = asked.get("until") or ()
            stops = (until,) if isinstance(until, str) else tuple(text for text in until if text)
            groups[stops, int(asked.get("max_gen_toks", self.max_tokens))].append(i)
        texts: dict[int, str] = {}
        for (stops, most), places in groups.items():
            contexts = [self.subject.reader.question(_item(requests[i].args[0]))[0] for i in places]
            config = engine_config(self.policy, max(map(len, contexts)), most)
            texts |= dict(zip(places, GreedyAnswers(self.policy, config, most, stops)(contexts), strict=True))
        return [texts[i] for i in range(len(requests))]

    def _scored(self, pairs: Sequence[Any]) -> list[tuple[float, bool]]:
        found = continuations(self.subject.model, self.subject.params, pairs, self.subject.most)
        return [(float(one.logprobs.sum()), bool(one.greedy.all())) for one in found]


def _item(context: str) -> Item:
    """A context as what our readers read; whatever joins it and a continuation, lm-eval has put there."""
    return Item("", "lm-eval", context, "cloze", ("?",))
