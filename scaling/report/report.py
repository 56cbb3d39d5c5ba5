"""write(workdir): figures and report.html of a run directory; the same inputs give the same bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import ConfigError
from scaling import kept
from scaling.report import figures
from scaling.report import sweep_sections as own
from scaling.report.figures import Drawing, Picture
from scaling.report.html import Section, page
from scaling.report.record import read

INPUTS = ("config.json", "manifest.json", "results.parquet", "predictions.jsonl", "fit.json", "trials/*/metrics.jsonl")


@dataclass(frozen=True)
class Part:
    """A part of a report that another package writes: the files it follows from, its figures, its sections."""

    inputs: tuple[Path, ...]
    drawings: Mapping[str, Drawing]
    sections: Callable[[Mapping[str, Picture]], Sequence[Section]]


def write(
    workdir: str | Path, *, part: Part | None = None, runs: str | Path | None = None, alone: bool = False
) -> Path:
    """Write DIR/figures/*.png and DIR/report.html from what DIR holds; returns the path of the report.

    part: comes after what training shows, or before it where the trained runs lie in another directory, `runs`; or is
    all that there is, `alone`.
    Nothing is required but the directory: a part without data says why it is absent. When neither the inputs nor this
    package have changed since the last report, it is left as it is. ConfigError when `workdir` is no directory.
    """
    directory = Path(workdir)
    run = read(directory if runs is None else runs)
    digest = _digest(run.path, part.inputs if part else ())
    report = directory / "report.html"
    drawings, overview = ({}, None) if alone else (figures.drawings(run), figures.overview(run))
    drawings |= part.drawings if part else {}
    files = {name: directory / "figures" / f"{name}.png" for name in (*drawings, *(["overview"] if overview else []))}
    if _is_current(report, digest) and all(path.is_file() for path in files.values()):
        return report
    pictures = {name: drawing.render() for name, drawing in drawings.items()}
    for name, picture in pictures.items():
        _replace(files[name], picture.png)
    if overview is not None:
        _replace(files["overview"], overview.png())
    training = [] if alone else own.sections_of(run, pictures)
    more = list(part.sections(pictures)) if part else []
    parts = more + training if runs is not None else training + more
    title = run.name if runs is None else directory.resolve().name
    subtitle = f"Scaling-law report of {directory}"
    _replace(report, page(title, subtitle, parts, digest).encode("utf-8"))
    return report


def plot_overview(workdir: str | Path, path: str | Path | None = None) -> Path:
    """Write one wide PNG (default DIR/figures/overview.png): isoFLOP curves, and the frontier with the held-out runs.

    ConfigError when the directory has no isoFLOP curve or no fit of a law L(N, D).
    """
    overview = figures.overview(read(workdir))
    if overview is None:
        problem = "has no isoFLOP curve or no fit.json of a law L(N, D)"
        raise ConfigError(str(workdir), problem, "finish the sweep first")
    target = Path(path) if path is not None else Path(workdir) / "figures" / "overview.png"
    _replace(target, overview.png())
    return target


def _digest(directory: Path, more: Sequence[Path]) -> str:
    """sha256 of every input file and of this package's own source: what the report is a function of."""
    own = sorted(Path(__file__).parent.glob("*.py"))
    files = [path for pattern in INPUTS for path in sorted(directory.glob(pattern))]
    total = hashlib.sha256(str(directory).encode())
    for path in [*own, *files, *more]:
        name = path.relative_to(directory).as_posix() if path in files else path.name
        total.update(f"\0{name}\0".encode() + hashlib.sha256(kept.bytes_or_none(path) or b"").digest())
    return total.hexdigest()


def _is_current(report: Path, digest: str) -> bool:
    return report.is_file() and digest in report.read_text(encoding="utf-8", errors="replace")[:1000]


def _replace(path: Path, content: bytes) -> None:
    """Write atomically: a reader or a crash sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
