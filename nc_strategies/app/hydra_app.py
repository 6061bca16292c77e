"""The Hydra application, in a separate module so that launchers that start processes can import it."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, cast

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nc_strategies.app import status
from nc_strategies.app.hydra_errors import as_input_error
from nc_strategies.app.logs import redact
from nc_strategies.app.path_overrides import quote_path
from nc_strategies.config import MetricsConfig, RunConfig
from nc_strategies.errors import first_line
from nc_strategies.registry import registry
from nc_strategies.runtime.secrets import SECRET_KEY, SECRET_URL

log = logging.getLogger(__name__)
OVERRIDES = ("space.op_type_dict", "space.op_name_dict")
OPEN_MAPPING = re.compile(r"metrics\.accuracy\.|\w+\.\w+_options\b")
"""Keys of mappings whose keys no schema names: a metric's settings, and arguments for another library's class."""
FULL_ERROR = "HYDRA_FULL_ERROR"
statuses: list[int] = []
"""Exit statuses of the jobs of this process."""


def conf_dir() -> Path:
    """Folder of the configuration tree: in the package when installed from a wheel, next to it in a checkout.

    Raises:
        FileNotFoundError: neither folder exists.
    """
    package = Path(__file__).resolve().parent.parent
    for place in (package / "conf", package.parent / "conf"):
        if (place / "config.yaml").is_file():
            return place
    raise FileNotFoundError("nc_strategies: the configuration tree is missing from the installation")


class PluginConfigs(SearchPathPlugin):
    """Adds the configuration of third-party packages to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See Hydra's `SearchPathPlugin`."""
        for name, path in registry().config_paths():
            search_path.append(f"nc_strategies.{name}", path)


def _plugin_folders() -> list[Path]:
    """Folders of the configuration files that plugins ship."""
    folders: list[Path] = []
    for name, place in registry().config_paths():
        scheme, _, rest = place.partition("://")
        if scheme == "file":
            folders.append(Path(rest))
            continue
        parent, _, child = rest.rpartition(".")
        try:
            spec = importlib.util.find_spec(parent or child)
        except (ImportError, ValueError) as error:
            log.info("plugin %s: %s cannot be found: %s", name, place, error)
            continue
        found = (spec.submodule_search_locations or []) if spec is not None else []
        folders += [Path(folder) / child if parent else Path(folder) for folder in found]
    return folders


def publish() -> None:
    """Register every component with Hydra, as an option of its group and as a schema for files that preset values."""
    store, folders = ConfigStore.instance(), _plugin_folders()
    store.store(name="base_config", node=RunConfig, provider="nc_strategies")
    store.store(group="schema/metrics", name="base", node=MetricsConfig, provider="nc_strategies")
    for (kind, name), component in registry().components.items():
        if component.schema is not None and kind != "metric":
            named = any(field.name == "name" for field in dataclasses.fields(component.schema))
            node = component.schema(name=name) if named else component.schema
            store.store(group=f"schema/{kind}", name=name, node=node, provider="nc_strategies")
            # A plugin's file of that name presets values on top of the schema, and is the option itself.
            if not any((folder / kind / f"{name}.yaml").is_file() for folder in folders):
                store.store(group=kind, name=name, node=node, provider="nc_strategies")
    Plugins.instance().register(PluginConfigs)
    # Hydra deep-copies its configuration sources, and with them this singleton, for every group that it lists, which
    # takes more than a second of --help. Hydra only reads the copies, so one store can serve them all.
    store.__deepcopy__ = lambda _: store  # type: ignore[attr-defined]


