"""Trial: one fully resolved run. Its id is a hash of the config, so names carry no meaning."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from models.config import ModelConfig
from models.errors import require
from models.serialize import digest, field_types, join, located, unknown_field
from models.sharding import AXES, MeshConfig
from scaling.data import DataConfig
from scaling.data.config import under
from scaling.train.config import TrainConfig
from scaling.train.objectives.frozen import frozen_configs
from scaling.train.placement import check_mesh
from scaling.typed import at_most, typed

Config = TypeVar("Config")

# Where a run keeps its books and how often, and how it is divided over devices (which changes its numbers by rounding
# alone): two runs that differ only here are the same trial, and one goes on from the other's checkpoint.
PLACEMENT = (
    *(f"mesh.{axis}" for axis in AXES),
    *(f"train.{field}" for field in ("zero", "offload", "pipeline", "microbatches", "rounds")),
)
BOOKKEEPING = (
    *(f"data.{field}" for field in ("cache_dir", "root")),
    *(f"train.{field}" for field in ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints")),
    *PLACEMENT,
)
REPLACED = {"data.seed": "train.seed"}  # fields of a config for other uses -> what a run reads instead


@dataclass(frozen=True)
class Trial:
    """One run: model, data, training, mesh, and the CPU threads that its bits depend on."""

    model: ModelConfig = field(default_factory=ModelConfig)  # the shape
    data: DataConfig = field(default_factory=DataConfig)  # the text
    train: TrainConfig = field(default_factory=TrainConfig)  # steps, rates, checkpoints
    mesh: MeshConfig = field(default_factory=MeshConfig)  # devices
    threads: int = 1  # CPU threads

    def __post_init__(self) -> None:
        typed(self)
        at_most(self, "", threads=4096)
        require(self.threads >= 1, "threads", f"is {self.threads}", "give the CPU threads per worker, at least 1")
        if self.mesh.stage > 1 and not self.model.scan_layers:  # stages hold stacked layers
            object.__setattr__(self, "model", dataclasses.replace(self.model, scan_layers=True))
        m, t = self.model, self.train
        require(
            m.positions != "learned" or t.seq_len <= m.max_seq_len,
            "train.seq_len",
            f"{t.seq_len} tokens do not fit the {m.max_seq_len} learned positions",
            "lower train.seq_len or raise model.max_seq_len",
        )
        check_mesh(m, t, self.mesh.sizes)

    def resolved(self) -> Trial:
        """The same trial with every derived field filled in."""
        return dataclasses.replace(self, model=self.model.resolved())

    @functools.cached_property
    def id(self) -> str:
        """12 hex digits of the sha256 of the resolved config, bookkeeping fields aside."""
        defaults = {path: default_of(type(self), path) for path in BOOKKEEPING}
        return digest(override(self.resolved(), defaults))[:12]

    def set_by(self, field: str) -> str | None:
        """The field that a run reads in place of this one, which says nothing then; None: it reads this one."""
        return REPLACED.get(field)

    @property
    def init_from(self) -> str | None:
        """`train.init_from` as the working directory sees it: a relative path starts from `data.root`."""
        return self._placed(self.train.init_from)

    @property
    def frozen(self) -> dict[str, str | None]:
        """Where the models lie that `train.objective` reads, as the working directory sees it."""
        reads = self.train.objective.reads.items()
        return {name: self.init_from if path is None else self._placed(path) for name, path in reads}

    @property
    def suites(self) -> dict[str, str]:
        """What `train.evaluations` names -> the same, files as the working directory sees them."""
        names = self.train.evaluations.suites
        return {name: str(self._placed(name)) if name.endswith(".jsonl") else name for name in names}

    def _placed(self, path: str | None) -> str | None:
        root = self.data.root
        return path if root is None or Path(root) == Path.cwd() else under(Path(root), path)

    @property
    def flops(self) -> float:
        """Exact training FLOPs (causal attention, head included) of the whole run, what frozen models do included."""
        return training_flops(self.model, self.train, self.train.tokens, self.frozen)


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of a nested frozen dataclass with dotted fields replaced: `override(trial, {"train.steps": 10})`.

    All fields of one group change at once, so that rules across fields see the final values only.
    """
    return _override(config, changes, "")


def _override(config: Any, changes: Mapping[str, Any], path: str) -> Any:
    fix = "choose a config that sets it" if config is None else f"set {path} itself"
    require(dataclasses.is_dataclass(config), path, f"is {config!r}, not a group of fields", fix)
    values: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for dotted, value in changes.items():
        name, _, rest = dotted.partition(".")
        if name not in field_types(type(config)):
            raise unknown_field(type(config), path, name)
        if rest:
            groups.setdefault(name, {})[rest] = value
        else:
            values[name] = value
    for name, inner in groups.items():
        values[name] = _override(values.get(name, getattr(config, name)), inner, join(path, name))
    with located(type(config), path):
        return dataclasses.replace(config, **values)


def default_of(cls: type, path: str) -> Any:
    """The default of a dotted field of a dataclass."""
    *groups, name = path.split(".")
    for group in groups:
        cls = field_types(cls)[group]
    found = next(f for f in dataclasses.fields(cls) if f.name == name)
    return found.default if found.default_factory is dataclasses.MISSING else found.default_factory()


def training_flops(
    model: ModelConfig, train: TrainConfig, tokens: int, frozen: Mapping[str, str | None] | None = None
) -> int:
    """Exact FLOPs of `tokens` tokens of training as `train` says; frozen: where the models lie that it reads."""
    read = frozen_configs(train.objective, model, frozen)
    return train.flops(model, tokens, read)


def steps_for(budget: float, model: ModelConfig, train: TrainConfig) -> int:
    """Steps whose exact FLOPs are closest to `budget`."""
    per_step = training_flops(model, train, train.tokens_per_step)
    return max(1, math.floor(budget / per_step + 0.5))
