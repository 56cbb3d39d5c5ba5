"""write(workdir): figures and report.html of a run directory; the same inputs give the same bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from models.errors import ConfigError
from scaling.report import figures, sections
from scaling.report.html import page
from scaling.report.record import read

INPUTS = ("config.json", "results.parquet", "predictions.jsonl", "fit.json", "trials/*/metrics.jsonl")


def write(workdir: str | Path) -> Path:
    """Write DIR/figures/*.png and DIR/report.html from what DIR holds; returns the path of the report.

    Nothing is required but the directory: a part without data says why it is absent. When neither the inputs nor this
    package have changed since the last report, it is left as it is. ConfigError when `workdir` is no directory.
    """
    directory = Path(workdir)
    run = read(directory)
    digest = _digest(directory)
    report = directory / "report.html"
    drawings, overview = figures.drawings(run), figures.overview(run)
    files = {name: directory / "figures" / f"{name}.png" for name in (*drawings, *(["overview"] if overview else []))}
    if _is_current(report, digest) and all(path.is_file() for path in files.values()):
        return report
    pictures = {name: drawing.render() for name, drawing in drawings.items()}
    for name, picture in pictures.items():
        _replace(files[name], picture.png)
    if overview is not None:
        _replace(files["overview"], overview.png())
    parts = [section(run, pictures) for section in sections.ALL]
    subtitle = f"Scaling-law report of {run.path}"
    _replace(report, page(run.name, subtitle, parts, digest).encode("utf-8"))
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


def _digest(directory: Path) -> str:
    """sha256 of every input file and of this package's own source: what the report is a function of."""
    own = sorted(Path(__file__).parent.glob("*.py"))
    files = [path for pattern in INPUTS for path in sorted(directory.glob(pattern))]
    total = hashlib.sha256(str(directory).encode())
    for path in [*own, *files]:
        name = path.name if path in own else path.relative_to(directory).as_posix()
        total.update(f"\0{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _is_current(report: Path, digest: str) -> bool:
    return report.is_file() and digest in report.read_text(encoding="utf-8", errors="replace")[:1000]


def _replace(path: Path, content: bytes) -> None:
    """Write atomically: a reader or a crash sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
