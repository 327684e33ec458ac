"""Published scores next to learning curves: points from conf/published_scores.yaml, with their source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from omegaconf import OmegaConf

from ablate.config.derived import game_of
from ablate.paths import CONF

FILE = CONF / "published_scores.yaml"
REACH = 1.1  # points are drawn up to this multiple of the curve's last step
MARKERS = "*Xv^<>Pdhp"


@dataclass(frozen=True)
class PublishedScore:
    """What a program scored in a game. points: (steps, score). The protocol is the usual one, except as given."""

    algo: str
    program: str
    source: str
    points: tuple[tuple[int, float], ...]
    sticky_actions: float = 0.0
    human_starts: bool = False
    best_of_evaluations: bool = False

    def differences(self, env: Mapping[str, Any]) -> list[str]:
        """How its protocol differs from that of a run with this group `env`."""
        listed = []
        if self.sticky_actions != env.get("sticky_actions", 0.0):
            listed.append(f"sticky actions {self.sticky_actions:g}" if self.sticky_actions else "no sticky actions")
        if self.human_starts:
            listed.append("human starts")
        if self.best_of_evaluations:
            listed.append("best of its evaluations")
        return listed

    def label(self, env: Mapping[str, Any]) -> str:
        """The words of the legend."""
        return f"{self.program} ({'; '.join([self.source, *self.differences(env)])})"


@cache
def _scores() -> dict[str, list[PublishedScore]]:
    if not FILE.is_file():
        return {}
    listed: Any = OmegaConf.to_container(OmegaConf.load(FILE))
    return {
        game: [PublishedScore(**{**entry, "points": tuple(map(tuple, entry["points"]))}) for entry in entries]
        for game, entries in listed.items()
    }


def published_scores(config: Mapping[str, Any]) -> list[PublishedScore]:
    """The published scores in the game of a run's configuration, by its algorithm."""
    game = game_of(str(config.get("env", {}).get("id")))
    algo = config.get("algo", {}).get("name")
    return [score for score in _scores().get(game or "", []) if score.algo == algo]


def draw_published(ax: Axes, config: Mapping[str, Any]) -> list[float]:
    """Mark the published scores on a panel of returns against steps, as far as its curves reach. Returns the scores."""
    end, drawn = REACH * ax.dataLim.xmax, list[float]()
    for score, marker in zip(published_scores(config), MARKERS, strict=False):
        if points := [(steps, value) for steps, value in score.points if steps <= end]:
            drawn += [value for _, value in points]
            ax.plot(
                *zip(*points, strict=True), linestyle="none", marker=marker, markersize=9, color="0.25",
                markeredgecolor="white", zorder=5, clip_on=False, label=score.label(config["env"]),
            )  # fmt: skip
    return drawn
