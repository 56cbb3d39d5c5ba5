"""A post-training run as a trial: what it starts from, what it costs, its folder, its row of the results table.

trials/<id>/posttrain.json   the run's config
trials/<id>/config.json      the model as every command reads a trial; its checkpoints/ hold the parameters at the end
trials/<id>/metrics.jsonl    rewards, gap of the sampler, FLOPs and measurements by update
trials/<id>/state/           checkpoints while it runs
trials/<id>/rollouts.log     what the process says that draws ahead, where there is one
trials/<id>/handover/        what two processes hand each other while it runs, where one of them draws ahead
trials/<id>/model/           the same of a Hugging Face policy, in its own form, in place of config.json and checkpoints
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from models import counts
from models.config import ModelConfig
from models.errors import ConfigError, require
from models.serialize import from_json, to_json
from scaling import kept
from scaling.kept import write_atomically
from scaling.sweep.results import Results
from scaling.sweep.trial import Trial
from scaling.tasks import Problem
from scaling.train.checkpoint import Checkpoints
from scaling.train.metrics import read_rows
from scaling.train.objectives.frozen import frozen_configs, load_frozen
from search.ledger import Prices
from search.metrics.curves import powers_of_two
from search.policy import FIELD, Policy, load_policy
from search.posttrain.config import PostTrainConfig, posttrained, temperature_of
from search.posttrain.handover import Ahead, Handover, draw_ahead
from search.posttrain.loop import PostTraining
from search.posttrain.measure import Measure
from search.posttrain.rollouts import Rollouts

Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Price:
    """FLOPs of a run before it starts. rollout and measure are bounds: every completion as long as its row,
    and read again after as many replies as are allowed where an environment answers, or for an answer behind every
    token where progress is asked for."""

    pretrain: float
    rollout: float
    reference: float
    update: float
    measure: float


def pretraining_flops(directory: str | Path, model: ModelConfig, pretrain_tokens: int | None = None) -> float:
    """FLOPs of all training that made a policy, of what it was started from too.

    pretrain_tokens: what a Hugging Face folder's model had read. ConfigError where that is needed and None.
    """
    path = Path(directory)
    if (run := posttrained(path)) is not None:
        row = Results(run.parent.parent).get(run.name)
        require(row is not None, str(run), "has not finished", "finish its run first")
        assert row is not None
        return float(row["flops"]) + float(row["pretrain_flops"])
    written = kept.read(path / "config.json", dict)
    if "model_type" in written or "architectures" in written:
        fix = "give the tokens that the model was pre-trained on, or 0 to leave its pre-training out"
        require(pretrain_tokens is not None, "pretrain_tokens", f"is not set, and {directory} does not say", fix)
        assert pretrain_tokens is not None
        context = model.max_seq_len
        return float(counts.train_flops(model, context, context)) / context * pretrain_tokens
    trial = from_json(Trial, written)
    before = pretraining_flops(trial.init_from, model) if trial.init_from is not None else 0.0
    return float(trial.flops) + before


def starting_policy(directory: str) -> Policy:
    """The policy of `train.init_from`, which errors name."""
    try:
        return load_policy(directory)
    except ConfigError as error:
        field = "train.init_from" if error.field == FIELD else error.field
        raise ConfigError(field, error.problem, error.fix) from None


class PostTrial:
    """One run of a config in the run directory `directory`. Making it reads the policy and checks all that a run
    would check, so that what cannot run ends here: ConfigError."""

    def __init__(self, config: PostTrainConfig, directory: Path):
        config.check()
        self.config, self.path = config, Path(directory) / "trials" / config.id
        self.results, self.task = Results(directory), config.tasked
        self.source = str(config.train.init_from)
        self.policy = starting_policy(self.source)
        self.model = self.policy.model.resolved()
        self.reads = {name: path or self.source for name, path in config.train.objective.reads.items()}
        self.problems = self.task.generate(config.rollouts.seed, config.rollouts.problems)
        self.pretrain_flops = pretraining_flops(self.source, self.model, config.pretrain_tokens)
        frozen_configs(config.train.objective, self.model, self.reads)
        config.train.trains.weights(self.model)
        self._check_lengths()

    def _check_lengths(self) -> None:
        measured = self.task.generate(self.config.measure.seed, self.config.measure.problems, "test")
        longest = max(len(self.policy.tokenizer.encode(p.prompt)) for p in (*self.problems, *measured))
        if (how := self.config.rollouts.progress) is not None:
            for name in ("mark", "delimiter"):
                try:
                    self.policy.continuation(getattr(how, name))
                except ConfigError as error:
                    place = f"rollouts.progress.{name}"
                    raise ConfigError(place, error.problem, "give one of the task's, in its characters") from None
        seq = self.config.train.seq_len
        problem = f"{seq} leaves a prompt of {longest} tokens no room for an answer"
        require(longest < seq + 1, "train.seq_len", problem, f"give more than {longest}")
        room = self.model.max_seq_len
        fits = self.model.positions != "learned" or seq <= room
        require(fits, "train.seq_len", f"{seq} tokens do not fit the {room} learned positions", f"give at most {room}")

    @property
    def row(self) -> dict[str, Any] | None:
        """The run's row where it has ended."""
        return self.results.get(self.config.id)

    def price(self) -> Price:
        """What the run costs at most."""
        train, measured = self.config.train, self.config.measure
        read = frozen_configs(train.objective, self.model, self.reads)
        own = train.flops(self.model, train.tokens, {})
        prices, seq = Prices(self.model, train.seq_len + 1), train.seq_len
        length = max(len(self.policy.tokenizer.encode(p.prompt)) for p in self.problems)

        drawn = self.config.rollouts
        again = drawn.most_calls * prices.prefill(0, seq, 1) if self.task.environment().calls else 0

        forced = 0.0
        if (how := drawn.progress) is not None:
            mark = len(self.policy.continuation(how.mark))
            longer = Prices(self.model, train.seq_len + 1 + mark + how.tokens)
            each = longer.prefill(0, seq + mark, 1) + how.samples * longer.decode(seq + mark + 1, how.tokens)
            forced = float(train.objective.sequences * (seq - length + 1) * each)

        def drawing(samples: int) -> float:
            each = prices.decode(length + 1, max(1, seq - length)) + again
            return float(prices.prefill(0, length, 1) + samples * each)

        rollouts = -(-train.steps // drawn.updates) * train.batch_size
        samples = train.objective.sequences * (drawn.filter.oversample if drawn.filter else 1)
        times = 2 + ((train.steps - 1) // measured.every if measured.every else 0)
        return Price(
            self.pretrain_flops, rollouts * (drawing(samples) + forced),
            float(train.flops(self.model, train.tokens, read) - own), float(own),
            times * measured.problems * drawing(measured.samples),
        )  # fmt: skip

    def reward(self, problem: Problem, text: str) -> float:
        """1 where the task's verifier says that the text is right."""
        return float(self.task.verify(problem, text))

    def rollouts(self) -> Rollouts:
        """What the run draws with."""
        train, ends = self.config.train, self.policy.continuation(self.task.end)
        stops = ends if len(ends) == 1 else ()
        return Rollouts(
            self.model, self.policy.params, self.policy.tokenizer, self.problems, self.reward, prompts=train.batch_size,
            group=train.objective.sequences, seq_len=train.seq_len, seed=train.seed,
            ends=tuple(dict.fromkeys((*self.policy.ends, *stops))),
            most_unscorable=self.config.rollouts.most_unscorable, environment=self.task.environment(),
            most_calls=self.config.rollouts.most_calls, filter=self.config.rollouts.filter,
            shaping=self.config.rollouts.shaping, progress=self.config.rollouts.progress,
            temperature=temperature_of(train.objective),
        )  # fmt: skip

    def handover(self) -> Handover:
        """What the run's two processes hand each other, where `rollouts.staleness` is given."""
        staleness = self.config.rollouts.staleness
        require(staleness is not None, "rollouts.staleness", "is none: the trainer draws itself", "give 0 or more")
        assert staleness is not None
        return Handover(self.path / "handover", staleness, f"{self.config.id} {self.policy.digest}")

    def begin(self) -> None:
        """Write down which run this is."""
        kept.create(self.path / "posttrain.json", json.dumps(to_json(self.config), indent=1))

    def draw(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Draw the rollouts that the process asks for which trains this run, until the last or until stopped."""
        updates, steps = self.config.rollouts.updates, self.config.train.steps
        draw_ahead(self.rollouts(), self.handover(), self.policy.params, updates, steps, stop)

    def training(
        self, rollouts: Rollouts | None = None, stop: Callable[[], bool] = lambda: False,
        alive: Callable[[], bool] = lambda: True,
    ) -> PostTraining:  # fmt: skip
        """The loop of the run; rollouts: with an engine that is there already. alive: whether the process that draws
        still does, where it is not this one."""
        config, drawn, states = self.config, rollouts or self.rollouts(), self.path / "state"
        frozen, _ = load_frozen(config.train.objective, self.model, self.reads)
        source: Rollouts | Ahead = drawn
        if config.rollouts.staleness is not None:
            every, updates = config.train.checkpoint_every, config.rollouts.updates
            source = Ahead(drawn, self.handover(), updates, every, states, alive, stop)
        return PostTraining(
            self.model, config.train, self.policy.params, source, self.path, config.rollouts,
            states=states, frozen=frozen, measure=Measure(drawn, self.task, config.measure),
            measure_every=config.measure.every, stop=stop, origin=self.policy.digest,
        )  # fmt: skip

    def run(self, training: PostTraining, report: Report = lambda step, row: None) -> dict[str, Any]:
        """Train, keep the policy, and add the row, which is returned; a run that has ended is left as it is."""
        if (row := self.row) is not None:
            return row
        self.begin()
        began = time.perf_counter()
        params = training.whole(training.run(report).params)
        self._keep(params)
        row = self._row(training, time.perf_counter() - began)
        self.results.add(row)
        for done in ("state", "handover"):
            shutil.rmtree(self.path / done, ignore_errors=True)
        return row

    def _keep(self, params: Any) -> None:
        """The policy at the end, in the form of the one it was started from."""
        if self.policy.context is not None:
            from models.huggingface import export_model

            savable: Any = self.policy.tokenizer if hasattr(self.policy.tokenizer, "save") else None
            shutil.rmtree(self.path / "model", ignore_errors=True)
            export_model(self.path / "model", self.model, params, savable)
            return
        before = from_json(Trial, kept.read(Path(self.source) / "config.json", dict))
        trial = to_json(dataclasses.replace(before, train=self.config.train, threads=self.config.threads))
        write_atomically(self.path / "config.json", json.dumps(trial, indent=1))
        with Checkpoints(self.path / "checkpoints", keep=1) as checkpoints:
            checkpoints.save(self.config.train.steps, {"params": params}, {"config": trial})

    def _row(self, training: PostTraining, wall_s: float) -> dict[str, Any]:
        rows, spent = [row for _, row in read_rows(self.path / "metrics.jsonl")], training.spent
        first, last, most = rows[0], rows[-1], int(powers_of_two(self.config.measure.samples)[-1])
        gaps = [row["sampler_gap"] for row in rows if "sampler_gap" in row]
        return {
            "trial": self.config.id, "sweep": self.config.name, "status": "done", "seed": self.config.train.seed,
            "params": counts.params(self.model), "params_nonembed": counts.params_nonembed(self.model),
            "params_active": counts.params_active(self.model), "tokens": self.config.train.tokens, "loss": None,
            "flops": spent.training, "wall_s": round(wall_s, 3), "device": jax.devices()[0].device_kind, "devices": 1,
            "config": json.dumps(to_json(self.config), sort_keys=True), "policy": self.source, "task": self.config.task,
            "pretrain_flops": self.pretrain_flops, "rollout_flops": spent.rollout, "reference_flops": spent.reference,
            "update_flops": spent.update, "total_flops": self.pretrain_flops + spent.training,
            "measure_flops": spent.measure, "accuracy_before": first["vote@1"], "accuracy": last["vote@1"],
            "accuracy_low": last["vote@1_low"], "accuracy_high": last["vote@1_high"],
            "coverage_before": first[f"pass@{most}"], "coverage": last[f"pass@{most}"], "coverage_samples": most,
            "inference_flops": last["inference@1"], "sampler_gap": max(gaps) if gaps else None,
            "unscorable": max(1 - row.get("scorable", 1.0) for row in rows),
        }  # fmt: skip
