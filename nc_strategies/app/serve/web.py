"""The web application of `nc-strategies serve`: who may ask, and what is answered.

Every request needs a secret in its path. The page's own is the token. A run's report has another one, which follows
from the token and opens this report only: a report comes from a file, and its scripts can read their own address, which
must not hold what opens everything else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import shlex
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from nc_strategies.app.path_overrides import quote_path
from nc_strategies.app.serve.files import UnreadableError
from nc_strategies.app.serve.scan import Scanner
from nc_strategies.report import overview_charts
from nc_strategies.report.page import TEMPLATES
from nc_strategies.report.vega import vega

TOKEN_BYTES = 32
"""Random bytes of a token: 256 bits, far beyond guessing."""
METHODS = ("GET", "HEAD")
REPORTS = "report"
"""First part of the path of reports, which no token is equal to."""
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
OWN_HEADERS = {
    # A response with a sandbox must not have this one: the browser would show an error instead.
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A report is one file with its own scripts, whose hashes its own policy names. The sandbox gives it an origin of
its own, so that scripts of a report that was changed cannot ask this server for anything."""
JAVASCRIPT, CSS, HTML = "text/javascript", "text/css", "text/html"
FILES = {
    "": ("overview.html", HTML),
    "page.css": ("page.css", CSS),
    "overview.css": ("overview.css", CSS),
    "charts.js": ("charts.js", JAVASCRIPT),
    "overview.js": ("overview.js", JAVASCRIPT),
}
"""Name in the address to the template and its media type."""
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def new_token() -> str:
    """A random token that is safe in an address."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def identify(token: str) -> Callable[[bytes], str]:
    """The function that makes the secret of a run's report from the bytes of the run's path."""
    return lambda path: hmac.new(token.encode(), b"report\0" + path, hashlib.sha256).hexdigest()


class Guard:
    """Refuses what does not come from the page's own address with a known secret, and adds the headers of security.

    Args:
        app: The application behind it.
        scanner: Knows the secrets of the reports.
        token: The token.
        hosts: Values of the ``Host`` header that are served: those of the address itself. Any other one is that of a
            name which was made to lead here, by another site.
    """

    def __init__(self, app: App, scanner: Scanner, token: str, hosts: frozenset[str]) -> None:
        self._app, self._scanner = app, scanner
        self._token, self._hosts = token.encode(), hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                own = {} if b"content-security-policy" in names else OWN_HEADERS
                added = {**HEADERS, **own}
                message["headers"] = [
                    *given,
                    *((k.encode(), v.encode()) for k, v in added.items() if k.encode() not in names),
                ]
            await send(message)

        app = self._refusal(scope) or self._app
        await app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return _plain("forbidden", 403)
        if not self._knows_secret(scope["path"]):
            return _plain("not found", 404)
        if scope["method"] not in METHODS:
            return _plain("only GET and HEAD are served", 405, {"allow": ", ".join(METHODS)})
        return None

    def _knows_secret(self, path: str) -> bool:
        first, *rest = path.removeprefix("/").split("/")
        if first != REPORTS:
            return secrets.compare_digest(first.encode(errors="replace"), self._token)
        given = (rest[0] if rest else "").encode(errors="replace")
        # All are compared: the time must not tell how many came before the right one.
        return sum(secrets.compare_digest(given, known.encode()) for known in self._scanner.identifiers()) > 0


def make_app(scanner: Scanner, token: str, hosts: frozenset[str]) -> App:
    """The application.

    Args:
        scanner: Finds the runs; its identifiers are made by `identify`.
        token: The token.
        hosts: Values of the ``Host`` header that are served, in lower case.
    """

    def static(name: str, media_type: str) -> Callable[[Request], Response]:
        content = (TEMPLATES / name).read_bytes()
        return lambda _: Response(content, media_type=media_type)

    def scripts(_: Request) -> Response:
        return Response(vega(), media_type=JAVASCRIPT)

    def charts(_: Request) -> Response:
        return _json(overview_charts.specs())

    def runs(request: Request) -> Response:
        found = scanner.snapshot()
        folder = {"folder": str(scanner.root), "example": _example(scanner.root)}
        answer = _json({**folder, "runs": found.rows, "notes": found.notes})
        tag = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        answer.headers["etag"] = tag
        return answer

    def report(request: Request) -> Response:
        try:
            text = scanner.report(request.path_params["identifier"])
        except (KeyError, UnreadableError):
            return _plain("not found", 404)
        return Response(text, media_type=HTML, headers={"content-security-policy": REPORT_POLICY})

    routes = [
        *(Route(f"/{token}/{address}", static(*file)) for address, file in FILES.items()),
        Route(f"/{token}/vega.js", scripts),
        Route(f"/{token}/charts.json", charts),
        Route(f"/{token}/runs.json", runs),
        Route(f"/{REPORTS}/{{identifier}}/report.html", report),
    ]
    return Guard(Starlette(routes=routes), scanner, token, hosts)


def _example(root: Path) -> str:
    """The command line of a run in a folder."""
    return shlex.join(["nc-strategies", "backend=onnxruntime", quote_path(f"run_dir={root / 'first'}", False)])


def _json(data: Any) -> Response:
    """JSON in ASCII: names of files need not be text."""
    return Response(json.dumps(data, allow_nan=False, separators=(",", ":")), media_type="application/json")


def _plain(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers)
