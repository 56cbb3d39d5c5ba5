"""What is counted and foretold without running anything: FLOPs, bytes, memory, step times, and the configs' names."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from models import counts, presets, transformer
from models.config import ModelConfig
from models.devices import DEVICES
from models.errors import ConfigError
from models.serialize import canonical, digest
from models.sharding import MeshConfig
from models.weight import walk
from scaling.sweep.config import SweepConfig
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig
from scaling.train.memory import estimate_memory
from scaling.train.placement import check_mesh
from scaling.train.step_time import estimate_step
from tests.golden import record
from tests.golden.training import MODELS, RARER

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TRAIN, SHORT = TrainConfig(batch_size=64, seq_len=1024), TrainConfig(seq_len=16)
# Mesh, changes of the training, changes of the model, platform.
SETTINGS: dict[str, tuple[MeshConfig, dict[str, Any], dict[str, Any], str]] = {
    "one_cpu": (MeshConfig(), {"batch_size": 8}, {}, "cpu"),
    "fsdp": (MeshConfig(data=2, fsdp=8), {}, {"remat": "full"}, "tpu"),
    "zero1": (MeshConfig(data=8), {"zero": 1, "accumulate": 2}, {"remat": "dots"}, "tpu"),
    "tensor": (MeshConfig(fsdp=2, tensor=2, context=2), {}, {"context": "ring"}, "gpu"),
    "stages": (MeshConfig(stage=2, fsdp=4), {"pipeline": "1f1b", "microbatches": 4}, {"scan_layers": True}, "tpu"),
    "experts": (MeshConfig(expert=8, fsdp=2), {"optimizer": "muon", "offload": "optimizer"}, {}, "tpu"),
}


def models() -> dict[str, ModelConfig]:
    """Every preset, one rung of the ladder, and the models that are trained here."""
    named = {name.lower(): value for name, value in vars(presets).items() if isinstance(value, ModelConfig)}
    return (
        named | {"ladder": presets.ladder(48)} | {f"golden_{name}": model for name, model in (MODELS | RARER).items()}
    )


def counted(model: ModelConfig) -> dict[str, Any]:
    """Parameters, FLOPs and bytes, and the weights' names and shapes."""
    found = {name: getattr(counts, name)(model) for name in (
        "params", "params_nonembed", "params_active", "flops_per_token_6n", "param_bytes", "gradient_bytes",
        "optimizer_bytes", "kv_cache_bytes_per_token",
    )}  # fmt: skip
    again = dataclasses.replace(model, remat="full")
    weights = [f"{'/'.join(path)} {w.shape} {w.axes} {w.role}" for path, w in walk(transformer.weights(model))]
    return found | {
        "forward_flops": [counts.forward_flops(model, 300, causal) for causal in (True, False)],
        "train_flops": counts.train_flops(model, 4096, 512),
        "remat_flops": counts.remat_flops(again, 4096, 512),
        "dispatch_flops": counts.dispatch_flops(model, 4096, 512),
        "prefill_flops": counts.prefill_flops(model, 100),
        "decode_flops": [counts.decode_flops(model, n) for n in (1, 100, 10_000)],
        "optimizer_bytes_muon": counts.optimizer_bytes(model, "muon"),
        "kv_cache_bytes_int8": counts.kv_cache_bytes_per_token(model, True),
        "weights": record.digest("\n".join(sorted(weights)).encode()),
    }


def foretold(model: ModelConfig, setting: str) -> dict[str, Any] | str:
    """Memory in bytes and the step's parts in seconds; why not, for a mesh that does not divide the model."""
    mesh, training, changes, platform = SETTINGS[setting]
    model, train = dataclasses.replace(model, **changes), dataclasses.replace(TRAIN, **training)
    try:
        check_mesh(model, train, mesh.sizes)
    except ConfigError as error:
        return str(error)
    memory = estimate_memory(model, train, mesh, platform)
    step = estimate_step(model, train, mesh, DEVICES["h100" if platform == "gpu" else "v5p"])
    return {
        "memory": list(dataclasses.astuple(memory)),
        "peak": memory.peak,
        "step": record.number(step.total),
        "exposed": {name: record.number(x) for name, x in sorted(step.exposed.items())},
    }


def estimated(model: ModelConfig) -> dict[str, Any]:
    """All of a model."""
    return counted(model) | {setting: foretold(model, setting) for setting in SETTINGS}


def named(config: Any) -> dict[str, Any]:
    """The digest of a config's canonical JSON, and the ids of its trials."""
    found: dict[str, Any] = {"config": digest(config), "characters": len(canonical(config))}
    trials = [config] if isinstance(config, Trial) else config.trials() if isinstance(config, SweepConfig) else []
    return found | ({"trials": " ".join(trial.id for trial in trials)} if trials else {})


def configured(name: str) -> dict[str, Any]:
    """A file of configs/."""
    return named(importlib.import_module(f"configs.{name}").config())


def cases() -> dict[str, Callable[[], Any]]:
    """Every model and every config, by name; and a trial whose model uses the rarer fields."""
    made: dict[str, Callable[[], Any]] = {f"model {name}": partial(estimated, m) for name, m in models().items()}
    files = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__")
    made |= {f"config {name}": partial(configured, name) for name in files}
    return made | {f"trial {name}": partial(named, Trial(model, train=SHORT)) for name, model in models().items()}
