"""Collectives of a compiled program, read from its HLO text: kind, bytes, mesh axes, and how often a step runs them.

What XLA's own analysis leaves out is in here: loops count their trips, a collective that the TPU compiler has cut into
asynchronous pieces counts once, and an all-reduce fused with the slice that follows it counts as the reduce-scatter
that it is.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
DTYPE_BYTES = {"pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4,
               "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}  # fmt: skip
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"([\w\-]+)\(")
_CALLED = re.compile(r"\b(calls|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'known_trip_count"?[:=]\s*\{"n":"(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{([^}]*)\}"
)
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}\}")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Collective:
    """One collective of a program, on each device.

    payload: bytes of the whole array that the group has or makes together: what an all-gather returns, what a
    reduce-scatter takes, what an all-reduce takes and returns, what an all-to-all or a permute sends from one device.
    group: devices that take part together. times: executions per step. axes: mesh axes it runs over, where known.
    """

    kind: str
    payload: int
    group: int
    times: int
    axes: tuple[str, ...] = ()
    dtype: str = ""
    source: str = ""  # the traced operation that it comes from

    @property
    def bytes(self) -> int:
        """Payload of all executions of one step."""
        return self.payload * self.times

    @property
    def sent(self) -> int:
        """Bytes that a device sends per step in a ring, the least that any algorithm sends."""
        factor = {"all-reduce": 2.0, "collective-permute": 1.0}.get(self.kind, 1.0)
        share = 1.0 if self.kind == "collective-permute" else (self.group - 1) / self.group
        return round(self.bytes * factor * share)


class Instruction(NamedTuple):
    """name = type opcode(operands), attributes."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    text: str  # operands and attributes as written


@dataclass
class Computation:
    """One HLO computation; `root` is its last instruction."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: Instruction | None = None


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """(every computation by name, the name of the entry) of an HLO module's text."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None or not line.startswith(" "):
            header = _HEADER.match(line)
            if header:
                current = computations.setdefault(header[1], Computation(header[1]))
                entry = header[1] if line.startswith("ENTRY ") else entry
            elif line == "}":  # a kernel's attributes may run over several lines, some of which begin with brackets
                current = None
            continue
        found = _INSTRUCTION.match(line)
        if found:
            instruction = _instruction(found[2], found[3])
            current.instructions[instruction.name] = instruction
            if found[1]:
                current.root = instruction
    return computations, entry


def _instruction(name: str, rest: str) -> Instruction:
    end = _balanced(rest, 0) if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode = _OPCODE.match(rest)
    if opcode is None:
        return Instruction(name, kind, "", (), rest)
    close = _balanced(rest, opcode.end() - 1)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[opcode.end() : close - 1]))
    return Instruction(name, kind, opcode[1], operands, rest[opcode.end() :])


