"""Cross-entropy makes a model too sure of itself for sampling; a loss that counts N samples as one try does not.

    python -m launch.reproduce coverage_overtraining --workdir runs/reproductions/coverage_overtraining

Three minutes on one core. Two layers of width 32 learn products of two-digit numbers: 1,000 problems, 96 times over.
Right answers are unique, so pass@N of a test problem is 1 - (1 - p)^N exactly, and nothing is sampled. At the end one
of 64 samples is right far less often after cross-entropy than at its best, and than after training for N = 64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from models.transformer import shifted
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.sweep.trial import training_flops
from scaling.tasks.arithmetic import Arithmetic
from scaling.tasks.text import CharTokenizer, solved_rows
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.objectives import Coverage
from scaling.train.objectives.objective import read, target_logprobs
from scaling.train.state import TrainState
from scaling.train.step import init_state, train_step

TASK, SEQ, STRIDE, MARKS = Arithmetic(), 10, 150, 10
TOKENS = CharTokenizer.of(TASK)
MODEL = ModelConfig(vocab_size=TOKENS.vocab_size, d_model=32, n_layers=2, n_heads=4).resolved()
SAMPLES = (1, 16, 64, 256)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="coverage_overtraining",
        methods=(26,),
        claim="Overtrained on cross-entropy a model loses pass@64 that training on coverage at N = 64 keeps",
        source="Chen et al. 2025, Rethinking fine-tuning when scaling test-time compute, arXiv:2502.07154",
        smallest_effect=0.02,
        unit="pass@64 on test problems, the lesser of: lost since its best; behind training for N = 64",
        minutes=6,
        not_covered="pretrained models, mathematics in words, proofs step by step; answers of several forms",
        simulated=False,
        run=run,
    )


def config(samples: int) -> TrainConfig:
    return TrainConfig(
        steps=STRIDE * MARKS, batch_size=64, seq_len=SEQ, learning_rate=3e-3, schedule="constant", warmup_steps=20,
        weight_decay=0.0, objective=Coverage(samples=samples),
    )  # fmt: skip


@partial(jax.jit, static_argnums=0)
def stride(samples: int, state: TrainState, key: jax.Array, rows: dict[str, jax.Array]) -> TrainState:
    train = config(samples)

    def step(state: TrainState, key: jax.Array) -> tuple[TrainState, None]:
        chosen = jax.random.randint(key, (train.batch_size,), 0, len(rows["tokens"]))
        batch = jax.tree.map(lambda x: x[chosen], rows)
        return train_step(MODEL, train, jnp.inf, state, batch, hyperparameters(train))[0], None

    return jax.lax.scan(step, state, jax.random.split(key, STRIDE))[0]


@jax.jit
def answer_logprobs(params: dict, rows: dict[str, jax.Array]) -> jax.Array:
    inputs, targets, weights, _ = shifted(rows["tokens"], rows["weights"], None)
    return jnp.sum(target_logprobs(read(MODEL, params, inputs), targets) * weights, 1)


def trained(samples: int, seed: int, marks: int) -> list[list[float]]:
    """pass@N of every N in SAMPLES at every mark, `[marks][N]`."""
    problems = {p.canonical: p for p in TASK.generate(0, 6000)}
    rows = solved_rows(TOKENS, TASK, list(problems.values())[:1000], SEQ)
    test = solved_rows(TOKENS, TASK, TASK.generate(1, 400, "test"), SEQ)
    state = jax.jit(partial(init_state, MODEL, config(samples)))(np.uint32(seed), hyperparameters(config(samples)))
    found = []
    for mark in range(marks):
        state = stride(samples, state, jax.random.fold_in(jax.random.key(seed), mark), rows)
        p = np.exp(np.asarray(answer_logprobs(state.params, test), np.float64))
        found.append([float(np.mean(-np.expm1(n * np.log1p(-np.minimum(p, 1 - 1e-12))))) for n in SAMPLES])
    return found


def run(work: Workspace) -> Measured:
    seeds, marks = (2, 2) if work.quick else (6, MARKS)
    found = {}
    for n in SAMPLES:
        few = range(seeds if n in (1, 64) else seeds // 2)
        work.say(f"training for N = {n}, {len(few)} seeds")
        found[n] = np.array([work.keep(f"n{n}_seed{s}", partial(trained, n, s, marks)) for s in few])
    at = SAMPLES.index(64)
    best = found[1][..., at].mean(0).argmax()
    plain, covered = found[1][..., at], found[64][..., at]
    lost = np.stack([plain[:, best] - plain[:, -1], covered[:, -1] - plain[:, -1]], 1)  # [seeds, 2]

    def effect(rows: np.ndarray) -> float:
        return float(rows.mean(0).min())

    steps = [STRIDE * (i + 1) for i in range(marks)]
    lines = {f"trained for N = {n}": {"x": steps, "y": x[..., at].mean(0).tolist()} for n, x in found.items()}
    details = {
        "curves": [{"x": "steps", "y": "pass@64", "log": "", "lines": lines}],
        "pass at the end, rows trained for 1, 16, 64, 256": [x[:, -1].mean(0).tolist() for x in found.values()],
        "best step of cross-entropy": steps[best],
        "both effects": lost.mean(0).tolist(),
    }
    train = config(1)
    flops = training_flops(MODEL, train, train.tokens_per_step * STRIDE * marks) * sum(map(len, found.values()))
    return Measured(effect(lost), bootstrap_interval(lost, effect), float(flops), details)
