"""Row selections written as text: `flops > 1e20 and params <= 4e8`; parsed, never evaluated as code.

expression = term ("or" term)*        term = factor ("and" factor)*
factor     = "not" factor | "(" expression ")" | column [OP value]      OP = > >= < <= == !=
value      = a number (1e20, 20, -3.5), a quoted string, true or false
column     = a name, or any name in quotes ("eval/loss" > 2); alone it must hold true and false
"""

from __future__ import annotations

import operator
import re

import numpy as np
import pandas as pd

from models.errors import ConfigError, nearest

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<string>'[^']*'|\"[^\"]*\")"
    r"|(?P<op>>=|<=|==|!=|>|<|=)|(?P<paren>[()])|(?P<name>[A-Za-z_][\w.]*))"
)
_COMPARE = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}
_FIX = "write it as in: flops > 1e20 and params <= 4e8"


def select(table: pd.DataFrame, where: str, field: str = "where") -> np.ndarray:
    """Boolean mask [n] of the rows of `table` that satisfy `where`; at least one row does, or ConfigError."""
    mask = _Parser(table, where, field).parse()
    if not mask.any():
        raise ConfigError(field, f"{where!r} matches none of the {len(table)} rows", _ranges(table, where))
    return mask


def _ranges(table: pd.DataFrame, where: str) -> str:
    names = [
        n
        for n in re.findall(r"[A-Za-z_][\w.]*", where)
        if n in table.columns and pd.api.types.is_numeric_dtype(table[n])
    ]
    ranges = [f"{n} goes from {table[n].min():.4g} to {table[n].max():.4g}" for n in dict.fromkeys(names)]
    return ", ".join(ranges) or "choose a condition that some rows meet"


class _Parser:
    def __init__(self, table: pd.DataFrame, text: str, field: str):
        self.table, self.text, self.field = table, text, field
        self.tokens, self.position = self._tokenize(text), 0

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(self.field, f"{self.text!r}: {problem}", _FIX)

    def _tokenize(self, text: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if not match:
                raise self._error(f"cannot read {text[at:].strip()[:20]!r}")
            kind = str(match.lastgroup)
            tokens.append((kind, match.group(kind)))
            at = match.end()
        return tokens

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self.position += 1
        return token

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "the end")

    def parse(self) -> np.ndarray:
        mask = self._either()
        if self._peek()[0] != "end":
            raise self._error(f"unexpected {self._peek()[1]!r}")
        return mask

    def _either(self) -> np.ndarray:
        mask = self._both()
        while self._peek() == ("name", "or"):
            self._next()
            mask = mask | self._both()
        return mask

    def _both(self) -> np.ndarray:
        mask = self._factor()
        while self._peek() == ("name", "and"):
            self._next()
            mask = mask & self._factor()
        return mask

    def _factor(self) -> np.ndarray:
        kind, text = self._next()
        if (kind, text) == ("name", "not"):
            return ~self._factor()
        if (kind, text) == ("paren", "("):
            mask = self._either()
            if self._next() != ("paren", ")"):
                raise self._error("a parenthesis is not closed")
            return mask
        if kind not in ("name", "string"):
            raise self._error(f"expected a column, found {text!r}")
        return self._comparison(text[1:-1] if kind == "string" else text)

    def _comparison(self, name: str) -> np.ndarray:
        if name not in self.table.columns:
            near = nearest(name, map(str, self.table.columns))
            raise ConfigError(
                self.field,
                f"{self.text!r}: no column {name!r}",
                f"did you mean {near!r}?" if near else f"use one of {', '.join(map(str, self.table.columns[:12]))}",
            )
        if self._peek()[0] != "op" and (truth := self._truth(name)) is not None:
            return truth
        kind, text = self._next()
        if kind != "op":
            raise self._error(f"expected a comparison after {name!r}, found {text!r}")
        compare = _COMPARE[text]
        kind, text = self._next()
        column = self.table[name]
        if kind == "number":
            # integers beyond 64 bits (a product of counts) make a column of Python objects
            numeric = column if pd.api.types.is_numeric_dtype(column) else pd.to_numeric(column, errors="coerce")
            if numeric.isna().all():
                raise self._error(f"{name!r} is text, {text} is a number")
            return compare(numeric.to_numpy(float, na_value=np.nan), float(text))
        if kind == "string":
            if compare not in (operator.eq, operator.ne):
                raise self._error("text is compared with == or !=")
            return compare(column.astype(str).to_numpy(object), text[1:-1]).astype(bool)
        if kind == "name" and text.lower() in ("true", "false"):
            truth = self._truth(name)
            if truth is None or compare not in (operator.eq, operator.ne):
                raise self._error(f"{name!r} does not hold true and false, or is not compared with == or !=")
            return compare(truth, text.lower() == "true")
        raise self._error(f"expected a number, a quoted text, true or false, found {text!r}")

    def _truth(self, name: str) -> np.ndarray | None:
        """A column of true and false [n], written in any way; None when it holds anything else. Absent is false."""
        words = self.table[name].astype("string").str.strip().str.lower().fillna("false")
        if not words.isin(["true", "false", "1", "0", "yes", "no"]).all():
            return None
        return words.isin(["true", "1", "yes"]).to_numpy(bool)
