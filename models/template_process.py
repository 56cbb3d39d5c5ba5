"""Render chat templates, a line of JSON for each, in a process of its own. Runs alone, as a script, with jinja2 only.

A template is foreign code: jinja2's sandbox keeps it from everything but text, and this process's limits keep it from
taking the machine: a loop ends at its seconds of computing, a product of texts at the memory.
"""

from __future__ import annotations

import datetime
import functools
import json
import resource
import sys
import time
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what training scores; rendering only passes it on."""

    tags = {"generation"}  # noqa: RUF012  # the library's own form

    def parse(self, parser: Any) -> Any:
        """The statements between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def raise_exception(message: str) -> None:
    """What a template calls to refuse its messages."""
    raise jinja2.TemplateError(message)


def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """The filter that templates expect, without HTML's escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def strftime_now(format: str) -> str:
    """The present time, as templates ask for it."""
    return datetime.datetime.now().strftime(format)


@functools.lru_cache(maxsize=8)
def compiled(source: str) -> jinja2.Template:
    """A template, compiled once."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(source)


def answer(order: dict[str, Any], most: int) -> dict[str, str]:
    """{"text": ...}, or what kept the template from giving one."""
    try:
        template = compiled(order["template"])
    except (jinja2.TemplateError, RecursionError, MemoryError) as error:
        return {"broken": f"{type(error).__name__}: {error}"[:200]}
    try:
        pieces, length = [], 0
        for piece in template.generate(**order["values"]):
            length += len(piece)
            if length > most:
                return {"refused": f"it writes more than {most:,} characters"}
            pieces.append(piece)
        return {"text": "".join(pieces)}
    except MemoryError:
        return {"refused": "it takes too much memory"}
    except Exception as error:  # whatever a template may raise, these are its messages
        return {"refused": str(error)[:200] or type(error).__name__}


def main(memory: int, seconds: int, most: int) -> None:
    """Answer every line of the input until it ends. memory: bytes; seconds: of computing for each; most: characters."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    for line in sys.stdin:
        used = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, hard))
        sys.stdout.write(json.dumps(answer(json.loads(line), most)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
