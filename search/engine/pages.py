"""Pages: who holds which part of the cache, where it lies, and what moves to the host when the device is full.

A page is a logical thing with a place on the device, a copy on the host, or both. Sequences that share tokens hold the
same pages; a page that somebody else holds too is never written. Full pages of prompts are found again by their tokens
(a chain: a page's key is its own tokens and the page before it), also after everybody has let go of them, until the
place is needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

PageKey = tuple[int, tuple[int, ...]]  # (identity of the page before, or -1; tokens)


class OutOfPages(Exception):
    """Every page on the device is in use at this moment; the caller waits until one is released."""


@dataclass(eq=False)
class Page:
    """`page_size` tokens of keys and values in all layers.

    place: where it lies on the device, or None; host: its copy there, or None; holders: sequences that have it;
    pins: uses that need it on the device now.
    """

    identity: int
    place: int | None
    host: Any = None
    holders: int = 1
    pins: int = 0
    key: PageKey | None = None


@dataclass
class PagePool:
    """The places on the device and the pages in them.

    read(places) -> one host copy per place; write(places, copies) puts them back.
    """

    count: int
    page_size: int
    read: Callable[[list[int]], list[Any]]
    write: Callable[[list[int], list[Any]], None]
    swapped_out: int = 0
    swapped_in: int = 0
    reused_tokens: int = 0
    _free: list[int] = field(init=False)
    _idle: OrderedDict[int, Page] = field(default_factory=OrderedDict)  # on the device, not pinned; oldest first
    _known: dict[PageKey, Page] = field(default_factory=dict)
    _made: int = 0

    def __post_init__(self) -> None:
        self._free = list(range(self.count - 1, -1, -1))

    @property
    def available(self) -> int:
        """Places that could be had at once: free ones and those of pages that nobody needs there now."""
        return len(self._free) + len(self._idle)

    def allocate(self, n: int) -> list[Page]:
        """`n` new pages on the device, held and pinned once; OutOfPages when so many are pinned that it cannot be."""
        places = self._places(n)
        pages = []
        for place in places:
            pages.append(Page(self._made, place, pins=1))
            self._made += 1
        return pages

    def hold(self, pages: Sequence[Page]) -> None:
        """One more sequence has these pages."""
        for page in pages:
            page.holders += 1

    def release(self, pages: Sequence[Page]) -> None:
        """One sequence lets go; a page that nobody holds stays findable while its place is not needed."""
        for page in pages:
            page.holders -= 1
            if page.holders == 0 and page.pins == 0 and (page.key is None or page.place is None):
                self._forget(page)

    def pin(self, pages: Sequence[Page]) -> None:
        """Bring the pages to the device and keep them there; OutOfPages, and nothing changed, when there is no room."""
        away = [page for page in dict.fromkeys(pages) if page.place is None]
        for page in pages:
            page.pins += 1
            self._idle.pop(page.identity, None)
        try:
            places = self._places(len(away))
        except OutOfPages:
            self.unpin(pages)
            raise
        if away:
            self.write(places, [page.host for page in away])
            self.swapped_in += len(away)
        for page, place in zip(away, places, strict=True):
            page.place = place

    def unpin(self, pages: Sequence[Page]) -> None:
        """The pages may leave the device again."""
        for page in pages:
            page.pins -= 1
            if page.pins == 0 and page.place is not None:
                self._idle[page.identity] = page
                if page.holders == 0 and page.key is None:
                    self._forget(page)

    def written(self, page: Page) -> None:
        """The page's content on the device changed: a copy on the host is stale."""
        page.host = None

    def find(self, tokens: Sequence[int]) -> list[Page]:
        """The known full pages at the head of `tokens`, in order; held once more by the caller."""
        found: list[Page] = []
        before = -1
        for start in range(0, len(tokens) - self.page_size + 1, self.page_size):
            page = self._known.get((before, tuple(tokens[start : start + self.page_size])))
            if page is None:
                break
            found.append(page)
            before = page.identity
        self.hold(found)
        self.reused_tokens += len(found) * self.page_size
        return found

    def publish(self, pages: Sequence[Page], tokens: Sequence[int]) -> None:
        """Make the full pages of a prompt findable; `pages` are its pages in order, all of them computed."""
        before = -1
        for page, start in zip(pages, range(0, len(tokens) - self.page_size + 1, self.page_size)):
            key = (before, tuple(tokens[start : start + self.page_size]))
            known = self._known.setdefault(key, page)
            if known is page:
                page.key = key
            before = known.identity

    def places(self, pages: Sequence[Page]) -> tuple[int, ...]:
        """Where pinned pages lie."""
        places = tuple(page.place for page in pages if page.place is not None)
        assert len(places) == len(pages), "only pages on the device have a place"
        return places

    def _places(self, n: int) -> list[int]:
        """`n` places on the device: free ones, then those of forgotten prompts, then of pages that move to the host."""
        if n > self.available:
            raise OutOfPages(f"{n} pages wanted, {self.available} of {self.count} available")
        short = n - len(self._free)
        if short > 0:
            idle = list(self._idle.values())
            gone = [page for page in idle if page.holders == 0][:short]
            for page in reversed(gone):  # later pages of a chain first: the ones before are useful without them
                self._forget(page)
            short = n - len(self._free)
            if short > 0:
                self._swap_out([page for page in idle if page.holders > 0][:short])
        return [self._free.pop() for _ in range(n)]

    def _swap_out(self, pages: list[Page]) -> None:
        stale = [page for page in pages if page.host is None]
        for page, copy in zip(stale, self.read(list(self.places(stale))) if stale else []):
            page.host = copy
        self.swapped_out += len(stale)
        for page in pages:
            self._free.append(page.place)  # type: ignore[arg-type]
            self._idle.pop(page.identity)
            page.place = None

    def _forget(self, page: Page) -> None:
        self._idle.pop(page.identity, None)
        if page.place is not None:
            self._free.append(page.place)
            page.place = None
        page.host = None
        if page.key is not None and self._known.get(page.key) is page:
            del self._known[page.key]
        page.key = None
