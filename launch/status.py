"""Show where a sweep, a job, a study or post-training stands: what is done, who works, how fast, what failed and why.

    python -m launch.status --workdir runs/quickstart                     # a table
    python -m launch.status --workdir runs/quickstart --serve             # a page on this machine that follows the run

The page is for this machine alone; another --host needs a token, which is made up when --token gives none.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from launch import cli

if TYPE_CHECKING:
    from launch.snapshot import Snapshot

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", None, "directory of any such run", flag_values=FLAGS, required=True)
cli.DEFINE_bool("serve", False, "Serve a page that refreshes itself.", flag_values=FLAGS)
cli.DEFINE_integer("port", 8017, "of the page; 0: any free one", flag_values=FLAGS)
cli.DEFINE_string("host", "127.0.0.1", "address that the page is served at", flag_values=FLAGS)
cli.DEFINE_string("token", "", "what a reader must know, as in ?token=...", flag_values=FLAGS)

SHOWN = 40  # rows of the table in a terminal
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(workdir: str, serve: bool, port: int, host: str, token: str) -> int:
    from launch.snapshot import snapshot

    found = snapshot(Path(workdir))
    if not serve:
        print(text(found))
        return 0
    from launch.page import Page

    token = token or ("" if host in LOOPBACK else secrets.token_urlsafe(16))
    page = Page(Path(workdir), host, port, token)
    print(f"{found.name}: {page.address}", flush=True)
    page.serve_forever()
    return 0


def text(found: Snapshot) -> str:
    """The snapshot as lines for a terminal; what trials wrote is shown without control characters."""
    from scaling.report import numbers
    from scaling.sweep.directory import RETRY

    share = found.done / found.work if found.work else 0.0
    counted = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    lines = [f"{found.name} ({found.kind}): {share:.1%} of {numbers.count(found.work)} {found.unit}"]
    lines += [counted] if counted else []
    if found.finished:
        lines.append("finished")
    elif found.rate > 0:
        lines.append(f"{numbers.count(found.rate)} {found.unit}/s, {numbers.duration(found.left_s)} left")
    elif any(worker.state == "working" for worker in found.workers):
        lines.append("at work; no speed yet")
    else:
        lines.append("nobody works on it")
    if found.trials:
        lines += ["", f"{'trial':14}{'state':9}{'params':>9}{'FLOPs':>10}{'step':>16}{'loss':>9}  what varies, or why"]
    for t in sorted(found.trials, key=lambda t: t.place)[:SHOWN]:
        loss = f"{t.loss:.4f}" if t.loss == t.loss else ""
        steps = f"{t.step:,}/{t.steps:,}"
        size = numbers.count(t.params)
        about = " ".join([*(f"{name}={value}" for name, value in t.varied.items()), t.reason])
        lines.append(f"{t.trial:14}{t.state:9}{size:>9}{t.flops:>10.3g}{steps:>16}{loss:>9}  {about}".rstrip())
    if len(found.trials) > SHOWN:
        lines.append(f"... and {len(found.trials) - SHOWN} more")
    if found.counts["failed"]:
        lines.append(RETRY)
    lines += ["", f"{'worker':12}{'state':9}{'host':16}{'process':>8}{'tokens/s':>10}  works on"]
    for w in found.workers:
        speed = f"{w.speed:,.0f}" if w.speed else ""
        lines.append(f"{w.worker:12}{w.state:9}{w.host[:15]:16}{w.process:>8}{speed:>10}  {' '.join(w.holds)}".rstrip())
    return "\n".join(cli.printable(line).replace("\n", " ") for line in lines)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
