"""Child processes: without secrets, and none that outlives its parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from nc_strategies.runtime.secrets import SECRET_NAME

PR_SET_PDEATHSIG = 1
OOM_SCORE = Path("/proc/self/oom_score_adj")
PREFERRED_VICTIM = 500
_expendable = False


def child_environment(secrets: bool = False) -> dict[str, str]:
    """This process's environment for a Python child: the same packages to import, and no secrets.

    Args:
        secrets: Leave them in, for a child that signs in to a hub.
    """
    kept = {name: value for name, value in os.environ.items() if secrets or not SECRET_NAME.search(name)}
    kept["PYTHONPATH"] = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return kept


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (Linux; elsewhere this does nothing).

    The kernel means the thread that started this process: call it for children of a main thread only.

    Args:
        parent: The parent's process id; this process ends at once when it has another parent by now.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def be_expendable() -> None:
    """Leave no core file, and be the first the kernel ends when memory runs out."""
    global _expendable
    _expendable = True
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        OOM_SCORE.write_text(str(PREFERRED_VICTIM))
    except OSError:
        return  # a kernel without it, or one that does not let us: then it chooses by itself


def is_expendable() -> bool:
    """Whether this process is a run's own, for its engine; not one in which a user imports what they like."""
    return _expendable
