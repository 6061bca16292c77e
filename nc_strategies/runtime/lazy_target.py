"""Functions of the user that the configuration names."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from nc_strategies.errors import InputError, first_line

FORM = "module:function, or path/to/file.py:function"


def load_target(key: str, target: str) -> Callable[..., Any]:
    """Import a function by its name. Modules are also searched in the working directory.

    Args:
        key: Configuration key that errors name.
        target: ``module:function`` or ``path/to/file.py:function``. The user's code is trusted, because the user names
            it.

    Raises:
        InputError: the name is malformed, the module cannot be imported, or it has no such function.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise InputError(key, f"is {target!r}", f"expected {FORM}")
    try:
        module = _from_file(key, Path(place).expanduser()) if place.endswith(".py") else _import(place)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(key, f"{place} cannot be imported ({_describe(error)})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(key, f"{place} has no function {name!r}", f"expected {FORM}")
    return function  # type: ignore[no-any-return]


def call_target(key: str, target: str, *args: Any) -> Any:
    """Call a function of the user.

    Raises:
        InputError: see `load_target`; or the function raised an exception, which the message quotes.
    """
    function = load_target(key, target)
    return guarded(key, target, lambda: function(*args))


def guarded(key: str, target: str, work: Callable[[], Any]) -> Any:
    """Run code of the user. An exception is turned into an error of one line that names the function.

    Raises:
        InputError: the code raised an exception.
    """
    try:
        return work()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(key, f"{target} raised {_describe(error)}") from error


def _describe(error: BaseException) -> str:
    text = first_line(error)
    return text if text == type(error).__name__ else f"{type(error).__name__}: {text}"


def _import(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return importlib.import_module(name)


def _from_file(key: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(key, f"no such file: {path}")
    name = f"ncs_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
