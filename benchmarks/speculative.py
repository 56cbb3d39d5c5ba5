"""Speculative decoding of modular chains: how many passes of the model it takes, and how long.

    python benchmarks/speculative.py                # trains for a minute of CPU time, then measures every case
    python benchmarks/speculative.py --train_s 20 --cases plain,table-seeded --slots 8

The task: `3+5*2=?` mod 7, from left to right, is answered `3+5=1|1*2=2.`. A small transformer learns it, and the engine
samples many answers to each of some new problems. One JSON line per case: tokens per second, passes of the model in
which a row took part per token it got (`row_calls_per_token`; 1 without guesses) and the share saved, the share of
the guesses that stood, and whether the answers are the right ones. For the seeded rule `same_tokens` is the share of
samples that equal plain decoding's; for the rejection rule `p_value` compares the counts of the answers with plain
decoding's (two samples, chi-square). Few slots for many samples is where a table of siblings knows what comes;
`--slots` as large as the number of samples lets all of them walk in step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

import numpy as np
from harness import ROOT, _commit, _processor, cpu_seconds, prepare

MODULUS, LENGTH = 7, 8  # of the chain
TEXT = "0123456+-*=?|."
BASES = {c: i for i, c in enumerate(TEXT)}
CASES = {
    "plain": None,
    "table-seeded": dict(drafter="table", rule="seeded"),
    "table-rejection": dict(drafter="table", rule="rejection"),
    "table-chain-rejection": dict(drafter="table", rule="rejection", shape="chain"),
    "text-seeded": dict(drafter="text", rule="seeded"),
    "table+text-seeded": dict(drafter="table+text", rule="seeded"),
    "model-chain-rejection": dict(drafter="model", rule="rejection", shape="chain", nodes=4),
    "model-tree-rejection": dict(drafter="model", rule="rejection", nodes=6),
}


def problem(rng: np.random.Generator) -> tuple[str, str]:
    """(question, answer) of one chain."""
    digits, signs = rng.integers(0, MODULUS, LENGTH + 1), rng.choice(list("+-*"), LENGTH)
    value, steps = int(digits[0]), []
    for sign, digit in zip(signs, digits[1:]):
        new = {"+": value + digit, "-": value - digit, "*": value * digit}[sign] % MODULUS
        steps.append(f"{value}{sign}{digit}={new}")
        value = int(new)
    question = str(digits[0]) + "".join(f"{s}{d}" for s, d in zip(signs, digits[1:])) + "=?"
    return question, "|".join(steps) + "."


def encode(text: str) -> list[int]:
    """Token ids of a text."""
    return [BASES[c] for c in text]


def train(config, seconds: float, seed: int):
    """(parameters, steps, last loss): Adam on the answers for so much CPU time."""
    import jax
    import jax.numpy as jnp
    import optax

    from models import transformer

    rng = np.random.default_rng(seed)
    params = transformer.init(config, jax.random.key(seed))
    schedule = optax.warmup_constant_schedule(0.0, 3e-3, 100)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))
    state = optimizer.init(params)
    prompt = len(encode(problem(rng)[0]))

    @jax.jit
    def step(params, state, tokens):
        scored = (jnp.arange(tokens.shape[1] - 1) >= prompt - 1) * jnp.ones((len(tokens), 1))

        def mean(params):
            total, weight = transformer.loss(config, params, tokens, loss_weights=scored)
            return total / weight

        loss, grads = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    steps, begin = 0, None
    while begin is None or cpu_seconds() - begin < seconds:
        batch = np.array([encode("".join(problem(rng))) for _ in range(32)], np.int32)
        params, state, loss = step(params, state, batch)
        loss.block_until_ready()
        steps, begin = steps + 1, begin if begin is not None else cpu_seconds()
    return params, steps, float(loss)


def two_samples(ours: dict, other: dict) -> float:
    """The chi-square p-value of two tables {problem: [answers]} of counts; answers seen under 10 times are pooled."""
    from scipy import stats

    statistic, freedom = 0.0, 0
    for key in other:
        values = sorted({*ours[key], *other[key]})
        table = np.array([[side[key].count(v) for v in values] for side in (ours, other)])
        rare = table.sum(0) < 10
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
        table = table[:, table.sum(0) > 0]
        if table.shape[1] > 1:
            found = stats.chi2_contingency(table, correction=False)
            statistic, freedom = statistic + found.statistic, freedom + found.dof
    return float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_s", type=float, default=60, help="CPU seconds of training (a third of it for drafts)")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--samples", type=int, default=64, help="per problem")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=8, help="tokens that the model reads per row and pass")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--core", type=int, default=os.cpu_count() - 1, help="the CPU to run on")
    parser.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    options = parser.parse_args()
    prepare(options.core)
    import jax

    from models.config import ModelConfig
    from search.engine.speculative import DraftModel

    shape = dict(vocab_size=len(TEXT), max_seq_len=128)
    target = ModelConfig(d_model=64, n_layers=2, n_heads=4, d_ff=192, **shape)
    params, steps, loss = train(target, options.train_s, 0)
    draft = None
    if any(name.startswith("model") for name in options.cases.split(",")):
        small = ModelConfig(d_model=32, n_layers=1, n_heads=2, d_ff=64, **shape)
        draft = DraftModel(small, train(small, options.train_s / 3, 1)[0])
    facts = {
        "train_steps": steps, "train_loss": round(loss, 4), "problems": options.problems, "samples": options.samples,
        "slots": options.slots, "temperature": options.temperature,
        "machine": f"{_processor()}, {jax.devices()[0].device_kind}, core {options.core}",
        "versions": {"python": platform.python_version(), "jax": jax.__version__}, "commit": _commit(),
    }  # fmt: skip
    plain: dict = {}
    for name in dict.fromkeys(["plain", *options.cases.split(",")]):
        line, answers = measure(name, target, params, draft, options)
        plain = plain or answers
        if name != "plain":
            line |= compared(line["rule"], answers, plain)
        emit(options, line | facts)


def measure(name: str, target, params, draft, options: argparse.Namespace) -> tuple[dict, dict]:
    """(the figures of one case, its answers by problem)."""
    from search.engine.config import EngineConfig
    from search.engine.engine import Engine
    from search.engine.request import Request
    from search.engine.sampling import Sampling
    from search.engine.speculative import Speculation, SpeculativeEngine

    config = EngineConfig(slots=options.slots, max_len=96, page_size=32, prefill_chunk=64, ends=(BASES["."],))
    rng = np.random.default_rng(99)
    questions = [problem(rng) for _ in range(options.problems)]
    settings = Sampling(temperature=options.temperature)

    def requests(first: int, samples: int) -> list[Request]:
        return [Request(first + i, tuple(encode(q)), samples, 64, settings) for i, (q, _) in enumerate(questions)]

    speculation = None
    if CASES[name] is None:
        engine = Engine(target, params, config)
    else:
        speculation = Speculation(**(dict(nodes=options.nodes) | CASES[name]))
        engine = SpeculativeEngine(
            target, params, config, speculation, draft if speculation.drafter == "model" else None
        )
    list(engine.generate(requests(1000, options.slots)))  # compiles
    before = vars(engine.speculated).copy() if speculation else {}
    cpu, wall = cpu_seconds(), time.perf_counter()
    done = list(engine.generate(requests(0, options.samples)))
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    answers = {i: [None] * options.samples for i in range(options.problems)}
    for c in done:
        answers[c.problem][c.sample] = "".join(TEXT[t] for t in c.tokens)
    tokens = sum(len(c.tokens) for c in done)
    right = [a == questions[i][1] for i, given in answers.items() for a in given]
    line = {"tokens_per_cpu_s": round(tokens / cpu), "bench": "speculative", "case": name, "tokens": tokens,
            "cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "right": round(float(np.mean(right)), 4)}  # fmt: skip
    if speculation is not None:
        now = {key: value - before[key] for key, value in vars(engine.speculated).items()}
        line |= {
            "rule": speculation.rule, "drafter": speculation.drafter, "shape": speculation.shape,
            "nodes": speculation.nodes, "target_calls": now["calls"],
            "row_calls_per_token": round(now["row_calls"] / now["tokens"], 4),
            "calls_saved": round(1 - now["row_calls"] / now["tokens"], 4),
            "acceptance": round(now["accepted"] / max(now["drafted"], 1), 4),
        }  # fmt: skip
    else:
        line["target_calls"] = engine.statistics.steps
    return line, answers


def compared(rule: str, ours: dict, plain: dict) -> dict:
    """How answers compare with those of plain decoding."""
    if rule == "rejection":
        return {"p_value": round(two_samples(ours, plain), 4)}
    same = [a == b for key in plain for a, b in zip(ours[key], plain[key])]
    return {"same_tokens": round(float(np.mean(same)), 4)}


def emit(options: argparse.Namespace, line: dict) -> None:
    """Print one JSON line, and keep it if asked to."""
    text = json.dumps(line)
    print(text, flush=True)
    if options.keep:
        with (ROOT / "benchmarks" / "results" / "speculative.jsonl").open("a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
