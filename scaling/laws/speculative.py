"""Speculative decoding: acceptance of a draft model and the throughput that follows, log-linear in what was spent.

The forms are those of the abstract of Yan et al. 2025; its coefficients were not read, and none is assumed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.fitting.law import Law

ACCEPTANCE = Law(
    name="speculative_acceptance",
    formula="acceptance = a + b ln D + c ln N",
    inputs=("tokens", "params"), output="acceptance",
    predict=lambda p, x: p.a + p.b * np.log(x.tokens) + p.c * np.log(x.params),
    linear=("a", "b", "c"), bounds=dict(a=(None, None), b=(None, None), c=(None, None)),
    space="raw", objective="gaussian",
    units=dict(tokens="tokens the draft model was trained on", params="parameters of the draft model",
               acceptance="P(a drafted token is accepted), or accepted tokens per pass"),
    source="Yan et al. 2025, scaling laws for speculative decoding (form per abstract)")

THROUGHPUT = Law(
    name="speculative_throughput",
    formula="throughput = a + b ln(batch)",
    inputs=("batch_size",), output="throughput",
    predict=lambda p, x: p.a + p.b * np.log(x.batch_size),
    linear=("a", "b"), bounds=dict(a=(None, None), b=(None, None)),
    space="raw", objective="gaussian",
    units=dict(batch_size="sequences decoded together", throughput="tokens/s"),
    source="Yan et al. 2025, scaling laws for speculative decoding (form per abstract)")

TOKENS_PER_PASS = Law(
    name="speculative_tokens",
    formula="tokens per pass = (1 - alpha**(gamma + 1)) / (1 - alpha)",
    inputs=("draft_length",), output="tokens_per_pass",
    predict=lambda p, x: tokens_per_pass(p.alpha, x.draft_length),
    bounds=dict(alpha=(0, 1)), space="raw", objective="gaussian", start=dict(alpha=tuple(np.linspace(0.02, 0.98, 25))),
    units=dict(draft_length="drafted tokens per pass", tokens_per_pass="tokens per pass of the target model"),
    source="Leviathan et al. 2023, equation 1 (arXiv:2211.17192)")


def tokens_per_pass(alpha: Any, draft_length: Any) -> Any:
    """Expected tokens of one target pass at acceptance alpha < 1 with `draft_length` drafted tokens, bonus included."""
    return (1 - alpha ** (draft_length + 1)) / (1 - alpha)


LAWS = (ACCEPTANCE, THROUGHPUT, TOKENS_PER_PASS)
