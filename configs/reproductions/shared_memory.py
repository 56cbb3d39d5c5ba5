"""SambaY: half of the later layers gate one memory instead of reading one cache, at no loss, in pairs of seeds.

    python -m launch.reproduce shared_memory --workdir runs/reproductions/shared_memory

Both models begin with the same six layers: Mamba-2 and windows in turn, a Mamba-2, and the full attention that keeps
the only keys of all tokens. The last two are a memory unit and a cross-attention, or two cross-attentions and
feed-forward blocks that are wider by what the memory unit weighs more.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import Attention, Cross, GatedMemory, Mamba2
from models.wiring import Shared
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

WIDTHS, SEEDS, MARGIN, CONTEXT = (16, 32), 6, 1.0, 4096
MAMBA = Mamba2(head_dim=8, state=16, block=32)
FIRST = (Layer(MAMBA), Layer(Attention(window=16)), Layer(MAMBA), Layer(Attention(window=16)), Layer(MAMBA), Layer())


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="shared_memory", methods=(102,), smallest_effect=0.0, minutes=8,
        claim="with a memory unit in place of every second cross-attention the loss is at most 1 % above YOCO's of no "
        "fewer parameters at both sizes, and a decoded token reads a third less of the cache",
        source="Ren et al. 2025, Decoder-hybrid-decoder architecture for efficient reasoning with long generation, "
        "arXiv:2507.06607", unit="percentage points of loss below the 1 % that it may cost, at the worse size",
        not_covered="more than 8 layers of width 32, one memory unit and 250 steps; retrieval from long contexts; the "
        "time that fewer reads save; differential attention", simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def models_of(width: int) -> dict[str, ModelConfig]:
    """The two of a size; the one with fewer weights beside its feed-forward blocks has wider ones."""
    units = ModelConfig(
        d_model=width, n_layers=8, n_heads=4, positions="none", wiring=Shared(),
        pattern=(*FIRST, Layer(GatedMemory()), Layer(Cross())),
    )  # fmt: skip
    crosses = dataclasses.replace(units, pattern=(*FIRST, Layer(Cross()), Layer(Cross())))
    surplus = counts.params(units) - counts.params(crosses)
    crosses = dataclasses.replace(crosses, d_ff=units.stream.d_ff + surplus // (3 * width * crosses.n_layers) + 1)
    return {f"units_{width}": units, f"crosses_{width}": crosses}


def base(quick: bool) -> SweepConfig:
    train = TrainConfig(steps=20 if quick else 250, batch_size=8, seq_len=64, learning_rate=3e-3)
    return SweepConfig(train=train, seeds=2 if quick else SEEDS, workers=1)


def planned(quick: bool) -> Sequence[SweepConfig]:
    return [one for width in WIDTHS for one in arms.sweeps(base(quick), models_of(width))]


def cache_reads(models: Mapping[str, ModelConfig]) -> dict[str, int]:
    """Bytes that a token reads of keys and values after CONTEXT others: without states, which are alike."""
    return {n: counts.decode_read_bytes(m, CONTEXT) - counts.state_bytes_per_row(m) for n, m in models.items()}


def run(work: Workspace) -> Measured:
    margins, flops, details = [], 0.0, {}
    for width in WIDTHS:
        models = models_of(width)
        found = arms.train(work, base(work.quick), models)
        excess = found.excess(f"units_{width}", f"crosses_{width}")
        margins.append(MARGIN - excess)
        flops += found.flops
        weights = {name: counts.params(model) for name, model in models.items()}
        details[f"width {width}"] = found.details() | {
            "excess, %": excess.tolist(), "params": weights, "bytes of keys and values read": cache_reads(models),
        }  # fmt: skip
    effect, interval = least(margins)
    return Measured(effect, interval, flops, details)
