"""Page: the status of one run directory as a local web page that refreshes itself. It serves this page and no file.

What trials wrote is text, never markup (scaling.report.html escapes it), and the page may load nothing and run nothing.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import math
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
from matplotlib.figure import Figure

from launch.snapshot import Snapshot, snapshot
from models.errors import ConfigError, printable, require
from scaling.report import numbers, plots
from scaling.report.budgets import budgets
from scaling.report.figures import Drawing
from scaling.report.html import Html, Section, badge, element, join, page, paragraph, picture, refreshing, table
from scaling.sweep.directory import RETRY
from scaling.train.metrics import read_rows

REFRESH_S = 5
FIGURES_S = 15.0  # a drawing takes a second of a core, which the workers need
MOST_CURVES = 60
MOST_READERS = 512  # connections at once, a thread each; more wait
READ_S = 10.0  # in which a reader must have said what it wants, and taken what it is sent
PLAIN_PORT = 80  # which browsers leave out of the host's name
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """A server for one directory. token: what every request must carry as ?token=; "" for loopback alone."""

    def __init__(self, directory: Path, host: str, port: int, token: str):
        require(bool(token) or _is_loopback(host), "--host", f"{host} is not this machine alone", "give a --token")
        self.directory, self.token = directory, token
        self.figures: dict[str, Html] = {}
        self.drawn = -math.inf
        self.lock = threading.Lock()
        self.answers: dict[str, tuple[float, tuple[int, str]]] = {}  # kind -> when it was begun, status and content
        self.told = ""
        try:
            self.server = _Server((host, port), partial(_Handler, self))
        except OSError as error:
            raise ConfigError("--port", f"{host}:{port} cannot be used ({error.strerror})", "give another") from None
        bound = self.server.server_address[1]
        ports = [f":{bound}", *([""] if bound == PLAIN_PORT else [])]
        self.hosts = {f"{name}{port}" for name in ("127.0.0.1", "localhost", "[::1]") for port in ports}
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{bound}/" + (f"?token={token}" if token else "")

    def serve_forever(self) -> None:
        """Until interrupted."""
        try:
            self.server.serve_forever()
        finally:
            self.server.server_close()

    def admits(self, host: str, query: str) -> bool:
        """Whether a request may see the page: it knows the token or, without one, it was meant for this machine.

        The second keeps out a web page elsewhere whose name was made to point here.
        """
        if not self.token:
            return host.lower() in self.hosts
        return hmac.compare_digest(parse_qs(query).get("token", [""])[0].encode(), self.token.encode())

    def answer(self, kind: str) -> tuple[int, str]:
        """(HTTP status, content) of "html" or "json", one made at a time; who waited meanwhile shares the next.

        What cannot be shown says why, in the same form, and is tried again with the next request.
        """
        asked = time.monotonic()
        with self.lock:
            begun, answer = self.answers.get(kind, (-math.inf, (0, "")))
            if begun < asked:
                begun, answer = time.monotonic(), self._made(kind)
                self.answers[kind] = (begun, answer)
            return answer

    def _made(self, kind: str) -> tuple[int, str]:
        try:
            return 200, self.html() if kind == "html" else self.json()
        except ConfigError as error:
            code, words = 503, str(error)
        except Exception as error:  # whatever it is: the next request may find the directory in order
            code, words = 500, f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
            if words != self.told:
                self.told = words
                print(printable(f"error: {words}"), file=sys.stderr, flush=True)
        if kind == "json":
            return code, json.dumps({"error": words})
        section = Section("now", "Now", paragraph(f"{words} (tried again every {REFRESH_S} s)"))
        return code, refreshing(page(self.directory.resolve().name, "cannot be shown", [section], ""), REFRESH_S)

    def html(self) -> str:
        """The page as it is now."""
        found = snapshot(self.directory)
        if time.monotonic() - self.drawn > FIGURES_S:
            self.figures, self.drawn = draw(found), time.monotonic()
        sections = [Section("trials", "Trials", _trials(found))] if found.trials else []
        sections.append(Section("workers", "Workers and devices", _workers(found)))
        sections += [Section(name, title, self.figures[name]) for name, title in TITLES.items() if name in self.figures]
        failed = [t for t in found.trials if t.state in ("failed", "stopped")]
        if failed:
            rows = [
                {"trial": t.trial, "state": t.state, "reason": element("span", t.reason, class_="long")} for t in failed
            ]
            body = join([table(rows, ("trial", "state", "reason")), paragraph(RETRY, class_="note")])
            sections.append(Section("failures", "Failures", body))
        sections = [Section("now", "Now", _tiles(found)), *sections]
        return refreshing(page(found.name, _subtitle(found), sections, ""), REFRESH_S)

    def json(self) -> str:
        """The same as JSON."""
        return json.dumps(_finite(asdict(snapshot(self.directory))), default=str)


TITLES = {"training": "Loss curves", "isoflops": "IsoFLOP curves"}


class _Server(ThreadingHTTPServer):
    """A thread for each of at most MOST_READERS connections, each of which has READ_S seconds to say what it wants."""

    daemon_threads = True
    request_queue_size = 1024  # connections that wait to be taken; the system may allow fewer

    def __init__(self, address: tuple[str, int], handler: Callable[..., BaseHTTPRequestHandler]):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.reading: dict[Any, float] = {}  # connection -> when it began
        self.free = threading.Semaphore(MOST_READERS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start its thread, when one is free."""
        self.free.acquire()
        self.reading[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, and let another one in."""
        self.reading.pop(request, None)
        super().shutdown_request(request)
        self.free.release()

    def service_actions(self) -> None:
        """Cut off who takes too long to ask: bytes that trickle would hold a connection for ever."""
        for request, began in list(self.reading.items()):
            if time.monotonic() - began > READ_S:
                self.reading.pop(request, None)
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line for an error of ours; nothing for a reader who left, or never asked."""
        error = sys.exception()
        if not isinstance(error, OSError):
            line = f"error: {type(error).__name__}: {' '.join(str(error).split())}"
            print(printable(line), file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_S
    server_version, sys_version = "isoflop", ""

    def __init__(self, served: Page, *arguments: object):
        self.served = served
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """The page, its JSON, or nothing."""
        self.served.server.reading.pop(self.connection, None)
        try:
            where = urlsplit(self.path)
        except ValueError:
            return self._answer(400, "text/plain", "no address\n")
        kinds = {"/": ("text/html", "html"), "/status.json": ("application/json", "json")}
        if not self.served.admits(self.headers.get("Host", ""), where.query):
            return self._answer(403, "text/plain", "needs the token that launch.status printed\n")
        if where.path not in kinds:
            return self._answer(404, "text/plain", "there is only /\n")
        form, kind = kinds[where.path]
        code, content = self.served.answer(kind)
        return self._answer(code, form, content)

    def _answer(self, code: int, kind: str, content: str) -> None:
        body = content.encode(errors="replace")
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: requests would fill the terminal, and carry the token."""


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# -- parts of the page ----------------------------------------------------------------------------------------------


def _subtitle(found: Snapshot) -> str:
    return f"{found.kind} in {found.path.resolve()}, at {time.strftime('%H:%M:%S')}; refreshed every {REFRESH_S} s"


def _tiles(found: Snapshot) -> Html:
    share = found.done / found.work if found.work else 0.0
    left = "0 s" if found.finished else numbers.duration(found.left_s) if found.rate > 0 else "–"
    tiles = {"done": f"{share:.1%}", f"{found.unit}/s": numbers.count(found.rate) if found.rate else "–", "left": left}
    tiles |= {f"trials {state}": str(count) for state, count in found.counts.items() if count}
    tiles["workers at work"] = str(sum(worker.state == "working" for worker in found.workers))
    boxes = [element("div", element("b", value), element("span", name), class_="tile") for name, value in tiles.items()]
    return element("div", *boxes, class_="tiles")


def _trials(found: Snapshot) -> Html:
    kinds = {"done": "good", "failed": "bad", "stopped": "bad"}
    rows: list[dict[str, object]] = []
    for t in sorted(found.trials, key=lambda t: (*t.place, -t.flops)):
        rows.append({
            "trial": element("code", t.trial), "state": badge(t.state, kinds.get(t.state, "plain")),
            "parameters": numbers.count(t.params), "FLOPs": numbers.scientific(t.flops),
            "step": f"{t.step:,} / {t.steps:,}", "loss": f"{t.loss:.4f}" if math.isfinite(t.loss) else "",
            "time": numbers.duration(t.wall_s) if t.wall_s else "", **t.varied,
        })  # fmt: skip
    return table(rows, ("trial", "state"))


def _workers(found: Snapshot) -> Html:
    if not found.workers:
        return paragraph("No worker has started yet.", class_="absent")
    kinds = {"working": "good", "gone": "bad", "silent": "bad"}
    rows: list[dict[str, object]] = []
    for w in sorted(found.workers, key=lambda w: w.state in ("ended", "gone")):
        rows.append({
            "worker": w.worker, "state": badge(w.state, kinds.get(w.state, "plain")), "host": w.host,
            "process": w.process, "device": w.device, "tokens/s": f"{w.speed:,.0f}" if w.speed else "",
            "of peak": f"{w.use:.0%}" if math.isfinite(w.use) else "", "works on": " ".join(w.holds),
        })  # fmt: skip
    return table(rows, ("worker", "state", "host", "device", "works on"))


def draw(found: Snapshot) -> dict[str, Html]:
    """Loss curves and isoFLOP curves of what there is so far; what cannot be drawn yet is left out."""
    if not found.trials:
        return {}
    shown = sorted(found.trials, key=lambda t: t.state == "waiting")[:MOST_CURVES]
    metrics = {t.trial: m for t in shown if (m := _metrics(found.path, t.trial)) is not None}
    rows = [asdict(t) | {"status": "failed" if t.state in ("failed", "stopped") else "done",
                         "loss": t.loss if t.state == "done" else math.nan} for t in found.trials]  # fmt: skip
    runs = pd.DataFrame(rows)
    runs["budget"] = budgets(runs)
    curves: dict[str, tuple[str, Callable[[Figure], object], str]] = {
        "training": ("training loss against compute", lambda f: plots.plot_training(metrics, runs, f.add_subplot()),
                     "One line per trial, coloured by its size; a cross ends a trial that failed or was stopped."),
        "isoflops": ("held-out loss against parameters", lambda f: plots.plot_isoflops(runs, f.add_subplot()),
                     "Finished trials at equal compute, as far as they go."),
    }  # fmt: skip
    made: dict[str, Html] = {}
    for name, (alt, plot, caption) in curves.items():
        try:
            made[name] = picture(Drawing(name, alt, (8.0, 4.2), plot).render(), caption)
        except Exception:  # not enough has finished, or numbers that cannot be drawn; the page goes on without it
            continue
    return made


def _metrics(path: Path, trial: str) -> pd.DataFrame | None:
    names = ("step", "tokens", "flops", "loss")
    found = [row for _, row in read_rows(path / "trials" / trial / "metrics.jsonl")]
    rows = [{name: row[name] for name in names} for row in found if all(row.get(name) is not None for name in names)]
    return pd.DataFrame(rows) if rows else None
