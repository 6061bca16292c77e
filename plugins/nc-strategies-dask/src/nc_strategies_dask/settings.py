"""Settings of the executor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DaskSettings:
    """Settings of `DaskExecutor`.

    Args:
        address: Address of a running scheduler, such as ``tcp://10.0.0.1:8786``; a cluster on this machine by default.
        workers: Processes of the cluster on this machine, or the most workers of the running one to use; 0 for one
            less than there are processors divided by `measure.threads`, or for all workers.
        timeout: Seconds after which a scheduler that does not answer is an error.
    """

    name: str = "dask"
    address: str = ""
    workers: int = 0
    timeout: float = 20.0
