"""Functions of the user's own, named in the configuration."""

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
    """The function that a text names; modules are looked for in the working folder too.

    Args:
        key: Configuration key to name in errors.
        target: ``module:function`` or ``path/to/file.py:function``. It is the user's own code, trusted by being named.

    Raises:
        InputError: the text is of another form, the module cannot be imported, or it has no such function.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise InputError(key, f"is {target!r}", f"expected {FORM}")
    try:
        module = _from_file(key, Path(place).expanduser()) if place.endswith(".py") else _import(place)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(key, f"{place} cannot be imported ({_said(error)})") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise InputError(key, f"{place} has no function {name!r}", f"expected {FORM}")
    return found  # type: ignore[no-any-return]


def call_target(key: str, target: str, *args: Any) -> Any:
    """Call a function of the user's.

    Raises:
        InputError: see `load_target`; or the function raised, and the message names it and says what.
    """
    function = load_target(key, target)
    return guarded(key, target, lambda: function(*args))


def guarded(key: str, target: str, work: Callable[[], Any]) -> Any:
    """Run code of the user's; whatever it raises becomes one line that names it.

    Raises:
        InputError: it raised.
    """
    try:
        return work()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(key, f"{target} raised {_said(error)}") from error


def _said(error: BaseException) -> str:
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
