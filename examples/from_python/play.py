"""Play a saved policy in plain gymnasium, here with another task: a pendulum under another gravity, if it is one.

python examples/from_python/play.py outputs/runs/a3c-pendulum/<run>"""

import sys

import gymnasium
import numpy as np

import ablate

run = ablate.Run(sys.argv[1])
policy = ablate.Policy.load(run.folder)  # or <run>/checkpoints/best.safetensors
env_id = run.config["env"]["id"]
env = gymnasium.make(env_id, **({"g": 5.0} if env_id == "Pendulum-v1" else {}))

returns = []
for seed in range(5):
    observation, total, ended = env.reset(seed=seed)[0], 0.0, False
    policy.reset()
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
        total, ended = total + float(reward), terminated or truncated
    returns.append(total)
print(f"{env_id}: mean return {np.mean(returns):.2f} over {len(returns)} episodes")
