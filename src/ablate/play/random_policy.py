"""What a policy scores that knows nothing: actions drawn uniformly from the action space.

`python -m ablate.play.random_policy <process id of its parent>` reads a request from its standard input and prints the
scores as JSON in its last line. A sweep starts it as a process of its own: an environment may crash or hang."""

from __future__ import annotations

import json
import sys

from ablate.config.derived import evaluation_horizon
from ablate.config.plugins import import_plugins
from ablate.config.schema import Config
from ablate.config.serial import from_dict
from ablate.parallel.machine import die_with_parent
from ablate.play.episodes import make_envs
from ablate.seeding import Role, draw_seed, generator
from ablate.types import Score


def random_scores(config: Config, episodes: int) -> list[Score]:
    """Play whole episodes, as the run's evaluations do, with random actions."""
    (env,) = make_envs(config, evaluation_horizon(config), 1)
    rng = generator(config.seed, Role.random_policy)
    env.action_space.seed(draw_seed(rng))
    scores = []
    for _ in range(episodes):
        env.reset(seed=draw_seed(rng))
        episodic_return, length, over = 0.0, 0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            episodic_return, length, over = episodic_return + float(reward), length + 1, terminated or truncated
        scores.append(Score(episodic_return, length))
    env.close()
    return scores


def main() -> None:
    request = json.load(sys.stdin)
    import_plugins(request["modules"])
    print()
    print(json.dumps(random_scores(from_dict(request["config"]), request["episodes"])))


if __name__ == "__main__":
    die_with_parent(int(sys.argv[-1]))
    main()
