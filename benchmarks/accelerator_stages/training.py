"""Training steps: 350M and 1.3B in bfloat16 at a few settings each, and many small models in one program.

Our program is the training loop's own (`harness.our_step`): state donated, batches from the host, a chunk of steps per
call. MFU = 3 x causal forward FLOPs, head included, over seconds x the maker's dense bfloat16 peak; what is recomputed
counts for nothing. Settings stand in the order of what is expected to be best: where time ends, the rest is not tried.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from accelerator_stages import common
from accelerator_stages.common import Cases

SEQ = 2048
# (remat, sequences per step, layers in one scanned block): by memory, 24 layers of 350M keep about 1 GB per sequence
# without rematerialisation, those of 1.3B about 2 GB, beside 16 bytes per parameter.
SETTINGS = {
    "train_350m": ("LLAMA_350M", (("dots", 32, True), ("none", 32, True), ("none", 16, False), ("full", 64, True))),
    "train_1b": ("LLAMA_1B", (("dots", 16, True), ("none", 16, True), ("full", 32, True))),
}
TOY_SETTINGS = (("dots", 2, True),)
STACKS = (1, 8, 32, 128)
CHUNK = 4  # steps per call


def cases(stage: str, toy: bool, out: Path) -> Cases:
    """One case for each setting, or for each number of models."""
    if stage == "many":
        sizes = (1, 4) if toy else STACKS
        presets = ("MICRO",) if toy else ("MICRO", "TINY")
        return {f"{p.lower()} x {n}": partial(many, p, n, toy) for p in presets for n in sizes}
    preset, settings = SETTINGS[stage]
    made: Cases = {}
    for remat, batch, scan in TOY_SETTINGS if toy else settings:
        name = f"remat {remat}, {batch} sequences, {'scanned' if scan else 'unrolled'}"
        made[name] = partial(one_model, preset, remat, batch, scan, toy)
    return made


def one_model(preset: str, remat: str, batch: int, scan: bool, toy: bool) -> dict[str, Any]:
    """Tokens per second and MFU of one setting."""
    model = shape(preset, toy)
    model = dataclasses.replace(model, remat=remat, scan_layers=scan)
    return measured(model, batch, 32 if toy else SEQ, 1, "map", chunk=2 if toy else CHUNK)


def shape(preset: str, toy: bool) -> Any:
    """The preset in bfloat16; toy: its style at one layer of width 32."""
    from models import presets

    model = dataclasses.replace(getattr(presets, preset), dtype="bfloat16")
    if not toy:
        return model
    return dataclasses.replace(model, d_model=32, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=64, vocab_size=256)


def many(preset: str, trials: int, toy: bool) -> dict[str, Any]:
    """Tokens per second of `trials` models in one vmapped program; of one, what training them in turn would have."""
    from models import presets

    model = dataclasses.replace(getattr(presets, preset), dtype="bfloat16")
    batch, seq = (4, 64) if preset == "MICRO" else (16, 256)
    if toy:
        model, batch, seq = dataclasses.replace(model, n_layers=1, d_model=16), 2, 16
    return measured(model, batch, seq, trials, "vmap", chunk=2 if toy else 16) | {"trials": trials, "preset": preset}


def measured(model: Any, batch: int, seq: int, trials: int, mode: str, chunk: int) -> dict[str, Any]:
    """The figures of one program: least wall seconds of a few calls, after one that warms up."""
    import harness

    from models import counts

    @dataclasses.dataclass(frozen=True)
    class Given(harness.Case):
        """A case whose model is given rather than named."""

        def model(self) -> Any:
            return model.resolved()

    case = Given("", "", batch, seq, trials, mode, model.dtype, chunk)
    step, compile_s = harness.our_step(case)
    step()
    seconds = [step().wall_s for _ in range(3)]
    flops, limits = counts.train_flops(model, case.tokens, seq), common.limits()
    return {
        "tokens_per_s": round(case.tokens / min(seconds)),
        "mfu": common.share(flops / min(seconds), limits["peak_flops"]),
        "step_s": round(min(seconds), 5), "slowest_step_s": round(max(seconds), 5), "compile_s": round(compile_s, 1),
        "tokens_per_step": case.tokens, "flops_per_step": flops, "params": counts.params(model), "remat": model.remat,
        "batch_mode": mode, "peak_bytes": common.peak_bytes(), **limits,
    }  # fmt: skip
