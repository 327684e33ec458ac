"""The fastest precision of a device. Torch is imported for GPUs only, because the parent process uses this module."""

from __future__ import annotations

from ablate.parallel.machine import cpu_flags


def resolve_precision(precision: str, device: str = "cpu") -> str:
    """`auto` -> bf16 if the device multiplies bfloat16 in hardware, else float32. Anything else stays as it is."""
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & cpu_flags() else "float32"
