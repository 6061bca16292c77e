"""The executor: a pool of Dask workers for evaluations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from distributed import Client, LocalCluster

from nc_strategies.api import EvaluationPool, InputError, SerialExecutor
from nc_strategies_dask.settings import DaskSettings

log = logging.getLogger("nc_strategies.dask")


class DaskExecutor(SerialExecutor):
    """Runs one trial at a time, and shares the evaluation of its samples with the workers of a Dask cluster.

    Workers run batches only. Everything is timed by the process that builds the models, while no worker runs a batch.

    Raises:
        InputError: a setting is not allowed.
    """

    settings: DaskSettings

    def __init__(self, settings: DaskSettings) -> None:
        super().__init__(settings)
        if settings.workers < 0:
            raise InputError("executor.workers", f"is {settings.workers}", "0 (as many as there are) or more")
        if settings.timeout <= 0:
            raise InputError("executor.timeout", f"is {settings.timeout:g}", "seconds above 0")

    def evaluation_pool(self, threads: int) -> EvaluationPool | None:
        """See `SerialExecutor.evaluation_pool`.

        Raises:
            InputError: the scheduler does not answer, or has no workers.
        """
        settings = self.settings
        if not settings.address:
            # This process evaluates as well.
            count = settings.workers or max(1, self.processes_that_fit(threads) - 1)
            return DaskPool(_local_cluster(count), count)
        try:
            client = Client(settings.address, timeout=settings.timeout, name="nc-strategies")
        except (OSError, ValueError) as error:
            raise InputError(
                "executor.address", f"no Dask scheduler answers at {settings.address} ({error})", "tcp://HOST:PORT"
            ) from error
        count = len(client.scheduler_info(n_workers=-1)["workers"])
        if not count:
            client.close()
            raise InputError(
                "executor.address",
                f"the scheduler at {settings.address} has no workers",
                f"dask worker {settings.address}",
            )
        return DaskPool(client, min(settings.workers or count, count))


def _local_cluster(workers: int) -> Client:
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    return Client(cluster, name="nc-strategies")


def without_secrets(address: str) -> str:
    """The address of a page without user, password, query and fragment, in which Dask's configuration may put a token.

    It is empty if the page has no address that a browser can open.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class DaskPool:
    """Workers of a cluster; see `nc_strategies.api.EvaluationPool`.

    Args:
        client: Connected.
        workers: Number of calls that run at a time.
    """

    same_files = False

    def __init__(self, client: Client, workers: int) -> None:
        self.workers = workers
        self._client = client
        self._executor = client.get_executor(pure=False)
        self.dashboard = without_secrets(client.dashboard_link or "")
        if self.dashboard:
            log.info("Dask's dashboard: %s", self.dashboard)

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """See `EvaluationPool.submit`."""
        found: Future[Any] = self._executor.submit(function, *arguments)
        return found

    def share(self, data: bytes) -> Any:
        """See `EvaluationPool.share`: an object in the memory of every worker."""
        return self._client.scatter(data, broadcast=True, hash=False)

    def alive(self) -> bool:
        """See `EvaluationPool.alive`."""
        return bool(self._client.status == "running")

    def restart(self) -> None:
        """See `EvaluationPool.restart`: the scheduler has new workers, or fewer, by itself."""
        if not self.alive():
            raise ConnectionError("the Dask scheduler does not answer any more")

    def close(self) -> None:
        """See `EvaluationPool.close`: a cluster that was started here ends too."""
        cluster = self._client.cluster
        self._client.close()
        if cluster is not None:
            cluster.close()
