"""The inequality of a claim, `a > b` or `(a - b) > (c - d)`: a relation between two sums of arms' means."""

from __future__ import annotations

import re
from typing import NamedTuple

from ablate.config.schema import ConfigError

RELATIONS = ("<", ">", "~")
FORM = "write <arm> < <arm>, with <, > or ~ (equal), or (a - b) > (c - d), with spaces"
DEEPEST = 10  # brackets in brackets; more is a typing error


class Inequality(NamedTuple):
    """What a claim says about θ = Σ weight · mean(arm)."""

    relation: str  # of θ to 0: <, > or ~
    weights: dict[str, float]  # by arm: those of the first side minus those of the second; their sum is 0

    @property
    def arms(self) -> list[str]:
        return list(self.weights)


def parse(text: str) -> Inequality:
    """Parse an inequality. Names and signs are separated by spaces, because a name may contain a dash.

    Raises ConfigError if it is not of the form `FORM`, if nothing is compared, or if the weights do not add up to 0."""
    where = f"inequality={text}"
    tokens = re.findall(r"[()]|[^\s()]+", text)
    if (opened := tokens.count("(")) != (closed := tokens.count(")")):
        raise ConfigError(f"{where}: it has {opened} opening and {closed} closing brackets; {FORM}")
    places = [place for place, token in enumerate(tokens) if token in RELATIONS]
    if len(places) != 1:
        raise ConfigError(f"{where}: {FORM}")
    try:
        left, right = (_Side(part).weights() for part in (tokens[: places[0]], tokens[places[0] + 1 :]))
    except ValueError as error:
        raise ConfigError(f"{where}: {FORM}") from error
    weights = {arm: left.get(arm, 0.0) - right.get(arm, 0.0) for arm in {**left, **right}}
    if all(abs(weight) < 1e-9 for weight in weights.values()):
        raise ConfigError(f"{where}: an arm cannot be compared with itself")
    if abs(total := sum(weights.values())) > 1e-9:
        raise ConfigError(
            f"{where}: the weights of its arms add up to {total:g}, not to 0; as many arms must be added as subtracted"
        )
    return Inequality(tokens[places[0]], {arm: weight for arm, weight in weights.items() if abs(weight) > 1e-9})


class _Side:
    """sum = product (± product)*, product = atom (/ number)?, atom = name | ( sum )"""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._depth = [*tokens, ""], 0

    def weights(self) -> dict[str, float]:
        """The weight of each arm. Raises ValueError if this is no such sum."""
        weights = self._sum()
        self._take("")
        return weights

    def _take(self, expected: str | None = None) -> str:
        token = self._tokens.pop(0)
        if expected is not None and token != expected:
            raise ValueError(token)
        return token

    def _sum(self) -> dict[str, float]:
        total = self._product()
        while self._tokens[0] in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            for arm, weight in self._product().items():
                total[arm] = total.get(arm, 0.0) + sign * weight
        return total

    def _product(self) -> dict[str, float]:
        atom = self._atom()
        if self._tokens[0] != "/":
            return atom
        self._take()
        if not (number := self._take()).isdecimal() or int(number) == 0:
            raise ValueError(number)
        return {arm: weight / int(number) for arm, weight in atom.items()}

    def _atom(self) -> dict[str, float]:
        token = self._take()
        if token == "(" and self._depth < DEEPEST:
            self._depth += 1
            inside = self._sum()
            self._take(")")
            self._depth -= 1
            return inside
        if not re.fullmatch(r"[\w.-]+", token) or token in ("-", "."):
            raise ValueError(token)
        return {token: 1.0}
