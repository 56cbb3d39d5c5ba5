"""Compile a config's train step for devices that are not here, and say what it needs: memory, FLOPs, collectives.

    python -m launch.compile --config configs/llama3_8b.py --topology v5e:16x16
    python -m launch.compile --config configs/llama3_8b.py --topology v5p:4x4x4 --choose_mesh --verify=2

The step is the one that training runs, for all devices of the topology. One JSON object on standard output: bytes per
device against its memory, exact FLOPs, every collective by kind with its bytes per step, seconds of compiling. A step
that does not fit exits with 1 and says what to divide next. TPUs need the extra isoflop[tpu], whose compiler runs on
any x86 machine; cpu:8 stands for eight virtual devices of this one.

--choose_mesh ranks every legal mesh by an estimate instead, as a table on standard error and as JSON. --verify=K then
compiles the fastest until K of them fit, and only what was compiled is chosen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli

if TYPE_CHECKING:
    from launch.program import Program
    from launch.topology import Topology
    from models.devices import Device
    from scaling.sweep.trial import Trial

FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("topology", None, "devices to compile for, such as v5p:4x4x4", flag_values=FLAGS, required=True)
cli.DEFINE_bool("choose_mesh", False, "rank all legal meshes instead of compiling the config's own", flag_values=FLAGS)
cli.DEFINE_integer("verify", 1, "with --choose_mesh: how many to compile; 0: none", flag_values=FLAGS, lower_bound=0)
cli.DEFINE_integer("top", 10, "with --choose_mesh: how many to show", flag_values=FLAGS, lower_bound=1)
cli.DEFINE_string("device_table", "", "JSON file with measured figures of a device", flag_values=FLAGS)
cli.DEFINE_string("hlo", "", "file for the text of the compiled program", flag_values=FLAGS)


def kinds() -> tuple[type, ...]:
    from scaling.sweep.trial import Trial

    return (Trial,)


def main(config: Trial, topology: str, choose_mesh: bool, verify: int, top: int, device_table: str, hlo: str) -> int:
    import jax

    from launch.choose_mesh import read_device_table
    from launch.topology import parse_topology, require_compiler

    jax.config.update("jax_platforms", "cpu")  # an accelerator of this machine has no part in it
    target = parse_topology(topology)
    device = read_device_table(device_table, target.device) if device_table else target.device
    verify = verify if target.can_compile else 0
    if not choose_mesh or verify:
        require_compiler(target)
    if choose_mesh:
        return choose(config, target, device, verify, top)
    return compile_one(config, target, device, hlo)


def compile_one(config: Trial, topology: Topology, device: Device, hlo: str) -> int:
    """Compile the config's own mesh; print the report."""
    from launch.program import DoesNotFit, compile_step, on_topology

    trial = on_topology(config, topology)
    report = describe(trial, topology, device)
    try:
        program = compile_step(trial, topology)
    except DoesNotFit as error:
        advice = advise(trial, topology, device)
        report |= {"fits": False, "needed": error.needed, "available": error.available}
        report |= {"missing": error.needed - error.available, "advice": advice}
        print(json.dumps(report))
        print(f"does not fit: {error}: {advice}", file=sys.stderr)
        return 1
    if hlo:
        Path(hlo).write_text(program.text, encoding="utf-8")
    print(json.dumps(report | measured(program, topology, device)))
    return 0


def choose(config: Trial, topology: Topology, device: Device, verify: int, top: int) -> int:
    """Rank all meshes; print the table and the JSON."""
    from launch import choose_mesh as chooser

    choice = chooser.choose_mesh(config, topology, device=device, verify=verify)
    print(chooser.as_table(choice, top), file=sys.stderr)
    print(json.dumps(chooser.as_json(choice, top)))
    return 0 if choice.best is not None else 1


def describe(trial: Trial, topology: Topology, device: Device) -> dict[str, Any]:
    """What is known without compiling: shapes, exact FLOPs, and the estimates."""
    import dataclasses

    from launch.choose_mesh import mfu
    from models import counts
    from scaling.train.memory import estimate_memory
    from scaling.train.step_time import estimate_step

    model, train, mesh = trial.model, trial.train, trial.mesh
    tokens = train.tokens_per_step
    flops = mesh.trial * counts.train_flops(model, tokens, train.seq_len)
    platform = "tpu" if topology.is_tpu else "cpu"
    time = estimate_step(model, train, mesh, device, topology.shape if topology.is_tpu else ())
    memory = estimate_memory(model, train, mesh, platform)
    return {
        "topology": topology.name,
        "chips": topology.chips,
        "devices": topology.devices,
        "devices_per_chip": device.per_chip,
        "mesh": {axis: size for axis, size in mesh.sizes.items() if size > 1},
        "params": counts.params(model),
        "params_active": counts.params_active(model),
        "tokens_per_step": mesh.trial * tokens,
        "flops_per_step": flops,  # causal attention, head included
        "remat_flops_per_step": mesh.trial * counts.remat_flops(model, tokens, train.seq_len),
        "flops_per_device": flops / topology.devices,
        "peak_flops_per_device": device.flops,
        "step_s_at_peak": flops / topology.devices / device.flops,
        "step_s_estimate": time.total,
        "mfu_estimate": mfu(trial, topology.devices, device, time.total),
        "memory_estimate": dataclasses.asdict(memory) | {"peak": memory.peak},
    }


def measured(program: Program, topology: Topology, device: Device) -> dict[str, Any]:
    """What the compiler says, bytes per device; of a chip it is `devices_per_chip` times as much."""
    import dataclasses

    from launch.collectives import by_kind

    footprint = program.footprint
    return {
        "fits": True,
        "memory": dataclasses.asdict(footprint) | {"device_memory": round(device.capacity)},
        "memory_per_chip": footprint.peak * device.per_chip,
        "memory_share": footprint.peak / device.capacity,
        "collectives": by_kind(program.collectives),
        "compile_s": round(program.seconds, 1),
    }


def advise(trial: Trial, topology: Topology, device: Device) -> str:
    """What to divide next when a step does not fit: the largest part, and the nearest settings that fit by estimate."""
    from launch import choose_mesh as chooser
    from scaling.train.memory import estimate_memory

    memory = estimate_memory(trial.model, trial.train, trial.mesh, "tpu" if topology.is_tpu else "cpu")
    parts = {
        "parameters and optimiser state (embed dim over mesh.fsdp)": memory.state,
        "saved activations (batch over mesh.fsdp, length over mesh.context, or model.remat=full)": memory.saved,
        "logits and the head's gradient (vocab dim over mesh.tensor)": memory.loss,
        "one block's activations (mlp and heads dims over mesh.tensor, length over mesh.context)": memory.block,
        "gradients (embed dim over mesh.fsdp; train.accumulate=1)": memory.gradients,
    }
    largest = max(parts, key=lambda name: parts[name])
    text = f"the largest part is {parts[largest] / 2**30:.1f} GiB of {largest}"
    near = chooser.nearest_fit(trial, chooser.choose_mesh(trial, topology, device=device))
    if near is None:
        return f"{text}; no mesh of {topology.name} fits by estimate: take more chips or a smaller batch"
    return f"{text}; nearest that fits by estimate ({near.memory.peak / 2**30:.1f} GiB): {near.flags}"


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
