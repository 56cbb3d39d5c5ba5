"""What an architecture is worth: the compute that a dense transformer needs for the same loss, with an interval.

    python -m launch.reproduce architecture_multipliers --workdir runs/reproductions/architecture_multipliers

Ten architectures on one text, one isoFLOP sweep each by exact FLOPs, and one law over all minima
(scaling/fitting/multiplier.py). Runs of 8 times the largest budget are foretold for two of them before they are
trained. At the loss of the dense models with the largest budget each is priced on a named device as well, from counts
(scaling/fitting/equal_loss.py). A pod needs other budgets, widths and a mesh.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd

from models import counts
from models.channels import Dense, Experts
from models.config import Layer, ModelConfig
from models.mixers import Attention, Delta, Latent, Linear, Mamba2
from models.presets import ladder
from models.sharding import MeshConfig
from models.wiring import Ladder, Parallel
from scaling.fitting.equal_loss import Setting, at_equal_loss
from scaling.fitting.multiplier import Multipliers, compute_multipliers
from scaling.reproduction import Measured, Reproduction, Workspace
from scaling.sweep.config import Prediction, SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.heldout import registered
from scaling.sweep.isoflop import Isoflop
from scaling.train.config import TrainConfig

BASE = ladder(24, n_layers=4)
LATENT = Latent(rank=16, key_dim=8, rotary_dim=8, value_dim=16)
STATE, DELTA = Mamba2(head_dim=8, state=16, block=32), Delta(key_heads=2, value_heads=2, key_dim=12, block=32)
PATTERNS: dict[str, tuple[Layer, ...]] = {
    "windows": (*[Layer(Attention(window=16))] * 3, Layer()),
    "latent": (Layer(LATENT),),
    "experts": (Layer(), Layer(channel=Experts(8, 2, dispatch="dropless", score="sigmoid", bias_rate=1e-3))),
    "linear": (Layer(Linear(features=8, block=32)), Layer(Attention(window=16))),
    "mamba2": (Layer(STATE, Dense()),),
    "hybrid": (*[Layer(STATE, Dense())] * 3, Layer()),
    "delta": (*[Layer(DELTA)] * 3, Layer()),
}
MODELS: dict[str, ModelConfig] = {
    "dense": BASE,
    "parallel": dataclasses.replace(BASE, wiring=Parallel()),
    "ladder": dataclasses.replace(BASE, wiring=Ladder()),
} | {name: dataclasses.replace(BASE, pattern=pattern) for name, pattern in PATTERNS.items()}
FORETOLD = ("dense", "delta")
WIDTHS = (8, 12, 16, 20, 24, 32, 40, 48)
BUDGETS = (3e10, 6e10, 1.2e11, 2.4e11)  # FLOPs of a run, which its tokens follow from
MESH = MeshConfig()
LOSS = "loss at the best size (nats/token)"
PRICED = Setting(device="h100", rows=64, contexts=(128, 512, 4096))
RUNGS = (4, 8, 12, 16, 24, 32, 48, 64)  # widths whose counts are exact; between them costs are interpolated
LADDERS = {name: [dataclasses.replace(model, d_model=d) for d in RUNGS] for name, model in MODELS.items()}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="architecture_multipliers", methods=(),
        claim="a model with layers of eight experts, two for each token, needs less compute than a dense one",
        source="Clark et al. 2022, arXiv:2202.01169; Fedus et al. 2022, arXiv:2101.03961", smallest_effect=0.05,
        unit="compute saved, as a share of the expert model's", minutes=40, simulated=False, run=run, sweeps=planned,
        not_covered="learning rates tuned for each architecture (one rule serves all); context beyond 128 tokens; more "
        "than 500,000 parameters; seeds. Widths 8 and 12 came in after six wider ones had put minima on the edge",
    )  # fmt: skip


def planned(quick: bool) -> Sequence[SweepConfig]:
    plan = Isoflop((1e9, 2e9, 4e9) if quick else BUDGETS, (16, 24, 32, 40) if quick else WIDTHS, min_ratio=0.01,
                   max_ratio=2000, tolerance=0.2, min_steps=2, learning_rate_exponent=0.9)  # fmt: skip
    train = TrainConfig(
        batch_size=8, seq_len=128, learning_rate=0.016, final_learning_rate=0.0, eval_sequences=64 if quick else 1024,
        log_every=100, checkpoint_every=1000,
    )  # fmt: skip
    foretold = Prediction(factor=8.0, widths=(32, 40, 48, 56, 64, 80))
    return [
        SweepConfig(name=name, model=model, train=train, mesh=MESH, isoflop=plan,
                    prediction=foretold if name in FORETOLD and not quick else None)
        for name, model in MODELS.items()
    ]  # fmt: skip


def run(work: Workspace) -> Measured:
    tables = [work.sweep(config, config.name).assign(architecture=config.name) for config in planned(work.quick)]
    runs = pd.concat(tables)
    runs = runs[runs["status"] == "done"]
    fitted = runs[runs["role"] != "held out"] if "role" in runs else runs
    found = compute_multipliers(fitted, baseline="dense")
    work.say(found.summary())
    low, high = (float(found.table.loc["experts", end]) - 1 for end in ("low", "high"))
    effect = float(found.table.multiplier["experts"]) - 1
    shown = details(found)
    if not work.quick:  # three tiny budgets say too little of the best sizes to price them
        shown |= priced(found)
    sweeps = [RunDirectory(work.folder / "sweeps" / name) for name in FORETOLD]
    told = tuple(one for sweep in sweeps for one in registered(sweep))
    return Measured(effect, (low, high), float(runs["flops"].sum()), shown, told)


def details(found: Multipliers, context: int = 4096) -> dict:
    """The table with bytes that each model of the base width keeps of a row of `context` tokens, and the curves."""
    kept = {n: counts.kv_cache_bytes_per_token(m) * context + counts.state_bytes_per_row(m) for n, m in MODELS.items()}
    table = found.table.assign(kept_bytes=pd.Series(kept)).drop(columns="budgets")
    lines = {name: {"x": [*some["flops"]], "y": [*some["loss"]]} for name, some in minima(found)}
    panel = {"x": "compute C (FLOPs)", "y": LOSS, "log": "x", "lines": lines}
    rows = {name: {k: float(f"{v:.5g}") for k, v in row.items()} for name, row in table.to_dict("index").items()}
    return {"multipliers": rows, "floor": found.floor, "summary": found.summary(), "curves": [panel]}


def priced(found: Multipliers) -> dict:
    """Costs at equal loss, and the curves with loss over estimated seconds and bytes of a token over its context."""
    equal = at_equal_loss(found, LADDERS, planned(quick=False)[0].train, PRICED)
    seconds = {
        name: {"x": [*equal.training_seconds(name, some["params"].to_numpy(), some["flops"].to_numpy())],
               "y": [*some["loss"]]}
        for name, some in minima(found)
    }  # fmt: skip
    contexts = [float(n) for n in PRICED.contexts]
    read = {name: {"x": contexts, "y": [float(equal.costs[f"bytes_{n}"][0, i]) for n in PRICED.contexts]}
            for i, name in enumerate(equal.names)}  # fmt: skip
    curves = [
        *details(found)["curves"],
        {"x": f"seconds on one {PRICED.device}, estimated", "y": LOSS, "log": "x", "lines": seconds},
        {"x": f"context (tokens), {PRICED.rows} rows at once", "y": f"bytes of a token at loss {equal.loss:.3g}",
         "log": "xy", "lines": read},
    ]  # fmt: skip
    title = f"Costs at a loss of {equal.loss:.4g}, in those of dense models (first row), estimated from counts"
    tables = [{"title": title, "rows": equal.lines()}]
    return {"tables": tables, "equal_loss": equal.to_json(), "curves": curves}


def minima(found: Multipliers) -> Iterable[tuple[str, pd.DataFrame]]:
    return found.minima[found.minima["used"]].groupby("group", sort=False)
