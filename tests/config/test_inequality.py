"""Inequalities of claims: the weight of each arm, and what is refused in one line."""

import pytest

from ablate.config.inequality import Inequality, parse
from ablate.config.schema import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < b", Inequality("<", {"a": 1, "b": -1})),
        ("ep500-cut ~ ep4000.5_cut", Inequality("~", {"ep500-cut": 1, "ep4000.5_cut": -1})),
        ("(a - b) > (c - d)", Inequality(">", {"a": 1, "b": -1, "c": -1, "d": 1})),
        ("a - b > c - d", Inequality(">", {"a": 1, "b": -1, "c": -1, "d": 1})),
        ("(a + b) / 2 > c", Inequality(">", {"a": 0.5, "b": 0.5, "c": -1})),
        ("((a + b) - (c + d)) / 2 < (a - c)", Inequality("<", {"a": -0.5, "b": 0.5, "c": 0.5, "d": -0.5})),
        ("(a-1 - a-2) > (a-2 - a-3)", Inequality(">", {"a-1": 1, "a-2": -2, "a-3": 1})),
        ("(a + b) > (b + c)", Inequality(">", {"a": 1, "c": -1})),
    ],
)
def test_an_inequality_gives_each_arm_its_weight(text: str, expected: Inequality) -> None:
    relation, weights = parse(text)
    assert relation == expected.relation
    assert weights == pytest.approx(expected.weights)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(a - b > (c - d)", "it has 2 opening and 1 closing brackets"),
        ("(a - b)) > (c - d)", "it has 2 opening and 3 closing brackets"),
        (")a - b( > (c - d)", "write <arm> < <arm>"),
        ("a", "write <arm> < <arm>"),
        ("a<b", "write <arm> < <arm>"),
        ("a < b < c", "write <arm> < <arm>"),
        ("a >", "write <arm> < <arm>"),
        ("a b > c", "write <arm> < <arm>"),
        ("a / 0 > b", "write <arm> < <arm>"),
        ("a * 2 > b", "write <arm> < <arm>"),
        ("- a > b", "write <arm> < <arm>"),
        ("(" * 50 + "a" + ")" * 50 + " > b", "write <arm> < <arm>"),
        ("a > a", "an arm cannot be compared with itself"),
        ("(a - b) > (a - b)", "an arm cannot be compared with itself"),
        ("(a - b) > c", "the weights of its arms add up to -1, not to 0"),
        ("(a + b) > (c + d) / 2", "the weights of its arms add up to 1, not to 0"),
    ],
)
def test_what_is_no_contrast_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse(text)
    assert str(refusal.value).startswith(f"inequality={text}: ")
    assert reason in str(refusal.value)
