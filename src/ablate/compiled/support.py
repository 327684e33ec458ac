"""Whether the kernels can do what a configuration asks for. No import of Numba: the parent process looks here."""

from __future__ import annotations

from ablate.compiled.envs import ENVIRONMENTS
from ablate.config import Config


def why_not(config: Config) -> str:
    """What of the configuration has no kernel, in words; empty if everything has."""
    if config.algo.name != "a3c":
        return f"algo={config.algo.name} has no kernel"
    if config.model.name != "mlp":
        return f"model={config.model.name} has no kernel"
    if config.device != "cpu":
        return f"device={config.device}: kernels run on the CPU"
    module = ENVIRONMENTS.get(config.env.id)
    if module is None:
        return f"{config.env.id} has no kernel (there are: {', '.join(sorted(ENVIRONMENTS))})"
    unknown = [key for key in config.env.kwargs if key not in module.Parameters._fields]
    return f"{config.env.id} has no kernel with {', '.join(unknown)}" if unknown else ""
