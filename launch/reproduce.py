"""Run a published claim's experiment and judge it, or list all of them.

    python -m launch.reproduce emergence --workdir runs/reproductions/emergence
    python -m launch.reproduce --list [--json]
    python -m launch.reproduce --group=training --workdir runs/reproductions

NAME is one of --list, or a .py file of your own of the same form. Running it again continues where it stopped; a
finished directory is left as it is. --quick shows the mechanism in seconds and decides nothing; --dry_run says what
the training would cost; --keep also writes the finding to docs/reproductions/. --group runs many, one after the other,
each in its folder of --workdir, whose index.html shows verdicts and time left.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli, gallery
from launch.executors import choice
from launch.sweep import DEVICE
from models.errors import require

if TYPE_CHECKING:
    from launch.executors.choice import Options
    from scaling.finding import Finding
    from scaling.reproduction import Reproduction

FLAGS = cli.new_flags()
cli.DEFINE_string("name", "", "reproduction, or a .py file; may be given without --name=", flag_values=FLAGS)
cli.DEFINE_string("workdir", "", "directory: made, or continued (runs/reproductions/NAME)", flag_values=FLAGS)
cli.DEFINE_enum("group", None, gallery.GROUPS, "Run all, or those of data, laws and sweeps.", flag_values=FLAGS)
cli.DEFINE_bool("list", False, "Show all reproductions and what was found.", flag_values=FLAGS)
cli.DEFINE_bool("json", False, "With --list: as JSON.", flag_values=FLAGS)
cli.DEFINE_bool("quick", False, "Show the mechanism in seconds; decides nothing.", flag_values=FLAGS)
cli.DEFINE_bool("dry_run", False, "Say what it would train and cost, and end.", flag_values=FLAGS)
cli.DEFINE_string("device", "", DEVICE, flag_values=FLAGS)
cli.DEFINE_bool("keep", False, "Also write the finding to docs/reproductions/.", flag_values=FLAGS)
choice.define_flags(FLAGS)

WIDE = 200  # characters of a line where nobody's terminal says how many fit


def main(name: str, workdir: str, quick: bool, dry_run: bool, keep: bool, group: str | None, device: str,
         **flags: Any) -> int:  # fmt: skip
    shown, as_json = flags.pop("list"), flags.pop("json")
    where = choice.options(flags)
    if shown:
        return show(as_json)
    require(not as_json, "--json", "goes with --list", "give --list --json")
    require(dry_run or not device, "--device", "is for --dry_run, which prices it", "leave it out")
    require(bool(name) or group is not None, "NAME", "is missing", "give a reproduction; --list shows all")
    require(not (name and group), "--group", f"is not for one reproduction, {name}", "leave one of them out")
    require(not (quick and keep), "--keep", "is not for --quick, which decides nothing", "leave one of them out")
    if group:
        folder = Path(workdir or f"runs/reproductions{'_quick' if quick else ''}")
        return run_group(group, folder, quick, dry_run, keep, where)
    reproduction, file = gallery.load(name), gallery.path_of(name)
    path = Path(workdir or f"runs/reproductions/{reproduction.name}{'_quick' if quick else ''}")
    if dry_run:
        return price(reproduction, path, quick, where, device)
    found = reproduce(reproduction, file, path, quick, where)
    _print(found, path)
    if quick:
        print("a quick run: it shows the mechanism, and its sizes decide nothing")
    if keep:
        print(f"kept: {_keep(found)}; python -m tests.test_reproductions_docs writes docs/reproductions.md again")
    return 0


def run_group(group: str, folder: Path, quick: bool, dry_run: bool, keep: bool, where: Options) -> int:
    """Run, or price, all of a group; 1 when one of them failed."""
    from launch.series import INDEX, Series, prices

    entries = gallery.members(group)
    if dry_run:
        print(prices(entries))
        return 0

    def one(name: str, path: Path) -> Finding:
        found = reproduce(gallery.load(name), gallery.path_of(name), path, quick, where)
        _print(found, path)
        if keep:
            _keep(found)
        return found

    print(f"how far it is: {folder / INDEX}")
    return int(Series.of(entries, folder).run(one) > 0)


def reproduce(reproduction: Reproduction, file: Path, path: Path, quick: bool, where: Options) -> Finding:
    """Run it in its directory, or go on there; writes finding.json and finding.html and returns the finding."""
    from launch.workspace import Directory
    from scaling import finding
    from scaling.report.claim import write_page
    from scaling.sweep.card import git_commit
    from scaling.sweep.directory import RunDirectory

    work = Directory(reproduction.name, path, quick, where)
    work.claim(file)
    target, shown = path / "finding.json", path / "finding.html"
    with RunDirectory(path).locked():
        measured = work.measured()
        if measured is None:
            target.unlink(missing_ok=True)
            work.write_measured(reproduction.run(work))
            work.tick()
            measured = work.measured()
            assert measured is not None  # it was written just now
        if not target.is_file():
            command = gallery.command(reproduction.name, quick)
            run = dict(minutes=work.seconds / 60, command=command, commit=git_commit(), machine=finding.machine())
            finding.write(target, [reproduction.finding(measured, **run)])
            shown.unlink(missing_ok=True)
        (found,) = finding.read(target)
        if not shown.is_file():
            write_page(shown, found, measured.details)
    return found


def price(reproduction: Reproduction, path: Path, quick: bool, where: Options, device: str = "") -> int:
    """Print what every sweep of it would cost, and the minutes that are said of all of it; writes nothing."""
    from launch import estimate

    hours = 0.0
    for number, config in enumerate(reproduction.planned(quick)):
        print(f"sweep         {config.name}")
        place = path / "sweeps" / f"_{number}"
        found = estimate.estimate(config.anchored(Path.cwd()), place, where, device)
        estimate.show(found, place)
        hours += found.device_hours
    if device:
        print(f"in all        {hours:.3g} device-hours of {device} for its sweeps")
        return 0
    rest = "" if reproduction.planned(quick) else "; it trains no sweep"
    print(f"in all        about {reproduction.minutes:g} minutes on two cores, as its file says{rest}")
    return 0


def show(as_json: bool) -> int:
    """The catalogue: a table for people, or JSON with the names that findings have."""
    found = gallery.entries()
    if as_json:
        print(json.dumps([line for entry in found for line in entry.to_json()], indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from launch import series

    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in ("reproduction", "k", "verdict", r"effect \[interval]", "minutes"):
        table.add_column(name, justify="right" if name == "minutes" else "left", no_wrap=True)
    table.add_column("claim", no_wrap=True, ratio=1)  # as much as there is room for
    for entry in found:
        r, one = entry.reproduction, next(iter(entry.findings), None)
        minutes = r.minutes if one is None or one.minutes is None else one.minutes
        verdict, seen = ("not run", "") if one is None else (one.verdict, one.numbers())
        table.add_row(r.name, ", ".join(map(str, r.methods)), verdict, Text(seen), f"{minutes:.2g}", Text(r.claim))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
    sums = [f"{group}: {series.hours(gallery.members(group))}" for group in gallery.GROUPS]
    print(f"one after the other, {'; '.join(sums)}")
    return 0


def _keep(found: Finding) -> Path:
    from scaling import finding

    target = gallery.KEPT / f"{found.name}{finding.SUFFIX}"
    finding.write(target, [found])
    return target


def _print(found: Finding, path: Path) -> None:
    print(f"{found.claim} ({found.source})")
    print(f"{found.verdict}: {found.seen()}; more than {found.smallest_effect:g} was asked")
    print(f"{path / 'finding.json'}, {path / 'finding.html'}")


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, positional="name")