def _balanced(text: str, start: int) -> int:
    """The index after the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def collectives(text: str, mesh: Mapping[str, int] | None = None) -> list[Collective]:
    """Every collective that one run of the program executes, loops unrolled into `times`.

    mesh: axis name -> size in mesh order, so that groups can be named by the axes they span. A loop whose trip count
    the text does not give (training's own loop over steps) counts once: the figures are then those of one step.
    """
    computations, entry = parse(text)
    return _of_computation(computations, entry, 1, mesh or {})


def _of_computation(
    computations: Mapping[str, Computation],
    name: str,
    times: int,
    mesh: Mapping[str, int],
    begun: frozenset[str] = frozenset(),
) -> list[Collective]:
    """The collectives below one loop body (or the entry), fusions and calls included.

    begun: channels of those that were cut into pieces and start outside the loop, so that it only moves them on.
    """
    scope: list[Found] = []
    loops: list[tuple[Computation, Instruction]] = []
    _gather(computations, name, scope, loops)
    chains = _chains(scope)
    result = [_collective(found, times, mesh) for found in _without_pieces(scope, chains, begun)]
    for computation, loop in loops:
        body = _attribute(loop.text, "body")
        trips = trip_count(computations, computation, loop)
        result += _of_computation(computations, body, times * trips, mesh, begun | chains.keys())
    return [collective for collective in result if collective.group > 1]


class Found(NamedTuple):
    """A collective where it stands; `computation` is the fused computation around it, or the loop body itself."""

    instruction: Instruction
    computation: Computation


def _gather(computations: Mapping[str, Computation], name: str, scope: list[Found], loops: list) -> None:
    computation = computations.get(name)
    if computation is None:
        return
    for instruction in computation.instructions.values():
        if instruction.opcode == "while":
            loops.append((computation, instruction))
            continue
        if _kind(instruction) is not None:
            scope.append(Found(instruction, computation))
        if instruction.opcode in ("async-done", "async-update"):
            continue  # their start has been counted
        called = [match[1] for match in _CALLED.findall(instruction.text)]
        for group in _BRANCHES.findall(instruction.text):
            called += re.findall(r"%?([\w.\-]+)", group)
        for callee in called:
            _gather(computations, callee, scope, loops)


def _kind(instruction: Instruction) -> str | None:
    base = instruction.opcode.removesuffix("-start")
    return base if base in KINDS else None


def _channel(found: Found) -> str:
    """The channel of a collective that is cut into pieces fused with compute; "" of any other."""
    channel = _CHANNEL.search(found.instruction.text)
    return channel[1] if channel and '"async_collective_fusion_config"' in found.instruction.text else ""


def _chains(scope: Sequence[Found]) -> dict[str, list[Found]]:
    """Channel -> the fusions that move its pieces."""
    chains: dict[str, list[Found]] = defaultdict(list)
    for found in scope:
        if channel := _channel(found):
            chains[channel].append(found)
    return chains


def _without_pieces(
    scope: Sequence[Found], chains: Mapping[str, list[Found]], begun: frozenset[str]
) -> Iterable[Found]:
    """A collective fused with compute appears in every fusion that moves a piece of it: keep the first of a chain."""
    yield from (found for found in scope if not _channel(found))
    for channel, chain in chains.items():
        starts = [found for found in chain if _starts(found.computation)]
        yield from starts or (chain[:1] if channel not in begun else ())


def _starts(computation: Computation) -> bool:
    calls = (i.text for i in computation.instructions.values() if i.opcode == "custom-call")
    return any("AsyncCollectiveStart" in text for text in calls)


def _collective(found: Found, times: int, mesh: Mapping[str, int]) -> Collective:
    instruction, kind = found.instruction, _kind(found.instruction)
    assert kind
    shapes = _shapes(instruction.type)
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        shapes = shapes[len(shapes) // 2 :] if kind == "all-gather" else shapes[1:2]  # (operands, results, ...)
    payload = sum(size for _, size in shapes)
    group = first_group(instruction.text)
    if kind == "all-reduce" and _sliced(found):
        kind = "reduce-scatter"
    elif kind == "reduce-scatter":
        payload *= max(len(group), 1)  # its type is the shard
    source = _OP_NAME.search(instruction.text)
    dtype = shapes[0][0] if shapes else ""
    axes = linked_axes(instruction.text, mesh) if kind == "collective-permute" else spanned_axes(group, mesh)
    return Collective(kind, payload, len(group), times, axes, dtype, source[1] if source else "")


def _sliced(found: Found) -> bool:
    """Whether an all-reduce is followed, within its fusion, by taking this device's share only."""
    root = found.computation.root
    users = [i for i in found.computation.instructions.values() if found.instruction.name in i.operands]
    return root is not None and len(users) == 1 and users[0].opcode == "dynamic-slice"


def _shapes(text: str) -> list[tuple[str, int]]:
    """(dtype, bytes) of every array in a type."""
    found = []
    for dtype, dims in _SHAPE.findall(text):
        size = DTYPE_BYTES.get(dtype, 1 if dtype.startswith("f8") else 0)
        if size or dtype in DTYPE_BYTES:
            found.append((dtype, size * math.prod(int(d) for d in dims.split(",") if d)))
    return found


def first_group(text: str) -> tuple[int, ...]:
    """Partitions of the first group that a collective runs in; of a permute, all that it links."""
    if mesh := _MESH_GROUPS.search(text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        group = _mesh_group(sizes, re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh[4]))
        return _transposed(group, _ints(mesh[2]), _ints(mesh[3] or "")) if mesh[2] else group
    if iota := _IOTA_GROUPS.search(text):
        return _transposed(range(_ints(iota[1])[-1]), _ints(iota[2]), _ints(iota[3] or ""))
    if listed := _LISTED_GROUPS.search(text):
        return _ints(listed[1])
    if pairs := _PAIRS.search(text):
        return tuple(sorted({int(number) for number in re.findall(r"\d+", pairs[1])}))
    return ()


def _mesh_group(sizes: Mapping[str, int], named: Sequence[tuple[str, str, str]]) -> tuple[int, ...]:
    """The first group over the named axes (or sub-axes: name, product of the sizes before, size) of a mesh."""
    names = list(sizes)
    group = [0]
    for name, before, size in named:
        inner = math.prod(sizes[other] for other in names[names.index(name) + 1 :])
        ways = int(size) if size else sizes[name]
        stride = inner * (sizes[name] // (int(before) * ways) if size else 1)
        group = [base + stride * i for base in group for i in range(ways)]
    return tuple(group)


def _transposed(indices: Iterable[int], dims: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """The elements at `indices` of 0, 1, 2, ... laid out as `dims`, transposed to `order` and flattened."""
    order = order or range(len(dims))
    strides = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
    found = []
    for index in indices:
        position = 0
        for d in reversed(order):
            index, place = divmod(index, dims[d])
            position += place * strides[d]
        found.append(position)
    return tuple(found)


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def spanned_axes(group: Sequence[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the members of a group differ; partitions are numbered in mesh order."""
    axes, stride = [], 1
    for axis, size in reversed(list(mesh.items())):
        if len({partition // stride % size for partition in group}) > 1:
            axes.append(axis)
        stride *= size
    return tuple(reversed(axes))


def linked_axes(text: str, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which a permute's sources differ from their targets."""
    pairs = _PAIRS.search(text)
    numbers = [int(number) for number in re.findall(r"\d+", pairs[1])] if pairs else []
    linked = {axis for pair in zip(numbers[::2], numbers[1::2], strict=False) for axis in spanned_axes(pair, mesh)}
    return tuple(axis for axis in mesh if axis in linked)


def trip_count(computations: Mapping[str, Computation], computation: Computation, loop: Instruction) -> int:
    """How often a `while` runs its body: as XLA says, else from a counter compared with a constant; 1 if unknown."""
    if known := _KNOWN_TRIPS.search(loop.text):
        return int(known[1])
    condition = computations.get(_attribute(loop.text, "condition"))
    body = computations.get(_attribute(loop.text, "body"))
    if condition is None or body is None or condition.root is None or condition.root.opcode != "compare":
        return 1
    left, right = (condition.instructions.get(name) for name in condition.root.operands)
    limit = _constant(condition, right)
    if left is None or left.opcode != "get-tuple-element" or limit is None or "direction=LT" not in condition.root.text:
        return 1
    index = int(_attribute(left.text, "index") or 0)
    start = _constant(computation, _element(computation, loop.operands, index)) or 0
    step = 1
    update = _element(body, (body.root.name,) if body.root else (), index)
    if update is not None and update.opcode == "add":
        steps = [_constant(body, body.instructions.get(name)) for name in update.operands]
        step = next((size for size in steps if size), 1)
    return max(0, -(-(limit - start) // step))


def _element(computation: Computation, operands: Sequence[str], index: int) -> Instruction | None:
    """The instruction behind element `index` of a tuple."""
    whole = computation.instructions.get(operands[0]) if operands else None
    if whole is None or whole.opcode != "tuple" or index >= len(whole.operands):
        return None
    return computation.instructions.get(whole.operands[index])


def _constant(computation: Computation, instruction: Instruction | None) -> int | None:
    """The integer an instruction stands for, copies looked through; None where it is not constant."""
    while instruction is not None and instruction.opcode in ("copy", "bitcast", "reshape") and instruction.operands:
        instruction = computation.instructions.get(instruction.operands[0])
    if instruction is None or instruction.opcode != "constant":
        return None
    number = re.match(r"\{?(-?\d+)\}?\)", instruction.text)
    return int(number[1]) if number else None


def _attribute(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", text)
    return found[1] if found else ""


def by_kind(found: Iterable[Collective]) -> dict[str, dict[str, Any]]:
    """Kind -> count, payload bytes and bytes sent per device and step, and the bytes sent over each axis."""
    table: dict[str, dict[str, Any]] = {}
    for collective in found:
        row = table.setdefault(collective.kind, {"count": 0, "bytes": 0, "sent": 0, "axes": defaultdict(int)})
        row["count"] += collective.times
        row["bytes"] += collective.bytes
        row["sent"] += collective.sent
        row["axes"]["+".join(collective.axes) or "?"] += collective.sent
    return {kind: row | {"axes": dict(row["axes"])} for kind, row in sorted(table.items())}
