"""The fastest precision of a device. Torch is imported for GPUs only, because the parent process uses this module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ablate.config.choices import Backend, Precision
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
    return "bf16" if cpu_multiplies_bf16() else "float32"


def cpu_multiplies_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def _fastest(config: Config) -> str:
    """The fastest precision for the run on this machine."""
    return resolve_precision("auto", device_of(config, 0)) if config.model.takes_images else "float32"


def _lacks_bf16(config: Config) -> bool:
    return config.precision == Precision.bf16 and _fastest(config) != "bf16"


def _in_software(config: Config) -> bool:
    """Whether torch would compute the run's bfloat16 in software. By hand, the CPU multiplies it as float32."""
    by_hand = config.backend == Backend.manual and device_of(config, 0) == "cpu"
    return _lacks_bf16(config) and not by_hand


def precision_notes(config: Config) -> Iterator[str]:
    """That float32 would be faster on this machine; nothing if it would not."""
    if _in_software(config):
        yield "precision=bf16 is computed in software here: resume with precision=float32, many times faster"
    elif _lacks_bf16(config):
        yield (
            "precision=bf16 is multiplied in float32 here, with the same rounding as by a processor with bfloat16; "
            "precision=float32 is a little faster"
        )


def with_precision(config: Config, here: bool, new: bool) -> Config:
    """The configuration with its precision, as far as this machine can say: here=false, it runs elsewhere.

    new: the precision is not that of a run that is resumed. Raises ConfigError for a new bf16 that this machine would
    compute in software."""
    if not here:
        return config
    if new and _in_software(config):
        other = " or backend=manual" if device_of(config, 0) == "cpu" else ""
        raise ConfigError(
            f"precision=bf16: this machine would compute it in software, many times slower; use float32{other}"
        )
    return replace(config, precision=Precision(_fastest(config))) if config.precision == Precision.auto else config
