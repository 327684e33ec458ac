"""Convolutions as data: their sizes, and the check that an image survives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ablate.config.schema import ConfigError, ConvolutionConfig

ImageSize = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Convolution:
    """One convolution, followed by the activation, and by 2 × 2 max-pooling if `pool`."""

    channels: int
    kernel: int
    stride: int
    padding: int
    pool: bool

    def convolved(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the convolution, before pooling."""
        height, width = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (height, width))
        return height, width

    def __str__(self) -> str:
        pooled = ", pooled" if self.pool else ""
        return f"kernel {self.kernel}, stride {self.stride}, padding {self.padding}{pooled}"


def convolutions_of(configs: Sequence[ConvolutionConfig]) -> tuple[Convolution, ...]:
    return tuple(Convolution(c.channels, c.kernel, c.stride, c.padding, c.pool) for c in configs)


def sizes_of(input_shape: ImageSize, convolutions: Sequence[Convolution]) -> tuple[ImageSize, ...]:
    """The size of the input, and the size after each convolution with its pooling."""
    sizes = [input_shape]
    for layer in convolutions:
        height, width = layer.convolved(*sizes[-1][1:])
        sizes.append((layer.channels, height // 2, width // 2) if layer.pool else (layer.channels, height, width))
    return tuple(sizes)


def refuse_vanishing_images(input_shape: ImageSize, convolutions: Sequence[Convolution]) -> None:
    """Raise ConfigError if a convolution leaves no pixel of its image."""
    sizes = sizes_of(input_shape, convolutions)
    for i, (_, height, width) in enumerate(sizes[1:]):
        if min(height, width) < 1:
            raise ConfigError(
                f"model.convolutions: nothing is left of {list(sizes[i][1:])} pixels after convolution {i} "
                f"({convolutions[i]}); use fewer layers, smaller kernels and strides, or more padding"
            )
