"""A study from Python: two discount factors on CartPole, five seeds each, and a verdict.

python examples/from_python/study.py            # about half a minute; call it again to continue after Ctrl-C"""

import sys

import ablate

study = ablate.study(
    *sys.argv[1:],  # more overrides: max_episodes=20
    sweep={
        "name": "discount",
        "question": "Does the discount factor matter on CartPole?",
        "base": [
            "env=cartpole",
            "schedule=interleaved",
            "workers=2",
            "max_episodes=100",
            "evaluation.every_steps=1000",
        ],
        "arms": {
            "far": {"label": "γ = 0.99", "overrides": ["algo.gamma=0.99"]},
            "near": {"label": "γ = 0.5", "overrides": ["algo.gamma=0.5"]},
        },
        "seeds": "0-4",
        "metric": "training_end",
        "claims": [{"id": "D1", "words": "A far view is better", "metric": "training_end", "inequality": "far > near"}],
    },
)
print(study.verdicts[["id", "verdict", "effect", "low", "high"]].to_string(index=False))
print(study.summary[["metric", "label", "n", "mean", "mean_low", "mean_high"]].to_string(index=False))
