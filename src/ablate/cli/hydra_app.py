"""A Hydra program that checks everything before it starts, and reports an error in one line.

Hydra reports a wrong configuration in several lines, with exit code 1, and suggests `+key`, which would hide a typo. It
also makes the run's folder before the program sees the configuration. `main` and `ValidateFirst` prevent this."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ablate.cli.arguments import complete_arguments, import_named, refuse_unmakeable
from ablate.cli.compose import plan_job, plan_run
from ablate.cli.hydra_private import jobs_of_basic_sweeper, typed_overrides
from ablate.cli.messages import REFUSALS, explain
from ablate.cli.resolvers import register
from ablate.config.schema import ConfigError
from ablate.records.terminal import discard_output
from ablate.runs.plan import Resolved
from ablate.runs.run import RunFailed, refuse_used

SHOW_TRACEBACKS = "ABLATE_SHOW_TRACEBACKS"


class ValidateFirst(Callback):
    """Hydra callback: refuse a wrong configuration before a folder is made or a run of a sweep is trained.

    Hydra catches exceptions of callbacks and only warns, so a refusal raises SystemExit."""

    planned: Resolved | None = None  # the plan of this process's single run, made once

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            if of_sweeps := [o for o in typed_overrides(config.hydra) if o.lstrip("+~").startswith("sweep.")]:
                raise ConfigError(f"{of_sweeps[0]}: this key belongs to sweeps; add -m, or sweep=<study>")
            planned = plan_run(config, typed_overrides(config.hydra))
            _ = config.hydra.output_subdir, config.hydra.job.chdir  # Hydra resolves them when it has made the folder
            folder = Path(config.hydra.run.dir)
            if planned.new:
                refuse_used(folder)
            refuse_unmakeable("hydra.run.dir", folder.absolute())
            ValidateFirst.planned = planned
        except Exception as error:
            _refuse(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.runtime.choices["hydra/sweeper"] != "basic":
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
    print(explain(error), file=sys.stderr)
    raise SystemExit(2)


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
        print(explain(error), file=sys.stderr)
        return 2
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
