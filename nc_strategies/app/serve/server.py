"""The process of `nc-strategies serve`: its socket, its one line on the terminal, its end."""

from __future__ import annotations

import logging
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from nc_strategies.app.logs import FORMAT, RedactingFormatter, register_secret
from nc_strategies.errors import InputError

ADDRESS = "127.0.0.1"
"""The only address that is bound: this machine's own."""
NAMES = (ADDRESS, "localhost")
"""Names by which a browser on this machine may call it."""
HTTP_PORT = 80
"""The port that a browser leaves out of the ``Host`` header."""
MAX_PORT = 65535
PACKAGES = ("starlette", "uvicorn", "vl_convert")
INSTALL = "pip install 'nc-strategies[serve]'"
MAX_CONNECTIONS = 100
"""Connections above this number are refused: a browser has six."""
SECONDS_TO_END = 1
"""Seconds that requests under way have left when the server ends."""


def serve(folder: Path, port: int = 0, out: TextIO | None = None) -> None:
    """Serve the page of the runs under a folder until the process is interrupted.

    Args:
        folder: The folder.
        port: The port; 0 for a free one.
        out: Gets the line with the address; standard output by default.

    Raises:
        InputError: a package is missing, there is no such folder, or the port cannot be used.
        KeyboardInterrupt: it was interrupted.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError("serve", f"needs {', '.join(missing).replace('_', '-')}", INSTALL)
    if os.name != "posix":
        raise InputError("serve", "needs a system with POSIX file descriptors", "Linux or macOS")
    root = _folder(folder)
    with _listen(port) as listener:
        _run(root, listener, out or sys.stdout)


def _run(root: Path, listener: socket.socket, out: TextIO) -> None:
    import uvicorn

    from nc_strategies.app.serve.scan import Scanner
    from nc_strategies.app.serve.web import identify, make_app, new_token

    token = new_token()
    register_secret(token)
    _log_errors()
    port = listener.getsockname()[1]
    hosts = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == HTTP_PORT else set())
    app = make_app(Scanner(root, identify(token)), token, frozenset(hosts))
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,  # its lines would hold the token
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    # This is the one line with the token. The log masks it.
    out.write(f"http://{ADDRESS}:{port}/{token}/  (runs under {root}, for this machine only; Ctrl-C ends it)\n")
    out.flush()
    uvicorn.Server(config).run(sockets=[listener])


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(
            str(folder), "is not a folder" if folder.exists() else "does not exist", "the folder that holds the runs"
        )
    return folder.resolve()


def _listen(port: int) -> socket.socket:
    if not 0 <= port <= MAX_PORT:
        raise InputError("--port", f"{port} is no port", f"0 to {MAX_PORT}; 0 takes a free one")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise InputError(
            "--port", f"{port} cannot be used ({error.strerror})", "another port, or none for a free one"
        ) from None
    return listener


def _log_errors() -> None:
    """Errors of the server go to standard error, without the token."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter(FORMAT))
    logger = logging.getLogger("uvicorn")
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
