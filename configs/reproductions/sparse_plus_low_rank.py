"""A low rank plus a few single entries trains from scratch to a lower loss than a low rank of as many weights.

    python -m launch.reproduce sparse_plus_low_rank --workdir runs/reproductions/sparse_plus_low_rank

Three minutes on one core. Every hidden matrix of a two-layer model is A B of rank 4, or A B of rank 3 and the entries
that the fourth would have cost, at places drawn once. Embeddings and norms train in all arms, whose seeds are paired;
each has the better of two learning rates, chosen on the first seed and judged on the others.
"""

from models.config import ModelConfig
from models.weight import walk
from scaling.data import DataConfig
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig, Value
from scaling.train.adaptation import AnyAdaptation, Everything, SparseLowRank
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=32, n_layers=2, n_heads=4)
RATES = (3e-3, 1e-2)
ARMS: dict[str, AnyAdaptation] = {
    "full rank": Everything(),
    "rank 4": SparseLowRank(rank=4, density=0.0),
    "rank 3 and 4.15 % of entries": SparseLowRank(rank=3, density=0.0415),
}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="sparse_plus_low_rank",
        methods=(208,),
        claim="From scratch, low rank plus sparse reaches a lower loss than low rank with as many weights",
        source="Han et al. 2024, SLTrain, arXiv:2406.02214",
        smallest_effect=0.005,
        unit="nats per byte: low rank minus low rank plus sparse",
        minutes=6,
        not_covered="models above 0.03M weights, 8-bit optimisers, the memory of an implementation that stays sparse",
        simulated=False,
        run=run,
        sweeps=lambda quick: [sweep(name, quick) for name in ARMS],
    )


def sweep(name: str, quick: bool) -> SweepConfig:
    train = TrainConfig(
        steps=20 if quick else 300, batch_size=16, seq_len=64, log_every=100, weight_decay=0.0,
        trains=ARMS[name], checkpoint_every=0,
    )  # fmt: skip
    points: tuple[dict[str, Value], ...] = tuple({"train.learning_rate": rate} for rate in RATES)
    return SweepConfig(model=MODEL, data=DataConfig(), train=train, points=points, seeds=4, workers=1)


def run(work: Workspace) -> Measured:
    tables = {name: work.sweep(sweep(name, work.quick), f"arm{i}") for i, name in enumerate(ARMS)}
    loss, rates = {}, {}
    for name, table in tables.items():
        by = table.pivot(index="seed", columns="learning_rate", values="loss")
        rates[name] = float(by.iloc[0].idxmin())
        loss[name] = by[rates[name]].to_numpy()[1:]
    low, both = loss["rank 4"], loss["rank 3 and 4.15 % of entries"]
    model = MODEL.resolved()
    weights = {name: sum(w.size for _, w in walk(way.weights(model))) for name, way in ARMS.items()}
    details = {
        "loss": {name: values.tolist() for name, values in loss.items()},
        "learning rates": rates,
        "trained weights": weights,
        "bytes of weights and moments": {name: 12 * n for name, n in weights.items()},
        "behind full rank": float((both - loss["full rank"]).mean()),
    }
    flops = sum(float(table["flops"].sum()) for table in tables.values())
    return Measured(float((low - both).mean()), t_interval(low - both), flops, details)
