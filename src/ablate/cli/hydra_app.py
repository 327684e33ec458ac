"""The command line's side of Hydra: arguments checked before it starts, errors told in one line, nothing made in vain.

Hydra reports a bad configuration over several lines, with exit code 1, and suggests `+key`, which would hide the typo;
it makes the run's folder before the program sees the configuration. `main` and `ValidateFirst` mend both.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ablate.cli.arguments import complete_arguments, named_plugins
from ablate.cli.compose import plan_job, plan_run
from ablate.cli.messages import REFUSALS, explain
from ablate.cli.resolvers import register_resolvers
from ablate.config.plugins import import_plugins
from ablate.config.schema import SCHEMAS, Config, ConfigError
from ablate.runs.plan import Resolved
from ablate.runs.run import RunFailed, refuse_used

SHOW_TRACEBACKS = "ABLATE_SHOW_TRACEBACKS"


def register() -> None:
    """Make the schema and the resolvers of `conf/` known to Hydra."""
    store = ConfigStore.instance()
    store.store("config_schema", Config)
    for group, options in SCHEMAS.items():
        for name, schema in options.items():
            store.store(name, schema, group=f"schema/{group}")
    register_resolvers()


class ValidateFirst(Callback):
    """Hydra callback: refuse a configuration, or any of a sweep's, before a folder is made or anything is trained.

    Hydra only warns of exceptions in callbacks, so a refusal leaves as SystemExit."""

    planned: Resolved | None = None  # the plan of this process's one run, made once

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            if of_sweeps := [o for o in config.hydra.overrides.task if o.lstrip("+~").startswith("sweep.")]:
                raise ConfigError(f"{of_sweeps[0]}: a setting of sweeps; add -m, or sweep=<study>")
            planned = plan_run(config, config.hydra.overrides.task)
            if planned.new:
                refuse_used(Path(config.hydra.run.dir))
            ValidateFirst.planned = planned
        except Exception as error:
            _refuse(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.runtime.choices["hydra/sweeper"] != "basic":
            return  # ours looks at its arms itself; what others will try is theirs to say
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        loader = GlobalHydra.instance().config_loader()
        try:
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None):
                for job in batch:
                    plan_job(loader.load_sweep_config(config, list(job)), job)
        except Exception as error:
            _refuse(error)


def _refuse(error: Exception) -> None:
    """Hydra would only warn of what a callback raises, and go on."""
    if not isinstance(error, REFUSALS):
        traceback.print_exception(error)
        raise SystemExit(1)
    print(explain(error), file=sys.stderr)
    raise SystemExit(2)


def exit_code(program: Callable[[], Any]) -> int:
    """Run a program and turn what it raises into one line and an exit code: 0, 1 failed, 2 refused, 128+n signal n."""
    sys.path.append(os.getcwd())  # env.id=<module>:<Name>-v0 of the user's own
    try:
        program()
    except REFUSALS as error:
        if os.environ.get(SHOW_TRACEBACKS):
            raise
        print(explain(error), file=sys.stderr)
        return 2
    except RunFailed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `--help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as interrupt:
        return 128 + getattr(interrupt, "signal", signal.SIGINT)
    return 0


def main(program: Callable[[], Any]) -> int:
    """`exit_code` for a Hydra program, with the schema registered and the arguments checked.

    HYDRA_FULL_ERROR=1 in the environment shows tracebacks, as in any Hydra program."""
    if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
        os.environ[SHOW_TRACEBACKS] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions come here instead of being printed by Hydra

    def checked() -> None:
        import_plugins(named_plugins(sys.argv[1:]))
        register()
        sys.argv[1:] = complete_arguments(sys.argv[1:])
        program()

    return exit_code(checked)
