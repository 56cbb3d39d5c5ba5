"""Truth: 20 steps and greedy tokens equal what a CPU gave, which results/truth_cpu.json keeps.

Float32 at the highest precision of products must agree to what another order of sums leaves; at the platform's own
precision (NVIDIA: TF32, 10 bits of mantissa) and in bfloat16 (8 bits) to what their rounding leaves. Bounds are on the
largest difference of a step's loss in nats. A greedy token may differ where the two candidates' logits are closer than
the bound on logits, and only from there on; how far apart they were is in the line.
"""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

from accelerator_stages.common import ROOT, Cases

KEPT = ROOT / "benchmarks" / "results" / "truth_cpu.json"
STEPS, PROMPTS, PROMPT, NEW = 20, 8, 16, 32
# (largest difference of a step's loss, nats; largest gap of two logits between which another token may be chosen).
# Another order of sums on a CPU (scanned layers) gave 9e-7 nats in float32 and 0.016 in bfloat16, where one prompt of
# eight parted at two logits 0.003 apart.
BOUNDS = {"float32": (2e-4, 1e-3), "float32, default precision": (2e-2, 0.1), "bfloat16": (5e-2, 0.3)}


def cases(stage: str, toy: bool, out: Path) -> Cases:
    """One case for each numeric setting; a rehearsal has one."""
    names = ("float32",) if toy else tuple(BOUNDS)
    return {name: partial(compare, name, "toy" if toy else "full") for name in names}


def compare(name: str, size: str) -> dict[str, Any]:
    """This device's losses and tokens beside the kept ones; ValueError where they are further apart than the bound."""
    kept = json.loads(KEPT.read_text())[size][dtype_of(name)]
    losses, tokens, logits = measure(name, size)
    loss_bound, logit_bound = BOUNDS[name]
    apart = max(abs(a - b) for a, b in zip(losses, kept["losses"], strict=True))
    gaps = [gap for one in range(PROMPTS) if (gap := parting(one, tokens, kept["tokens"], logits)) is not None]
    line = {
        "loss_difference": float(f"{apart:.3g}"), "loss_bound": loss_bound, "last_loss": round(losses[-1], 5),
        "equal_prompts": PROMPTS - len(gaps), "prompts": PROMPTS, "logit_bound": logit_bound,
        "largest_gap_where_tokens_part": float(f"{max(gaps, default=0.0):.3g}"),
    }  # fmt: skip
    if not apart <= loss_bound or not max(gaps, default=0.0) <= logit_bound:
        raise ValueError(f"{name} differs from the CPU by more than rounding: {line}")
    return line


def parting(one: int, tokens: Any, kept: Any, logits: Any) -> float | None:
    """How far apart the logits of the two tokens are where this prompt's first differ; None where none does."""
    pairs = zip(tokens[one], kept[one], strict=True)
    first = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    if first is None:
        return None
    row = logits(one, kept[one][:first])
    return abs(float(row[tokens[one][first]] - row[kept[one][first]]))


def dtype_of(name: str) -> str:
    """The compute type of a case."""
    return name.partition(",")[0]


def measure(name: str, size: str) -> tuple[list[float], list[list[int]], Any]:
    """(losses of 20 steps, greedy tokens of 8 prompts, a function (prompt, tokens after it) -> logits `[vocab]`)."""
    import jax

    with jax.default_matmul_precision("highest" if name == "float32" else "default"):
        model, params, losses = trained(dtype_of(name), size)
        tokens = greedy(model, params)

    def logits(one: int, after: list[int]) -> Any:
        import jax.numpy as jnp
        import numpy as np

        from models import transformer

        with jax.default_matmul_precision("highest"):
            sequence = jnp.asarray([[*prompt(one), *after]], jnp.int32)
            return np.asarray(transformer.apply(model, params, sequence), np.float32)[0, -1]

    return losses, tokens, logits


def trained(dtype: str, size: str) -> tuple[Any, Any, list[float]]:
    """(model, parameters after 20 steps, loss of each)."""
    import jax
    import numpy as np

    from models import presets
    from scaling.train.config import TrainConfig, hyperparameters
    from scaling.train.step import init_state, train_step

    preset, batch, seq = (presets.MICRO, 4, 64) if size == "toy" else (presets.TINY, 16, 256)
    if size == "toy":
        preset = dataclasses.replace(preset, n_layers=1)
    model = dataclasses.replace(preset, dtype=dtype).resolved()
    train = TrainConfig(steps=STEPS, batch_size=batch, seq_len=seq, learning_rate=3e-3)
    hyper = hyperparameters(train)
    state = jax.jit(partial(init_state, model, train))(np.uint32(0), hyper)
    step = jax.jit(partial(train_step, model, train, 1e30), donate_argnums=0)
    losses = []
    for number in range(STEPS):
        state, (loss, _) = step(state, {"tokens": lesson(number, batch, seq)}, hyper)
        losses.append(float(loss))
    return model, state.params, losses


def lesson(step: int, batch: int, seq: int) -> Any:
    """Tokens `[batch, seq + 1]` int32 by arithmetic alone, the same with every library: strides through 97 symbols."""
    import numpy as np

    row, at = np.arange(batch)[:, None] + step * batch, np.arange(seq + 1)[None]
    return ((7 * row + (1 + row % 5) * at) % 97 + 32).astype(np.int32)


def prompt(one: int) -> list[int]:
    """The tokens of one prompt, from lessons that training had not."""
    return [int(token) for token in lesson(1000 + one, 1, PROMPT - 1)[0]]


def greedy(model: Any, params: Any) -> list[list[int]]:
    """The 32 most likely tokens after each prompt, by the engine that samples in earnest."""
    from search import Engine, EngineConfig, Request, Sampling

    precision = "bfloat16" if model.dtype == "bfloat16" else "float32"
    config = EngineConfig(slots=PROMPTS, max_len=PROMPT + NEW, page_size=16, prefill_chunk=64, precision=precision)
    engine = Engine(model, params, config)
    asked = [
        Request(one, tuple(prompt(one)), max_tokens=NEW, sampling=Sampling(temperature=0)) for one in range(PROMPTS)
    ]
    done = {completion.problem: list(completion.tokens) for completion in engine.generate(asked)}
    return [done[one] for one in range(PROMPTS)]


def write() -> int:
    """Compute and keep the CPU's values; refuses on anything else."""
    import jax

    if jax.default_backend() != "cpu":
        print(f"error: JAX_PLATFORMS: is {jax.default_backend()}, and truth is the CPU's: set it to cpu")
        return 2
    kept: dict[str, Any] = {}
    for size in ("toy", "full"):
        kept[size] = {}
        for dtype in ("float32",) if size == "toy" else ("float32", "bfloat16"):
            losses, tokens, _ = measure(dtype, size)
            kept[size][dtype] = {"losses": [round(loss, 6) for loss in losses], "tokens": tokens}
    kept["jax"] = jax.__version__
    KEPT.write_text(json.dumps(kept) + "\n")
    return 0
