"""Addresses of machines that are reached by the system's OpenSSH client, and its command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nc_strategies.errors import InputError

KEY = "measure.target"
FORM = "ssh://user@host[:port]/path/to/python"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@%:-]*")
"""User and host names: nothing that the client could take for an option, or the other machine's shell for syntax."""
HOME = "/~/"
"""Start of a path that is relative to the user's home folder, where a login begins."""


@dataclass(frozen=True)
class SshOptions:
    """Options of the OpenSSH client that a run sets; all others are the user's own.

    Args:
        connect_seconds: ``ConnectTimeout``: seconds until a machine that does not answer counts as not reachable.
        alive_seconds: ``ServerAliveInterval``: seconds between two signs of life on a connection without other traffic.
        alive_count: ``ServerAliveCountMax``: missed signs of life after which the connection counts as lost.
    """

    connect_seconds: int = 20
    alive_seconds: int = 15
    alive_count: int = 4


SSH_OPTIONS = SshOptions()


@dataclass(frozen=True)
class Address:
    """A Python interpreter on another machine.

    Args:
        host: The machine, or a name from the user's ``~/.ssh/config``.
        python: Path of the interpreter.
        user: Login name; empty for the client's own choice.
        port: Port; 0 for the client's own choice.
    """

    host: str
    python: str
    user: str = ""
    port: int = 0

    @staticmethod
    def parse(text: str, key: str = KEY) -> Address:
        """Read an address of the form `FORM`; ``/~/venv/bin/python`` is relative to the home folder.

        Args:
            text: The address.
            key: Configuration key or option that errors name.

        Raises:
            InputError: it has another form, or contains a password.
        """
        shown = re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:***@", text)
        try:
            parts = urlsplit(text)
            port = parts.port or 0
        except ValueError:
            raise InputError(key, f"is {shown!r}", f"expected {FORM}") from None
        if parts.password is not None:
            raise InputError(key, f"is {shown!r}", "no password is taken: ssh signs in with the user's keys")
        user, host, path = unquote(parts.username or ""), parts.hostname or "", unquote(parts.path)
        clean = NAME.fullmatch(host) and (not user or NAME.fullmatch(user)) and path.strip("/") and path.isprintable()
        if parts.scheme != "ssh" or not clean or parts.query or parts.fragment:
            raise InputError(key, f"is {shown!r}", f"expected {FORM}")
        python = path.removeprefix(HOME) if path.startswith(HOME) else path
        return Address(host, python, user, port)

    @property
    def machine(self) -> str:
        """The machine as messages name it: ``user@host``."""
        return f"{self.user}@{self.host}" if self.user else self.host

    def command(self, words: list[str], config: str | None = None) -> list[str]:
        """The client's command line that runs the interpreter with some arguments.

        Args:
            words: The interpreter's arguments; they appear in the process list of both machines.
            config: A configuration file of the client instead of the user's own.
        """
        options = SSH_OPTIONS
        command = ["ssh", *(["-F", str(Path(config).expanduser())] if config else []), "-T", "-o", "BatchMode=yes"]
        for name, value in (
            ("ConnectTimeout", options.connect_seconds),
            ("ServerAliveInterval", options.alive_seconds),
            ("ServerAliveCountMax", options.alive_count),
        ):
            command += ["-o", f"{name}={value}"]
        command += [*(["-p", str(self.port)] if self.port else []), *(["-l", self.user] if self.user else [])]
        return [*command, "--", self.host, shlex.join([self.python, *words])]

    def install(self, requirements: Sequence[str]) -> str:
        """The command line, for a user to copy, that installs requirements there."""
        port = f"-p {self.port} " if self.port else ""
        return f'ssh {port}{self.machine} "{shlex.join([self.python, "-m", "pip", "install", *requirements])}"'
