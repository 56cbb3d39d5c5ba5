"""Gallery: the reproductions that this repository ships, found by listing a folder, and what is kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import overrides
from models.errors import ConfigError, nearest, require
from scaling import finding
from scaling.finding import Finding
from scaling.reproduction import Reproduction

_REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = _REPOSITORY / "configs" / "reproductions"
KEPT = _REPOSITORY / "docs" / "reproductions"
FUNCTION = "get_reproduction"
GROUPS = ("all", "training")
TRAINING = frozenset({  # methods whose claims are of data, laws, sweeps and synthetic corpora
    15, 16, 23, 27, 33, 36, 37, 55, 56, 58, 91, 128, 129, 132, 133, 139, 153, 195, 210, 227, 229, 230, 231, 238, 241,
    243, 247, 252, 261, 266,
})  # fmt: skip
COMMAND = "python -m launch.reproduce {name} --workdir runs/reproductions/{name}"
_TOP = """# Reproductions

Published claims, each with an experiment of a size that two CPU cores can run. Made of the findings kept in
[docs/reproductions/](reproductions) by `python -m tests.test_reproductions_docs`; do not edit it.
[gallery.md](gallery.md) says how to run one and how to write one.

A claim **holds** when the whole interval of the effect lies above the smallest effect of interest, which was settled
before the run; it **does not hold** at this size when the interval lies below; an interval on both sides **cannot
tell**. `k` numbers the published methods.

"""


@dataclass(frozen=True)
class Entry:
    """One reproduction with the findings that are kept of it; none before it was run."""

    reproduction: Reproduction
    findings: tuple[Finding, ...]

    @property
    def minutes(self) -> float:
        """What it took, or takes as its file says where it was not run."""
        took = [one.minutes for one in self.findings if one.minutes is not None]
        return sum(took) if took else self.reproduction.minutes

    def to_json(self) -> list[dict[str, Any]]:
        """The findings, or what is known before there is one, under the same names."""
        if self.findings:
            return [found.to_json() for found in self.findings]
        r = self.reproduction
        return [{
            "name": r.name, "methods": list(r.methods), "claim": r.claim, "source": r.source, "verdict": None,
            "effect": None, "interval": None, "smallest_effect": float(r.smallest_effect), "unit": r.unit,
            "minutes": float(r.minutes), "flops": None, "command": command(r.name), "commit": None,
            "machine": None, "simulated": r.simulated, "not_covered": r.not_covered,
        }]  # fmt: skip


def command(name: str, quick: bool = False) -> str:
    """The command that runs a reproduction of ours."""
    return COMMAND.format(name=name) + ("_quick --quick" if quick else "")


def names() -> list[str]:
    """The names of all reproductions, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.name.startswith("_"))


def path_of(name: str) -> Path:
    """The file of a reproduction of ours, or that of a user's own, given as a path to a .py file."""
    if name.endswith(".py"):
        return Path(name)
    if name in names():
        return FOLDER / f"{name}.py"
    guess = nearest(name, names())
    fix = f"did you mean {guess}?" if guess else "--list shows all; a file of your own is given with its .py"
    raise ConfigError(name, "no such reproduction", fix)


def load(name: str) -> Reproduction:
    """A reproduction by name or file; ConfigError for a wrong name, and for a file that does not define it."""
    path = path_of(name)
    found = overrides.load_returned(path, FUNCTION, (Reproduction,))
    fix = f"name it {path.stem}"
    require(found.name == path.stem, str(path), f"defines a reproduction called {found.name!r}", fix)
    return found


def kept_findings(name: str) -> tuple[Finding, ...]:
    """What docs/reproductions keeps of a reproduction."""
    path = KEPT / f"{name}{finding.SUFFIX}"
    return tuple(finding.read(path)) if path.is_file() else ()


def entries() -> list[Entry]:
    """All reproductions with their kept findings, in the order of their names."""
    return [Entry(load(name), kept_findings(name)) for name in names()]


def members(group: str) -> list[Entry]:
    """The reproductions of one of GROUPS, the shortest first, so that a night that ends early has most of them."""
    found = [one for one in entries() if group == "all" or TRAINING & set(one.reproduction.methods)]
    return sorted(found, key=lambda one: one.minutes)


def page(found: list[Entry]) -> str:
    """docs/reproductions.md: a line for every claim in one table, and the text of each below."""
    verdicts = [one.verdict for entry in found for one in entry.findings]
    counts = [f"{verdicts.count(v)} {v}" for v in ("holds", "does not hold", "cannot tell")]
    waiting = sum(not entry.findings for entry in found)
    head = ["| reproduction | k | verdict | effect [interval] | more than | minutes | simulated |", "|" + "---|" * 7]
    lines = [_line(entry.reproduction, one) for entry in found for one in entry.findings or (None,)]
    parts = [_text(entry) for entry in found]
    summary = f"{', '.join(counts)}; {waiting} not run."
    return _TOP + f"{summary}\n\n" + "\n".join([*head, *lines]) + "\n\n" + "\n".join(parts)


def _line(r: Reproduction, found: Finding | None) -> str:
    methods = ", ".join(map(str, r.methods))
    simulated = "yes" if r.simulated else ""
    if found is None:
        asked = f"{r.smallest_effect:g} | {r.minutes:g} | {simulated}"
        return f"| [{r.name}](#{r.name}) | {methods} | not run | | {asked} |"
    minutes = "" if found.minutes is None else f"{found.minutes:.2g}"
    return (
        f"| [{r.name}](#{r.name}) | {methods} | {found.verdict} | {_cell(found.seen())} | "
        f"{found.smallest_effect:g} | {minutes} | {simulated} |"
    )


def _text(entry: Entry) -> str:
    r = entry.reproduction
    lines = [f"## {r.name}", "", f"{r.claim} ({r.source}).", ""]
    for found in entry.findings:
        flops = "" if not found.flops else f", {found.flops:.2g} FLOPs"
        took = "" if found.minutes is None else f" {found.minutes:.2g} minutes{flops}, {found.machine}."
        lines += [f"**{found.verdict}**: {found.seen()}; more than {found.smallest_effect:g} was asked.{took}", ""]
    if not entry.findings:
        lines += [f"Not run: about {r.minutes:g} minutes on two cores.", ""]
    return "\n".join([*lines, f"Not covered: {r.not_covered}", "", f"    {command(r.name)}", ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
