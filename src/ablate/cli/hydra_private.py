"""The private parts of Hydra and OmegaConf that this program uses. A new version of either may change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from ablate.config.schema import ConfigError


def apply_overrides(overrides: list[Override], composed: DictConfig) -> None:
    """Set values in a composed configuration as Hydra does, without reading the files of conf/ again."""
    ConfigLoaderImpl._apply_overrides_to_config(overrides, composed)


def is_group(config: DictConfig, key: str) -> bool:
    """Whether the key is for a dictionary or a list. This is also true if it is null, when `config[key]` is None."""
    return OmegaConf.is_config(config._get_node(key))


def jobs_of_basic_sweeper(overrides: list[Override]) -> list[list[str]]:
    """The overrides of each job that hydra/sweeper=basic will start, to check all of them before the first starts."""
    return [list(job) for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None) for job in batch]


def failed_job(overrides: Sequence[str], error: Exception) -> JobReturn:
    """The value that a launcher returns for a job that failed before Hydra could run it."""
    return JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=error)


def returned_by(overrides: Sequence[str], task: Callable[[], Any]) -> JobReturn:
    """The value that a launcher returns for a job: what `task` returns, or the exception that it raises."""
    try:
        return JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=task())
    except Exception as error:
        return failed_job(overrides, error)


def result_of(job: JobReturn) -> Any:
    """The value that a job returned, or its exception. The public property `return_value` would raise the exception."""
    return job._return_value


def parse_flags(arguments: list[str]) -> None:
    """Raise ConfigError for what Hydra's own flags (--cfg, -m) do not allow. Hydra would print its usage in ten lines.

    Also for --experimental-rerun: it unpickles a file, which may run any code."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --hydra-help lists the flags")

    parser.error = refuse  # type: ignore[method-assign]
    parsed = parser.parse_args(arguments)
    if parsed.resolve and parsed.cfg is None and not parsed.help:
        refuse("--resolve: only together with --cfg or --help")
    modes = {"--run": parsed.run, "--cfg": parsed.cfg, "--multirun": parsed.multirun, "--info": parsed.info}
    modes["--shell-completion"] = parsed.shell_completion
    if len(given := [flag for flag, value in modes.items() if value]) > 1:
        refuse(f"{' '.join(given)}: only one of them")
    if parsed.experimental_rerun is not None:
        raise ConfigError(
            f"--experimental-rerun={parsed.experimental_rerun}: a pickle may run any code; resume= continues a run"
        )


def typed_overrides(hydra: Any) -> list[str]:
    """The overrides of Hydra's node as they were typed. To iterate over them would resolve their interpolations."""
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return list(overrides)
