"""The run's side of a connection to the machine that it measures on: one process of the OpenSSH client."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from nc_strategies.errors import NcsError, TargetError
from nc_strategies.measuring.remote import frames
from nc_strategies.measuring.remote.server import BOOTSTRAP, STARTER
from nc_strategies.runtime.ssh import KEY, Address
from nc_strategies.runtime.turns import waited
from nc_strategies.runtime.version import own_version

SSH_FAILED = 255
"""Exit status of the OpenSSH client for its own errors, see ssh(1); also that of a program that a signal ended."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses of a POSIX shell for a command that does not exist, or that it cannot run."""
GREETING_SECONDS = 120.0
"""Seconds until the other side has signed in, started Python and imported the package."""
MOST_GREETING_BYTES = 2**20
"""Bytes that a login may print before the greeting."""
EXIT_SECONDS = 5.0
"""Seconds to wait for the client's exit status after it has closed its output."""


class LostError(NcsError):
    """The connection is lost, or could not be made this time: it may be tried again."""


@dataclass(frozen=True)
class Target:
    """The machine that a run measures on, and how it is reached.

    Args:
        address: The interpreter there.
        ssh_config: A configuration file of the OpenSSH client; None for the user's own.
        requirements: What to install there where something is missing, such as ``nc-strategies[onnxruntime]==0.2.0``.
        key: Configuration key or option that errors name.
    """

    address: Address
    ssh_config: str | None = None
    requirements: tuple[str, ...] = ()
    key: str = KEY

    def error(self, problem: str, allowed: str = "", kind: type[TargetError] = TargetError) -> TargetError:
        """An error about this machine."""
        return kind(self.key, f"{self.address.machine} {problem}", allowed)

    @property
    def install(self) -> str:
        """The command line that installs what is needed there."""
        return self.address.install(self.requirements or (f"nc-strategies=={own_version()}",))


class Connection:
    """A connection. Use `call`; `close` ends it.

    Args:
        target: The machine.

    Raises:
        TargetError: the machine refuses the login, has no such interpreter, or another version of the package.
        LostError: the client could not connect.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        command = target.address.command(["-u", "-c", STARTER], target.ssh_config)
        try:
            # In a session of its own, an interrupt at the terminal does not cut the connection that ends in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                bufsize=0,  # `select` does not see what a buffer holds
                start_new_session=True,
            )
        except FileNotFoundError:
            self._said.close()
            raise TargetError(target.key, "the OpenSSH client is not installed: no program called ssh") from None
        self._in = cast(BinaryIO, self._process.stdin)
        self._out = cast(BinaryIO, self._process.stdout)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        target = self._target
        with contextlib.suppress(OSError):  # a client that has ended says why, see `_greeting`
            frames.write_all(self._in, BOOTSTRAP.encode())
        try:
            told = json.loads(self._greeting().removeprefix(frames.GREETING))
            version, protocol, error = (told.get(name) for name in ("version", "protocol", "error"))
        except (ValueError, AttributeError):
            raise target.error("sent a greeting that cannot be read") from None
        own = own_version()
        if version is None:
            raise target.error(f"has no nc-strategies in {target.address.python}", f"install it: {target.install}")
        if version != own:
            raise target.error(
                f"has nc-strategies {frames.plain(version)}, this is {own}: both must be the same",
                f"install it: {target.install}",
            )
        if error is not None:
            raise target.error(
                f"cannot start nc-strategies ({frames.plain(error)})", f"install it anew: {target.install}"
            )
        if protocol != frames.PROTOCOL:
            raise target.error(
                f"has another build of nc-strategies {own}: its protocol is {frames.plain(protocol)}, not "
                f"{frames.PROTOCOL}",
                f"install it: {target.install}",
            )

    def _greeting(self) -> str:
        """The line that the other side begins with, after what a login prints."""
        line, read, end = bytearray(), 0, time.monotonic() + GREETING_SECONDS
        while read < MOST_GREETING_BYTES:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._out], [], [], left)[0]:
                raise self._target.error(f"gave no sign of life within {GREETING_SECONDS:g} s")
            part = self._out.read(1)
            if not part:
                raise self._ended()
            read += 1
            if part != b"\n":
                line += part
                continue
            text = line.decode(errors="replace")
            if text.startswith(frames.GREETING):
                return text
            line.clear()
        raise self._target.error("prints too much at a login", "a login without output")

    def call(self, name: str, body: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        """Make a call, and wait for its answer.

        Raises:
            LostError: the connection ended.
            EngineError: the other side's engine could not do it.
            OutOfTimeError: the time for it ended.
            TargetError: the other side's disk is full.
        """
        try:
            frames.write_frame(self._in, {"call": name, **fields}, body)
            while True:
                header, data = frames.read_frame(self._out)
                if "waited" in header:
                    waited(float(header["waited"]))
                    continue
                break
        except (OSError, EOFError):
            error = self._ended()
            self.close()
            raise (error if isinstance(error, LostError) else LostError(error.problem)) from None
        except frames.FrameError as error:
            self.close()
            raise self._target.error(f"does not answer as nc-strategies does: {error}") from None
        except BaseException:
            self.close()  # an interrupt may have come between two halves of a message
            raise
        if header.get("error") == "system":
            raise self._target.error(
                f"cannot store what the run sends ({frames.plain(header.get('text'))})", "room on its disk"
            )
        if "error" in header:
            frames.raise_error(header)
        return header, data

    def _ended(self) -> LostError | TargetError:
        """The reason why the client has ended."""
        with contextlib.suppress(OSError):
            self._in.close()
        try:
            status = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return LostError("the connection was closed")
        said, address = self._last_words(), self._target.address
        if status == NOT_FOUND:
            return self._target.error(f"has no Python at {address.python} ({said})", "the path of an interpreter there")
        if status == NOT_EXECUTABLE:
            return self._target.error(f"cannot run {address.python} ({said})", "the path of an interpreter there")
        if status == SSH_FAILED:
            return LostError(said or "the connection was closed")
        return self._target.error(f"ended with status {status} ({said or 'without a word'})")

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines()]
        return frames.plain(next((line for line in reversed(lines) if line), ""))

    @property
    def closed(self) -> bool:
        """Whether the connection was ended here."""
        return self._said.closed

    def close(self) -> None:
        """End the connection; the process at its other end ends with it."""
        for stream in (self._in, self._out):
            with contextlib.suppress(OSError):
                stream.close()
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        self._said.close()
