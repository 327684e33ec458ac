"""A Hydra program that checks everything before it starts, and reports an error in one line.

Hydra reports a wrong configuration in several lines, with exit code 1, and suggests `+key`, which would hide a typo. It
also makes the run's folder before the program sees the configuration. `main` and `ValidateFirst` prevent this."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from ablate.cli.arguments import complete_arguments, import_named
from ablate.cli.compose import plan_job
from ablate.cli.hydra_private import jobs_of_basic_sweeper, typed_overrides
from ablate.cli.messages import REFUSALS, tell
from ablate.cli.resolvers import register
from ablate.config.schema import ConfigError
from ablate.config.validation import validate
from ablate.paths import OUTPUTS, locate
from ablate.records.files import refuse_unwritable
from ablate.records.manifest import StillThere, lock_run
from ablate.records.terminal import discard_output
from ablate.runs.plan import Resolved, plan
from ablate.runs.run import RunFailed, new_folder

SHOW_TRACEBACKS = "ABLATE_SHOW_TRACEBACKS"


class ValidateFirst(Callback):
    """Hydra callback: refuse a wrong configuration before a folder is made or a run of a sweep is trained.

    Hydra catches exceptions of callbacks and only warns, so a refusal raises SystemExit."""

    ready: tuple[Resolved, StillThere] | None = None  # this process's single run, planned, its folder locked
    locked = ExitStack()  # never closed: the lock lasts as long as the process

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            if of_sweeps := [o for o in typed_overrides(config.hydra) if o.lstrip("+~").startswith("sweep.")]:
                raise ConfigError(f"{of_sweeps[0]}: this key belongs to sweeps; add -m, or sweep=<study>")
            ValidateFirst.ready = self._lock_and_plan(config)
        except Exception as error:
            _refuse(error)

    def _lock_and_plan(self, composed: DictConfig) -> tuple[Resolved, StillThere]:
        """The plan of the run, and the lock on its folder, in which Hydra and then the run write."""
        config, overrides = validate(composed), typed_overrides(composed.hydra)
        if config.resume:
            folder = locate(config.resume)
            if Path(composed.hydra.run.dir).absolute() != folder:
                raise ConfigError(f"hydra.run.dir={composed.hydra.run.dir}: a resumed run stays in its folder")
            try:  # before anything in the folder is read
                still_there = self.locked.enter_context(lock_run(folder))
                refuse_unwritable(folder)
            except ConfigError as error:
                raise ConfigError(f"resume={config.resume}: {error}") from error
            return plan(config, overrides), still_there
        by_default = OmegaConf.is_interpolation(composed.hydra.run, "dir")  # named by time and configuration
        planned = plan(config, overrides, folder=OUTPUTS if by_default else Path(composed.hydra.run.dir))
        _ = composed.hydra.output_subdir, composed.hydra.job.chdir  # Hydra resolves them when it has made the folder
        made = new_folder(Path(composed.hydra.run.dir).absolute(), numbered=by_default)
        folder, still_there = self.locked.enter_context(made)
        with read_write(composed.hydra.run):
            composed.hydra.run.dir = str(folder)
        return planned, still_there

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweeper = config.hydra.runtime.choices["hydra/sweeper"]
        if sweeper != "ablate" and config.sweep.detach:
            _refuse(
                ConfigError(f"sweep.detach=true: only with hydra/sweeper=ablate, not {sweeper}; nohup works with any")
            )
        if sweeper != "basic":
            return  # our sweeper checks its arms itself; the jobs of any other sweeper are not known yet
        loader = GlobalHydra.instance().config_loader()
        try:
            overrides = OverridesParser.create().parse_overrides(typed_overrides(config.hydra))
            for job in jobs_of_basic_sweeper(overrides):
                plan_job(loader.load_sweep_config(config, job), job)
        except Exception as error:
            _refuse(error)


def _refuse(error: Exception) -> None:
    """Print the error and raise SystemExit."""
    if not isinstance(error, REFUSALS):
        traceback.print_exception(error)
        raise SystemExit(1)
    raise SystemExit(tell(error))


def exit_code(program: Callable[[], Any]) -> int:
    """Run a program, print an expected error in one line, and return the exit code.

    0: completed, 1: failed, 2: refused, 128 + n: ended by signal n."""
    try:
        program()
    except BrokenPipeError:  # `--help | head`: the reader is gone
        discard_output()
        return 128 + signal.SIGPIPE
    except REFUSALS as error:
        if os.environ.get(SHOW_TRACEBACKS):
            raise
        return tell(error)
    except RunFailed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        return 128 + getattr(interrupt, "signal", signal.SIGINT)
    return 0


def main(program: Callable[[], Any]) -> int:
    """Import the plugins, check the arguments, then run a Hydra program. Returns the exit code.

    HYDRA_FULL_ERROR=1 in the environment shows tracebacks, as in any Hydra program."""
    if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
        os.environ[SHOW_TRACEBACKS] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that exceptions reach `exit_code` instead of being printed by Hydra

    def checked() -> None:
        import_named(sys.argv[1:])
        register()
        sys.argv[1:] = complete_arguments(sys.argv[1:])
        program()

    return exit_code(checked)
