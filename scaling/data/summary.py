"""What a person should know of the data before and after a run: how much there is of it, what was left out, epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEFT_OUT = {  # field of Tally -> what a document was
    "duplicates": "a duplicate",
    "empty": "empty",
    "not_utf8": "not UTF-8",
    "binary": "binary",
}
FAR = 2.0  # a held-out share this many times off what was asked for is worth a word
FEW = 1000  # held-out tokens below which a loss says little


def describe(record: Mapping[str, Any]) -> list[str]:
    """One line for each source of a Dataset.record."""
    return [_source(source) for source in record["sources"]]


def _source(source: Mapping[str, Any]) -> str:
    train, heldout = source["train"], source["heldout"]
    share = heldout["tokens"] / max(1, train["tokens"] + heldout["tokens"])
    line = (
        f"{source['name']}: {train['tokens']:,} tokens of {_documents(train)} to train on, "
        f"{heldout['tokens']:,} of {_documents(heldout)} held out ({share:.1%})"
    )
    left_out = [f"{source[fact]:,} {what}" for fact, what in LEFT_OUT.items() if source.get(fact)]
    return f"{line}; left out: {', '.join(left_out)}" if left_out else line


def _documents(size: Mapping[str, int]) -> str:
    return f"{size['documents']:,} document{'' if size['documents'] == 1 else 's'}"


def warnings(record: Mapping[str, Any], epochs: float = 0.0) -> list[str]:
    """What may surprise in a Dataset.record.

    epochs: how often the longest trial reads the text that it trains on.
    """
    found = []
    fraction = record["heldout_fraction"]
    for source in record["sources"]:
        train, heldout = source["train"]["tokens"], source["heldout"]["tokens"]
        share = heldout / max(1, train + heldout)
        if not fraction / FAR <= share <= fraction * FAR:
            found.append(
                f"{source['name']}: {share:.1%} of the tokens are held out, where data.heldout_fraction asks for "
                f"{fraction:.1%}: the split takes whole documents, so give more of them"
            )
        if heldout < FEW:
            found.append(f"{source['name']}: only {heldout:,} tokens are held out, so losses differ by chance")
        if source.get("not_utf8") or source.get("binary"):
            lost = source.get("not_utf8", 0) + source.get("binary", 0)
            found.append(f"{source['name']}: {_documents({'documents': lost})} left out as no UTF-8 text: convert them")
    if epochs > 1:
        found.append(f"the longest trial reads its text {epochs:.3g} times: its loss is of repeated text")
    return found
