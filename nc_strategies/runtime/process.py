"""Child processes: an environment without secrets, and an end together with the parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from nc_strategies.runtime.secrets import SECRET_NAME

PR_SET_PDEATHSIG = 1
"""Option of ``prctl``, see prctl(2)."""
OOM_SCORE = Path("/proc/self/oom_score_adj")
PREFERRED_VICTIM = 500
"""Score of a process that the kernel kills first when memory runs out; the scale is -1000 to 1000, see proc(5)."""
_expendable = False


def child_environment(secrets: bool = False) -> dict[str, str]:
    """The environment of a Python child process: the same import path, and no secrets.

    Args:
        secrets: Whether to pass secrets on, for a child that signs in to a hub.
    """
    environment = {name: value for name, value in os.environ.items() if secrets or not SECRET_NAME.search(name)}
    environment["PYTHONPATH"] = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return environment


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends. It has an effect on Linux only.

    The kernel kills the process when the thread that started it ends, so use it for children of a main thread only.

    Args:
        parent: The parent's process id. If the process has another parent already, it ends at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def be_expendable() -> None:
    """Write no core file, and be the first process that the kernel kills when memory runs out."""
    global _expendable
    _expendable = True
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        OOM_SCORE.write_text(str(PREFERRED_VICTIM))
    except OSError:
        return  # the kernel has no such file, or does not permit the write: its own choice stands


def is_expendable() -> bool:
    """Whether this process was started by a run for its engine, and is not a process of the user."""
    return _expendable
