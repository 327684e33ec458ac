"""The fastest precision of a device. Torch is imported for GPUs only, because the parent process uses this module."""

from __future__ import annotations

from dataclasses import replace

from ablate.config.choices import Precision
from ablate.config.derived import device_of
from ablate.config.schema import Config, ConfigError
from ablate.parallel.machine import cpu_flags


def resolve_precision(precision: str, device: str = "cpu") -> str:
    """`auto` -> bf16 if the device multiplies bfloat16 in hardware, else float32. Anything else stays as it is."""
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & cpu_flags() else "float32"


def _fastest(config: Config) -> str:
    """The fastest precision for the run on this machine."""
    return resolve_precision("auto", device_of(config, 0)) if config.model.takes_images else "float32"


def in_software(config: Config) -> bool:
    """Whether this machine would compute the run's bfloat16 in software, many times slower than float32."""
    return config.precision == Precision.bf16 and _fastest(config) != "bf16"


def with_precision(config: Config, here: bool, new: bool) -> Config:
    """The configuration with its precision, as far as this machine can say: here=false, it runs elsewhere.

    new: the precision is not that of a run that is resumed. Raises ConfigError for a new bf16 that this machine would
    compute in software."""
    if not here:
        return config
    if new and in_software(config):
        raise ConfigError("precision=bf16: this machine would compute it in software, many times slower; use float32")
    return replace(config, precision=Precision(_fastest(config))) if config.precision == Precision.auto else config