def job(config: DictConfig) -> float:
    """Run one job and return its exit status, which Hydra's sweepers take as a cost."""
    from nc_strategies.app.run import run_job

    hydra_config = HydraConfig.get()
    single = hydra_config.mode is RunMode.RUN
    run_dir = Path(hydra_config.runtime.output_dir)
    if single:
        run_dir = Path(config.run_dir or datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S"))
        code = run_job(config, run_dir).status
    else:
        from nc_strategies.app.sweep import run_sweep_job

        code = run_sweep_job(config, run_dir)
    statuses.append(code)
    return float(code)


def translate(arguments: list[str]) -> list[str]:
    """Translate command-line arguments to Hydra's grammar.

    Mappings of quantization overrides become quoted strings, because Hydra's grammar accepts neither quoted keys nor
    most characters of regular expressions in a mapping. A metric's own settings and mappings that end in ``_options``
    get a ``++``, because Hydra needs it to add keys to a mapping. In a sweep, ``run_dir`` becomes the sweep's folder,
    which Hydra sets before it reads the jobs' keys. Paths are quoted where Hydra would read another value. ``-m`` may
    be at any position.
    """
    sweep = [a for a in arguments if a in ("-m", "--multirun")]
    quoted = list(sweep)
    for argument in arguments:
        if argument in sweep:
            continue
        key, equals, value = argument.partition("=")
        if equals and key.lstrip("+") in OVERRIDES and value.startswith("{"):
            escaped = value.replace("\\'", "\\\\'").replace("'", "\\'")
            argument = f"{key.lstrip('+')}='{escaped}'"
        else:
            argument = quote_path(argument, bool(sweep))
            if equals and OPEN_MAPPING.match(key):
                argument = f"++{argument}"
            elif sweep and equals and key == "run_dir":
                argument = f"hydra.sweep.dir={argument.partition('=')[2]}"
        quoted.append(argument)
    return quoted


def refuse_secrets(arguments: list[str]) -> None:
    """Exit with one line when the command line holds a secret, before Hydra prints or stores it.

    Raises:
        SystemExit: status 2.
    """
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = key.lstrip("+~")
        if equals and value not in ("", "null") and SECRET_KEY.search(key):
            variable = key.rsplit(".")[-1].upper()
            sys.stderr.write(
                f"error: {key}: is refused on the command line, where the process list, the shell's "
                f"history and the run's own files would show it; set {variable} in the environment\n"
            )
            sys.exit(status.INPUT)
        if equals and SECRET_URL.search(value):
            sys.stderr.write(
                f"error: {key}: an address with a password is refused on the command line, where the "
                "process list, the shell's history and the run's own files would show it; set what "
                "holds it in the environment\n"
            )
            sys.exit(status.INPUT)


def refuse_planned_sweeps(arguments: list[str]) -> None:
    """Exit with one line when a plan of a sweep is requested: a sweep writes a folder, a plan writes none.

    Raises:
        SystemExit: status 2.
    """
    if {"-m", "--multirun"} & set(arguments) and any(a.partition("=")[0] == "plan" for a in arguments):
        sys.stderr.write("error: plan: cannot be asked of a sweep; ask for the plan of one run at a time\n")
        sys.exit(status.INPUT)


def _terminate(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say_interrupted(multirun: bool) -> None:
    """Say that a sweep was interrupted while its jobs ran in other processes; a job here says so itself."""
    if multirun:
        sys.stderr.write(
            "interrupted; what was measured is kept in the jobs' folders, and the same command with the same run_dir "
            "goes on from there\n"
        )


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _terminate)
    refuse_secrets(sys.argv[1:])
    refuse_planned_sweeps(sys.argv[1:])
    sys.argv[1:] = translate(sys.argv[1:])
    publish()
    run = cast(
        Callable[[], Any], hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(job)
    )
    # Hydra prints its errors over several lines and exits with status 1, unless this variable makes it raise them.
    traceback_wanted = bool(os.environ.get(FULL_ERROR))
    os.environ[FULL_ERROR] = "1"
    multirun = bool({"-m", "--multirun"} & set(sys.argv[1:]))
    try:
        run()
    except KeyboardInterrupt:
        _say_interrupted(multirun)
        sys.exit(status.INTERRUPTED)
    except SystemExit:
        # Ray's launcher replaces the handler of SIGTERM by one that ends all processes of Ray and exits with status 1.
        # After that, Ray's cleanup at the end of this process may abort it, so nothing runs at its end.
        if signal.getsignal(signal.SIGTERM) is not _terminate:
            _say_interrupted(multirun)
            logging.shutdown()
            sys.stdout.flush()
            os._exit(status.INTERRUPTED)
        raise
    except (HydraException, OmegaConfBaseException) as error:
        if traceback_wanted:
            raise
        sys.stderr.write(redact(f"error: {as_input_error(error)}\n"))
        sys.exit(status.INPUT)
    except Exception as error:
        # Jobs report their own errors. Launchers raise any class, such as for a cluster that does not answer.
        from nc_strategies.app import sweep

        if traceback_wanted or not sweep.launcher:
            raise
        text = f"error: hydra/launcher: {sweep.launcher} failed ({type(error).__name__}: {first_line(error)})"
        sys.stderr.write(redact(f"{text}; {FULL_ERROR}=1 shows where\n"))
        sys.exit(status.INTERNAL)
    finally:
        logging.shutdown()
    from nc_strategies.app import sweep

    sys.exit(status.worst(statuses + sweep.statuses))
