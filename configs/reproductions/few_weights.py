"""Fine-tuning a few weights closes most of the gap that fine-tuning all of them closes.

    python -m launch.reproduce few_weights --workdir runs/reproductions/few_weights

Three minutes on one core. A two-layer model learns text, then a calculator's sums with its biases, gains, adapters, low
ranks, or all of its weights, each at the better of two learning rates (chosen on the first seed, judged on others).
"""

from models.config import ModelConfig
from models.weight import walk
from scaling.data import DataConfig
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig, Value
from scaling.train.adaptation import AnyAdaptation, Bottleneck, Everything, Gains, LowRank, Only
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=48, n_layers=2, n_heads=4, bias="all", norm="layernorm", activation="gelu")
TUNED = DataConfig(source="task", path="arithmetic:operation=add,digits=2,other_digits=2,examples=20000")
WAYS: dict[str, AnyAdaptation] = {
    "everything": Everything(),
    "low rank 4": LowRank(rank=4, alpha=8.0),
    "adapters 8": Bottleneck(width=8),
    "gains": Gains(),
    "biases": Only(),
}
RATES = (3e-3, 1.5e-2)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="few_weights",
        methods=(249,),
        claim="A low rank of less than a fifth of the weights closes most of the gap that full fine-tuning closes",
        source="Hu et al. 2021, arXiv:2106.09685; survey by Han et al. 2024, arXiv:2403.14608",
        smallest_effect=0.7,
        unit="share of full fine-tuning's fall of the loss",
        minutes=8,
        not_covered="prefixes; models above 0.1M weights; several tasks; instruction data",
        simulated=False,
        run=run,
        sweeps=lambda quick: [base(quick)],
    )


def base(quick: bool) -> SweepConfig:
    train = TrainConfig(
        steps=20 if quick else 300, batch_size=8, seq_len=64, learning_rate=5e-3, log_every=100, checkpoint_every=0
    )
    return SweepConfig(model=MODEL, data=DataConfig(), train=train, workers=1)


def tuned(name: str, start: str, quick: bool) -> SweepConfig:
    train = TrainConfig(
        steps=20 if quick else 120, batch_size=8, seq_len=32, schedule="cosine", trains=WAYS[name], init_from=start,
        log_every=40, checkpoint_every=0, weight_decay=0.0,
    )  # fmt: skip
    points: tuple[dict[str, Value], ...] = tuple({"train.learning_rate": rate} for rate in RATES)
    return SweepConfig(model=MODEL, data=TUNED, train=train, points=points, seeds=2 if quick else 4, workers=1)


def run(work: Workspace) -> Measured:
    first = work.sweep(base(work.quick), "base").iloc[0]
    start = str(work.folder / "sweeps" / "base" / "trials" / first["trial"])
    tables = {name: work.sweep(tuned(name, start, work.quick), f"way{i}") for i, name in enumerate(WAYS)}
    flops, loss, rates = float(first["flops"]), {}, {}
    for name, table in tables.items():
        flops += float(table["flops"].sum())
        by = table[table["status"] == "done"].pivot(index="seed", columns="learning_rate", values="loss")
        rates[name] = float(by.iloc[0].idxmin())
        loss[name] = by[rates[name]].to_numpy()[1:]
    untuned = work.keep("untuned", lambda: before(start))
    share = {name: (untuned - x) / (untuned - loss["everything"]) for name, x in loss.items()}
    whole = sum(w.size for _, w in walk(Everything().weights(MODEL.resolved())))
    details = {
        "loss before": untuned,
        "rows": [
            {"way": name, "trained": sum(w.size for _, w in walk(way.weights(MODEL.resolved()))) / whole,
             "loss": loss[name].tolist(), "share": share[name].mean(), "rate": rates[name]}
            for name, way in WAYS.items()
        ],
    }  # fmt: skip
    low = share["low rank 4"]
    interval = t_interval(low) if len(low) > 1 else (float(low[0]), float(low[0]))
    return Measured(float(low.mean()), interval, flops, details)


def before(start: str) -> float:
    """The loss of the model that is tuned, on the text that it is tuned to."""
    from scaling.data import prepare
    from scaling.train.evaluate import score
    from scaling.train.initial import load_initial

    heldout = prepare(TUNED).heldout_batches(32, 8, limit_tokens=256 * 32)
    return score(MODEL.resolved(), load_initial(start, MODEL)[0], heldout).loss
