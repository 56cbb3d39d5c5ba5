"""Write what this checkout computes, to the last bit, or compare it with what was written before.

    python tests/golden/write.py --out tests/golden/golden.json              # the file that test_golden.py reads
    python tests/golden/write.py --only train search --out FILE              # these sections again, the others kept
    python tests/golden/write.py --against tests/golden/golden.json          # compare; exit 1 where something differs
    python tests/golden/write.py --long --only train --against tests/golden/long.json     # real sizes, as runs compile

A section is train, generate, search or, in the short form, estimates. Bits depend on the CPU's instruction set, jax,
and the number of threads: the file says which (`machine`). long.json keeps the long form of train alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
Cases = dict[str, dict[str, Callable[[], Any]]]  # section -> name -> what makes the entry


def prepare(long: bool) -> None:
    """The environment of the tests, or that of a run: one device and one thread. Before the first import of jax."""
    sys.path[0] = str(REPOSITORY)  # this checkout, whatever is installed, and nothing of this folder by its bare name
    from launch import environment
    from tests.quick import QUICK_FLAGS

    if long:
        os.environ["JAX_NUM_CPU_DEVICES"] = "1"
        environment.limit_threads(1)
    else:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "xla"))
        os.environ["JAX_NUM_CPU_DEVICES"] = "8"
        os.environ["NPROC"] = "32"  # see launch.environment.THREADS_PER_CPU_DEVICE
        # The long form is compiled as a run is.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_FLAGS}".strip()
    environment.prepare()


def sections(long: bool) -> Cases:
    """Every case of every section."""
    from tests.golden import estimates, generation, searching, training

    modules = {"train": training, "generate": generation, "search": searching}
    if long:
        return {name: module.long_cases() for name, module in modules.items()}
    return {name: module.cases() for name, module in modules.items()} | {"estimates": estimates.cases()}


def computed(cases: Cases) -> dict[str, Any]:
    """The entries of these cases, with their seconds on stderr."""
    found: dict[str, Any] = {}
    for section, makers in cases.items():
        for name, make in makers.items():
            began, cpu = time.perf_counter(), time.process_time()
            found.setdefault(section, {})[name] = make()
            spent = time.perf_counter() - began, time.process_time() - cpu
            print(f"{section}/{name}: {spent[0]:.1f} s, {spent[1]:.1f} s of CPU", file=sys.stderr, flush=True)
    return found


def report(want: dict[str, Any], found: dict[str, Any]) -> int:
    """Print what differs, and what has no entry yet; 1 if anything differs."""
    from tests.golden.record import differences, machine, mode

    exact = want["machine"] == machine()
    print(f"compared {mode(exact)}")
    code = 0
    for section, entries in found.items():
        kept = want.get(section, {})
        for name, entry in entries.items():
            if name not in kept:
                print(f"{section}/{name}: new, write it")
                continue
            apart = list(differences(kept[name], entry, exact))
            code = code or int(bool(apart))
            print(f"{section}/{name}: " + (f"{len(apart)} entries differ" if apart else "equal"))
            for path, by in sorted(apart, key=lambda pair: -pair[1])[:8]:
                print(f"    {path} (by {by:.2g})")
        for name in sorted(kept.keys() - entries.keys()):
            code = 1
            print(f"{section}/{name}: gone")
    return code


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--against", type=Path, help="a file written before, to compare with")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="sections to compute (default: all)")
    parser.add_argument(
        "--long", action="store_true", help="real sizes, one thread, as runs are compiled: minutes a section"
    )
    given = parser.parse_args(arguments)
    prepare(given.long)
    cases = sections(given.long)
    unknown = set(given.only or ()) - cases.keys()
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))} is no section: use {', '.join(cases)}")
    found = computed({name: makers for name, makers in cases.items() if name in (given.only or cases)})
    if given.out:
        from tests.golden.record import machine

        before = json.loads(given.out.read_text()) if given.out.exists() and given.only else {}
        if before and before["machine"] != machine():
            parser.error(f"--only: {given.out} was written on another machine: write all sections")
        given.out.write_text(json.dumps(before | {"machine": machine()} | found, indent=1) + "\n")
    return report(json.loads(given.against.read_text()), found) if given.against else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
