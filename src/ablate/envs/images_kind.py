"""Environments of gymnasium's registry whose observations are images; see `kind.EnvKind`.

The parent process imports this module. So OpenCV is imported only in the functions that need it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ablate.config.schema import ConfigError, EnvConfig, ImagesConfig
from ablate.envs.gymnasium_kind import GymnasiumKind, is_image
from ablate.envs.kind import RawInterface
from ablate.types import EnvSpec


class ImagesKind(GymnasiumKind):
    """Images (height, width, channels) of bytes become grey and as large as model.input. The last ones are stacked."""

    def fitted(self, env: EnvConfig, image_shape: tuple[int, int, int] | None) -> EnvConfig:
        assert isinstance(env, ImagesConfig)
        if image_shape is None:
            raise ConfigError(f"env.id={env.id}: its observations are images; choose a model that takes images")
        shape = (int(image_shape[0]), int(image_shape[1]), int(image_shape[2]))
        if env.image is not None and tuple(env.image) != shape:
            raise ConfigError(f"env.image={[*env.image]}: the model takes model.input={[*shape]}; give one of them")
        return replace(env, image=shape)

    def wrapped(self, made: gymnasium.Env, env: EnvConfig) -> gymnasium.Env:
        assert isinstance(env, ImagesConfig)
        assert env.image is not None, "see `fitted`"
        space = made.observation_space
        if not is_image(space):
            raise ConfigError(
                f"env.id={env.id}: its observation is {space}; "
                "env=images needs a Box(height, width, 1, 3 or 4) of uint8"
            )
        return Images(made, env.image)

    def raw_interface(self, env: EnvConfig, spec: EnvSpec) -> RawInterface:
        return _Frames(spec.observation_shape)


class Images(gymnasium.ObservationWrapper):
    """Observations (frames, height, width) of uint8: grey images of that size, the newest last.

    At the start of an episode its first image stands in for the missing ones (Mnih et al. 2015)."""

    def __init__(self, env: gymnasium.Env, shape: tuple[int, int, int]) -> None:
        super().__init__(env)
        self._frames = _Frames(shape)
        self.preprocessor = self._frames.preprocessor
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._frames.reset()
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> np.ndarray:
        return self._frames.preprocess(observation)


class _Frames:
    """From an environment's images to stacks (frames, height, width)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        from ablate.envs.preprocessing import Preprocessor, grey_pipeline

        frames, height, width = shape
        self.preprocessor = Preprocessor(grey_pipeline(frames, height, width))

    def preprocess(self, observation: np.ndarray) -> np.ndarray:
        image = np.asarray(observation)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
            raise ValueError(
                f"an image (height, width, 1, 3 or 4) of uint8 is needed, not {image.shape} of {image.dtype}"
            )
        return self.preprocessor.from_screen(image)

    def action(self, action: Any) -> Any:
        return action

    def reset(self) -> None:
        self.preprocessor.reset()
