"""HTML that cannot be injected into: every string becomes text unless it is already Html. One page, no script."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scaling.report.figures import Picture


class Html(str):
    """Markup that is safe to insert as it is."""

    __slots__ = ()


VOID = frozenset({"meta", "img", "source", "br"})


def text(child: object) -> Html:
    """A child as markup: Html as it is, anything else escaped."""
    return child if isinstance(child, Html) else Html(html.escape(str(child)))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """<tag attributes>children</tag>, children and attribute values escaped; `class_` gives class, None leaves out."""
    pairs = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    opening = "".join(f' {name}="{html.escape(str(value))}"' for name, value in pairs)
    body = "" if tag in VOID else "".join(map(text, children)) + f"</{tag}>"
    return Html(f"<{tag}{opening}>{body}")


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Parts as one piece of markup."""
    return Html(separator.join(map(text, parts)))


def paragraph(*children: object, class_: str | None = None) -> Html:
    """A paragraph."""
    return element("p", *children, class_=class_)


def table(rows: Sequence[Mapping[str, object]], words: Collection[str], total: bool = False) -> Html:
    """A table that scrolls sideways by itself: one mapping of column to cell per row, all with the same columns.

    Columns in `words` are left-aligned, the others are numbers. total: set the last row off as a sum.
    """

    def cells(tag: str, row: Mapping[str, object]) -> Html:
        return join(element(tag, cell, class_="w" if name in words else None) for name, cell in row.items())

    lines = [element("tr", cells("td", row), class_="total" if total and row is rows[-1] else None) for row in rows]
    head = element("thead", element("tr", cells("th", {name: name for name in rows[0]})))
    return element("div", element("table", head, element("tbody", *lines)), class_="scroll")


def code(content: object) -> Html:
    """Inline code that one click selects."""
    return element("code", content)


def badge(content: object, kind: str) -> Html:
    """A coloured word; kind is "good", "bad" or "plain". The word itself carries the meaning."""
    return element("span", content, class_=f"badge {kind}")


def picture(figure: Picture, caption: object) -> Html:
    """A figure that follows the reader's light or dark setting, with its caption."""

    def source(svg: bytes) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")

    dark = element("source", srcset=source(figure.dark), media="screen and (prefers-color-scheme: dark)")
    light = element("img", src=source(figure.light), alt=figure.alt)
    frame = element("div", element("picture", dark, light), class_="scroll")
    return element("figure", frame, element("figcaption", caption))


@dataclass(frozen=True)
class Section:
    """One part of the report: anchor, title, body."""

    anchor: str
    title: str
    body: Html


def page(title: str, subtitle: object, sections: Sequence[Section], digest: str) -> str:
    """The whole document."""
    links = [element("a", s.title, href=f"#{s.anchor}") for s in sections]
    parts = [element("section", element("h2", s.title), s.body, id=s.anchor) for s in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="inputs-sha256", content=digest),
        element("title", f"{title}: isoflop report"),
        element("style", Html(STYLE)),
    )
    header = element("header", element("h1", title), paragraph(subtitle, class_="subtitle"), element("nav", *links))
    body = element("body", header, element("main", *parts))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def refreshing(text: str, seconds: float) -> str:
    """A page as one that shows itself again every few seconds."""
    refresh = element("meta", http_equiv="refresh", content=f"{seconds:g}")
    text = text.replace("<head>", f"<head>{refresh}", 1)
    return text.replace(": isoflop report</title>", ": isoflop status</title>")


STYLE = """
:root { --paper: #ffffff; --ink: #1c2128; --soft: #59626e; --line: #d8dde4; --tint: #f4f6f8; --link: #0b64a8;
  --good: #00664a; --good-tint: #dff5ec; --bad: #a33a00; --bad-tint: #fdeadf; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #171a20; --ink: #dfe3ea; --soft: #9aa4b2;
  --line: #39404b; --tint: #20242c; --link: #6fb7f0; --good: #4fd6a8; --good-tint: #12362b; --bad: #ff9d66;
  --bad-tint: #40230f; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.22rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { max-width: 46rem; margin: .55rem 0; overflow-wrap: anywhere; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .15rem 1rem; margin-top: .7rem; font-size: .9rem; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
.subtitle, figcaption, .note { color: var(--soft); }
.subtitle { max-width: none; }
.headline { font-size: 1.12rem; }
.absent { border-left: 3px solid var(--line); padding: .3rem .9rem; color: var(--soft); }
.warning { border-left: 3px solid var(--bad); padding: .3rem .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tile { background: var(--tint); border-radius: .5rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.badge { display: inline-block; border-radius: 1rem; padding: .02rem .6rem; font-weight: 600; font-size: .88em;
  background: var(--tint); }
.badge.good { color: var(--good); background: var(--good-tint); }
.badge.bad { color: var(--bad); background: var(--bad-tint); }
figure { margin: 1rem 0; }
figcaption { font-size: .9rem; max-width: 46rem; margin-top: .4rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
figure img { display: block; width: 100%; min-width: 34rem; max-width: 52rem; height: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); border-bottom-width: 2px; }
th.w, td.w { text-align: left; }
.long { white-space: normal; min-width: 14rem; max-width: 32rem; overflow-wrap: anywhere; }
tr.total td { font-weight: 650; border-top: 2px solid var(--line); }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--tint);
  padding: .05rem .3rem; border-radius: .25rem; user-select: all; -webkit-user-select: all; }
pre { background: var(--tint); border-radius: .5rem; padding: .8rem; overflow-x: auto; font-size: .85rem; }
details summary { cursor: pointer; color: var(--link); }
@media (max-width: 40rem) { body { padding: 1rem .8rem 3rem; } h1 { font-size: 1.4rem; } }
@media print { nav { display: none; } section { break-inside: avoid-page; } }
"""
