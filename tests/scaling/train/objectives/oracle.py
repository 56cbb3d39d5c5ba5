"""What every objective minimises, from logits, in plain NumPy loops of float64; and batches for it.

`loss(objective, logits, batch, frozen, at)`: (sum, weight). What an objective holds fixed while it differentiates
(ratios that only weigh, penalties in a reward) is computed from the logits `at`, so that finite differences in `logits`
are the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.train.objectives import Coverage, Distillation, Objective, PolicyGradient, Preference
from scaling.train.objectives.completions import Completions
from scaling.train.objectives.objective import abstract_batch


def batch_of(objective: Objective, rows: int, seq: int, vocab: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random batch of what an objective needs; completions start and end at uneven places."""
    rng = np.random.default_rng(seed)
    batch = {name: rng.random(x.shape).astype(x.dtype) for name, x in abstract_batch(objective, rows, seq).items()}
    batch["tokens"] = rng.integers(0, vocab, batch["tokens"].shape).astype(np.int32)
    places = np.arange(seq)
    start = rng.integers(0, 2, (*batch["tokens"].shape[:-1], 1))
    stop = rng.integers(2, seq + 1, (*batch["tokens"].shape[:-1], 1))
    batch["weights"] = ((places >= start) & (places < stop)).astype(np.float32)
    for name in ("sampled_logprobs", "old_logprobs"):
        if name in batch:
            batch[name] = (-2.5 * batch[name]).astype(np.float32)
    if "truncated" in batch:
        batch["truncated"] = (batch["truncated"] < 0.3).astype(np.float32)
    if "rewards" in batch:
        batch["rewards"] = np.round(2 * batch["rewards"], 1)
    return batch


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def logprobs(logits: np.ndarray, tokens: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """log p of tokens[1:], `[seq]`, of one sequence."""
    table = log_softmax(logits.astype(np.float64) / temperature)
    return np.array([table[t, token] for t, token in enumerate(tokens[1:])])


def loss(
    objective: Objective, logits: np.ndarray, batch: dict[str, np.ndarray], frozen: np.ndarray | None, at: np.ndarray
) -> tuple[float, float]:
    """logits, frozen, at `[rows, (sequences,) seq, vocab]`, of the trained model and of the one that it reads."""
    if isinstance(objective, PolicyGradient):
        return policy_gradient(objective, logits, batch, frozen, at)
    if isinstance(objective, Preference):
        return preference(objective, logits, batch, frozen)
    total, weight = 0.0, 0.0
    for row, (z, tokens, w) in enumerate(zip(logits, batch["tokens"], batch["weights"])):
        lp = logprobs(z, tokens)
        if isinstance(objective, Coverage):
            p = np.exp((lp * w).sum())
            total, weight = total - np.log(-np.expm1(objective.samples * np.log1p(-p))), weight + 1
        elif isinstance(objective, Distillation):
            assert frozen is not None
            for t in range(len(lp)):
                total += w[t] * diverged(objective, frozen[row][t], z[t])
                total -= w[t] * (1 - objective.share) * lp[t]
            weight += w.sum()
        elif isinstance(objective, Completions) and objective.normalize == "sequence":
            total, weight = total - (lp * w).sum() / w.sum(), weight + 1
        else:
            total, weight = total - (lp * w).sum(), weight + w.sum()
    return total, weight


def diverged(objective: Distillation, teacher: np.ndarray, student: np.ndarray) -> float:
    """share x t^2 x the divergence at one position."""
    temperature = objective.temperature
    t, s = (np.exp(log_softmax(z.astype(np.float64) / temperature)) for z in (teacher, student))
    if objective.divergence == "top":
        places = np.argsort(-t)[: objective.top]
        t, s = t[places] / t[places].sum(), s[places]
    pairs = zip(s, t) if objective.divergence == "reverse" else zip(t, s)
    return objective.share * temperature**2 * sum(a * np.log(a / b) for a, b in pairs)


def preference(
    objective: Preference, logits: np.ndarray, batch: dict[str, np.ndarray], frozen: np.ndarray | None
) -> tuple[float, float]:
    total = 0.0
    for row, tokens in enumerate(batch["tokens"]):
        sides = []
        for i in (0, 1):
            w = batch["weights"][row, i]
            lp = logprobs(logits[row, i], tokens[i])
            if frozen is not None:
                lp = lp - logprobs(frozen[row, i], tokens[i])
            sides.append((lp * w).sum() / (w.sum() if objective.kind in ("ipo", "simpo") else 1))
        h, beta = sides[0] - sides[1], objective.beta
        if objective.kind == "dpo":
            right, wrong = np.log1p(np.exp(-beta * h)), np.log1p(np.exp(beta * h))
            total += (1 - objective.smoothing) * right + objective.smoothing * wrong
        elif objective.kind == "simpo":
            total += np.log1p(np.exp(objective.gap - beta * h))
        else:
            total += max(0.0, 1 - beta * h) if objective.kind == "hinge" else (h - 1 / (2 * beta)) ** 2
    return total, float(len(batch["tokens"]))


def policy_gradient(
    o: PolicyGradient, logits: np.ndarray, batch: dict[str, Any], frozen: np.ndarray | None, at: np.ndarray
) -> tuple[float, float]:
    total, weight = 0.0, 0.0
    for row, group in enumerate(batch["tokens"]):
        truncated = batch["truncated"][row] if o.mask_truncated else np.zeros(len(group))
        kept = np.isfinite(batch["rewards"][row]) & (truncated == 0)
        own = group_advantages(o, batch["rewards"][row], kept)
        for i in range(len(group)):
            if not kept[i]:
                continue
            found = completion(o, row, i, own[i], logits, batch, frozen, at)
            total, weight = total + found[0], weight + found[1]
    return total, weight


def group_advantages(o: PolicyGradient, rewards: np.ndarray, kept: np.ndarray) -> np.ndarray:
    r, found = rewards.astype(np.float64), np.zeros(len(rewards))
    n, inside = kept.sum(), r[kept]
    for i in np.flatnonzero(kept):
        if o.advantage in ("reinforce", "expert"):
            found[i] = r[i] - o.baseline if o.advantage == "reinforce" else float(r[i] > 0)
        elif n > 1 and o.advantage != "given":
            others = [r[j] for j in np.flatnonzero(kept) if j != i]
            found[i] = {
                "grpo": (r[i] - inside.mean()) / (inside.std(ddof=1) + o.deviation_floor),
                "centered": r[i] - inside.mean(),
                "leave_one_out": r[i] - np.mean(others),
                "best": max(r[i] - max(others), 0.0),
            }[o.advantage]
    return found


def completion(
    o: PolicyGradient, row: int, i: int, advantage: float, logits: np.ndarray, batch: dict[str, Any],
    frozen: np.ndarray | None, at: np.ndarray,
) -> tuple[float, float]:  # fmt: skip
    """(loss, weight) of one completion, token by token."""
    tokens, mask = batch["tokens"][row, i], batch["weights"][row, i]
    places = [t for t in range(len(mask)) if mask[t] > 0]
    lp, fixed = (logprobs(z[row, i], tokens, o.temperature) for z in (logits, at))
    reference = None if frozen is None else logprobs(frozen[row, i], tokens, o.temperature)
    sampled = batch.get("sampled_logprobs")
    old = fixed if o.old == "current" else batch[f"{'old' if o.old == 'batch' else 'sampled'}_logprobs"][row, i]
    drift = {t: float(old[t] - sampled[row, i][t]) if sampled is not None else 0.0 for t in places}
    if o.correction == "drop" and np.exp(sum(drift.values())) > o.correction_limit:
        return 0.0, 0.0
    terms = []
    for t in places:
        a = float(batch["advantages"][row, i, t]) if o.advantage == "given" else advantage
        if o.progress:
            a += o.progress * float(batch["progress"][row, i, t])
        if reference is not None and o.kl_estimate == "k1":
            a -= o.kl * sum(fixed[s] - reference[s] for s in places if s >= t)
        rho = np.exp(lp[t] - old[t])
        if o.ratio == "sequence":
            rho = np.exp(np.mean([fixed[s] - old[s] for s in places]) + lp[t] - fixed[t])
        terms.append(token_loss(o, rho, a, lp[t], np.exp(fixed[t] - old[t])))
        if o.correction == "truncate":
            terms[-1] *= min(np.exp(drift[t]), o.correction_limit)
        if reference is not None and o.kl_estimate != "k1":
            d = lp[t] - reference[t]
            k3 = np.exp(-d) - 1 + d
            terms[-1] += o.kl * {"k2": d**2 / 2, "k3": k3, "k3_ratio": rho * k3}[o.kl_estimate]
        if o.entropy:
            law = log_softmax(logits[row, i, t].astype(np.float64) / o.temperature)
            terms[-1] += o.entropy * float((np.exp(law) * law).sum())
    count = {"sequence": len(terms), "constant": o.budget or len(mask)}.get(o.normalize, 1)
    return sum(terms) / count, float(len(terms) if o.normalize == "token" else 1)


def token_loss(o: PolicyGradient, rho: float, a: float, lp: float, rho_fixed: float) -> float:
    inside = min(max(rho, 1 - o.clip_low), 1 + o.clip_high)
    if o.clip == "none":
        return -rho * a
    if o.clip == "weight":
        return -min(max(rho_fixed, 1 - o.clip_low), 1 + o.clip_high) * a * lp
    gain = min(rho * a, inside * a)
    if o.dual_clip is not None and a < 0:
        gain = max(gain, o.dual_clip * a)
    return -gain
