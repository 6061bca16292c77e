"""``nc-strategies serve``: a real server process, asked by what should not be answered, and opened in a browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from nc_strategies.app import commands
from nc_strategies.app.serve import server as serving
from nc_strategies.app.serve import web
from nc_strategies.report import analysis
from nc_strategies.report.page import PageWriter
from nc_strategies.report.result import write, write_json
from nc_strategies.study.study import StudyListener
from nc_strategies.testing import ToyOp

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = re.compile(r"^http://127\.0\.0\.1:(\d+)/([\w-]{43})/  \(runs under .*\n$")
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"
MANY = 500
BARS = "#chart-speedup .layer_0_marks path"
SECONDS = 60


class Server:
    """A process that serves a folder."""

    def __init__(self, folder, *more, **environment):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nc_strategies", "serve", str(folder), *more],
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", **environment},
        )
        self.line = self.process.stdout.readline()
        found = ADDRESS.match(self.line)
        assert found, (self.line, self.process.communicate(timeout=SECONDS))
        self.port, self.token = int(found[1]), found[2]
        self.host = f"127.0.0.1:{self.port}"
        self.address = f"http://{self.host}/{self.token}/"

    def raw(self, text):
        """Send bytes, and return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as connection:
            connection.sendall(text)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def ask(self, path, method="GET", **headers):
        """Status, headers and body of an answer; a path that is not given whole is below the token."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            path = path if path.startswith("/") else f"/{self.token}/{path}"
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                if value is not None:
                    connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def runs(self):
        return {row["name"]: row for row in json.loads(self.ask("runs.json")[2])["runs"]}

    def wait_for(self, condition):
        """The runs, once something holds for them."""
        end = time.monotonic() + SECONDS
        while not condition(found := self.runs()):
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found

    def end(self, number=signal.SIGINT):
        """Status, standard output behind the address, and standard error."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Starts servers."""
    started = []

    def start(folder, *more, **environment):
        started.append(Server(folder, *more, **environment))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


@pytest.fixture(scope="module")
def served(serve, tmp_path_factory):
    """A server whose folder is shared by the tests that add nothing, or only runs of their own names."""
    return serve(tmp_path_factory.mktemp("served"))


@pytest.fixture
def ended(finished):
    """Puts runs that have ended into a folder, with a real page."""
    with PageWriter() as writer:
        study, setup = finished(listener=writer)
        result = write(study, setup)
    analysis.write(study)

    def make(place, **changes):
        shutil.copytree(study.run_dir, place)
        if changes:
            write_json(place / "result.json", {**result, **changes})
        return place

    return make


# --- who may ask


def test_only_this_machine_s_own_address_is_bound(served):
    process = psutil.Process(served.process.pid)
    connections = getattr(process, "net_connections", None) or process.connections  # its name before psutil 6
    bound = {c.laddr for c in connections() if c.status == psutil.CONN_LISTEN}
    assert bound == {("127.0.0.1", served.port)}


def test_nothing_is_answered_without_the_token(served):
    assert served.ask("")[0] == 200
    wrong = served.token[:-1] + ("A" if served.token[-1] != "A" else "B")
    bodies = set()
    for path in ("/", "//", "/runs.json", f"/{wrong}/", f"/{wrong}/runs.json", f"/{served.token[:-1]}/", "/report/",
                 f"/{served.token.swapcase()}/", f"/x/{served.token}/", f"/?{served.token}", "/%00/", "/%FF/",
                 f"/report/{served.token}/report.html", f"/report/{'0' * 64}/report.html", "/favicon.ico"):  # fmt: skip
        status, headers, body = served.ask(path)
        assert status == 404, path
        assert served.token not in f"{headers}{body}"
        bodies.add(body)
    assert bodies == {b"not found\n"}


def test_secrets_are_compared_in_constant_time(monkeypatch):
    compared = []
    compare = secrets.compare_digest
    monkeypatch.setattr(web.secrets, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))

    class Known:
        def identifiers(self):
            return ("first", "second", "third")

    guard = web.Guard(None, Known(), "the token", frozenset())
    assert guard._knows_secret("/the token/x")
    assert not guard._knows_secret("/the tokem/x")
    assert compared == [(b"the token", b"the token"), (b"the tokem", b"the token")]
    compared.clear()
    assert guard._knows_secret("/report/first/report.html")
    assert not guard._knows_secret("/report/fourth/report.html")
    assert [b for _, b in compared] == [b"first", b"second", b"third"] * 2
    assert not guard._knows_secret("/report")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:PORT", 200),
        ("localhost:PORT", 200),
        ("LOCALHOST:PORT", 200),
        ("127.0.0.1", 403),
        ("127.0.0.1:1", 403),
        ("attacker.example:PORT", 403),
        ("127.0.0.1.attacker.example:PORT", 403),
        ("127.0.0.1:PORT@attacker.example", 403),
        ("[::1]:PORT", 403),
        ("", 403),
        (None, 400),
    ],
)
def test_a_name_that_was_made_to_lead_here_is_refused(served, host, status):
    host = host and host.replace("PORT", str(served.port))
    found, headers, body = served.ask("runs.json", Host=host)
    assert found == status
    assert (b'"runs"' in body) == (status == 200)
    assert served.token not in f"{headers}{body}"


def test_two_hosts_or_none_are_refused(served):
    both = f"GET /{served.token}/ HTTP/1.1\r\nHost: {served.host}\r\nHost: attacker.example\r\n\r\n"
    assert served.raw(both.encode()).startswith(b"HTTP/1.1 400 ")
    old = served.raw(f"GET /{served.token}/ HTTP/1.0\r\n\r\n".encode())
    assert old.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_only_get_and_head_are_served(served, method):
    status, headers, _ = served.ask("runs.json", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert served.ask("/runs.json", method)[0] == 404


def test_head_is_answered_without_a_body(served):
    status, headers, body = served.ask("", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 1000


def test_no_path_leads_out_of_the_folder(served, ended):
    ended(served.folder / "traversal")
    (served.folder.parent / "beside.txt").write_text("root:x:0")
    secret = served.wait_for(lambda runs: "traversal" in runs)["traversal"]["id"]
    ups = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "..\\", "....//", "%252e%252e%252f", "%c0%ae%c0%ae/")
    targets = [f"{up * n}{name}" for up in ups for n in (1, 3, 12) for name in ("beside.txt", "etc/passwd")]
    starts = (f"/{served.token}/", f"/report/{secret}/", f"/report/{secret}/report.html/", f"/report/{secret}%2f")
    paths = [f"{start}{target}" for start in starts for target in targets]
    paths += [f"/{served.token}//etc/passwd", f"/{served.token}/%00", f"/{served.token}/page.css%00.html"]
    paths += [f"/{served.token}/../../../nc_strategies/errors.py", "http://attacker.example/", "/report/../etc/passwd"]
    for path in paths:
        answer = served.raw(f"GET {path} HTTP/1.1\r\nHost: {served.host}\r\nConnection: close\r\n\r\n".encode())
        assert re.match(rb"HTTP/1.1 40[04] ", answer), (path, answer)
        assert b"root:" not in answer


def test_every_answer_has_the_headers_of_security(served, ended):
    ended(served.folder / "headers")
    secret = served.wait_for(lambda runs: "headers" in runs)["headers"]["id"]
    for path in ("", "runs.json", "overview.js", "vega.js", "missing", "/", f"/report/{secret}/report.html"):
        _, headers, _ = served.ask(path)
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        if secret in path:
            assert policy["sandbox"] == "allow-scripts"
            assert "connect-src" not in policy
        else:
            assert policy["script-src"] == policy["style-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not any(name.startswith("access-control") for name in headers)
        assert "server" not in headers


def test_a_report_s_secret_opens_that_report_only(served, ended):
    for name in ("one", "two"):
        ended(served.folder / name)
    (served.folder / "two" / "report.html").write_text("the second one")
    runs = served.wait_for(lambda runs: {"one", "two"} <= runs.keys())
    first, second = (runs[name]["id"] for name in ("one", "two"))
    assert b"chart-trade-off" in served.ask(f"/report/{first}/report.html")[2]
    assert served.ask(f"/report/{second}/report.html")[2] == b"the second one"
    assert served.ask(f"/{first}/")[0] == served.ask(f"/{first}/runs.json")[0] == 404
    (served.folder / "two" / "report.html").unlink()
    (served.folder / "two" / "report.html").symlink_to("/etc/passwd")
    assert served.ask(f"/report/{second}/report.html")[0] == 404


def test_what_has_not_changed_is_not_sent_again(served):
    status, headers, _ = served.ask("runs.json")
    again, _, body = served.ask("runs.json", If_None_Match=headers["etag"])
    assert (status, again, body) == (200, 304, b"")


# --- the process


def test_it_changes_nothing_says_nothing_more_and_ends_quietly(serve, ended, tmp_path):
    folder = tmp_path / "runs"
    ended(folder / "a")
    (folder / "a" / ".lock").write_text("")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in folder.rglob("*")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    each = serve(folder, "--port", str(port))
    assert each.port == port
    each.ask("runs.json")
    each.ask("/wrong/")
    each.ask("runs.json", Host="attacker.example")
    each.raw(b"\x16\x03\x01 no HTTP\r\n\r\n")
    each.ask(f"/report/{each.runs()['a']['id']}/report.html")
    assert each.end() == (130, "", "")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in folder.rglob("*")} == before


def test_an_error_within_is_logged_without_the_token(serve, tmp_path):
    broken = tmp_path / "site" / "vl_convert"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no such library')\n")
    paths = f"{broken.parent}:{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    each = serve(tmp_path, PYTHONPATH=paths, XDG_CACHE_HOME=str(tmp_path / "cache"))
    status, _, body = each.ask("vega.js")
    assert (status, each.token.encode() in body) == (500, False)
    assert each.ask("runs.json")[0] == 200
    _, out, err = each.end(signal.SIGTERM)
    assert "CalledProcessError" in err
    assert each.token not in out + err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "error: nowhere: does not exist; the folder that holds the runs\n"),
        (["file"], "error: file: is not a folder; the folder that holds the runs\n"),
        ([".", "--port", "70000"], "error: --port: 70000 is no port; 0 to 65535; 0 takes a free one\n"),
        ([".", "--port", "-1"], "error: --port: -1 is no port; 0 to 65535; 0 takes a free one\n"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert commands.main(["serve", *arguments]) == 2
    assert capsys.readouterr() == ("", line)


def test_a_port_that_is_taken_is_one_line(served, tmp_path, capsys):
    assert commands.main(["serve", str(tmp_path), "--port", str(served.port)]) == 2
    assert capsys.readouterr() == (
        "",
        f"error: --port: {served.port} cannot be used (Address already in use); another port, or none for a free one\n",
    )


def test_a_missing_package_is_one_line_with_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "starlette" else name)
    assert commands.main(["serve", str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", "error: serve: needs starlette; pip install 'nc-strategies[serve]'\n")


# --- the page


class Visit:
    """An opened page, and what it did that it should not."""

    def __init__(self, browser, server, width=1280, scheme="light", fragment=""):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.trouble, self.requests = [], []
        self.context.on("console", lambda message: self.trouble.append(message.text))
        self.context.on("weberror", lambda error: self.trouble.append(str(error.error)))
        self.context.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.page.goto(f"{server.address}{fragment}")
        self.page.wait_for_selector("body[data-ready], body[data-error]")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def names(self):
        return self.page.locator("#body th.name :is(a, span)").all_inner_texts()

    def bars(self):
        return self.page.locator(BARS).count()


@pytest.fixture(scope="module")
def shown(serve, tmp_path_factory):
    """A server of the browser's own: its folder is filled by the first test that needs it."""
    return serve(tmp_path_factory.mktemp("shown"))


@pytest.fixture
def filled(shown, ended):
    if not (shown.folder / "met-a").exists():
        ended(shown.folder / "met-a")
        ended(shown.folder / "met-b", model="other", speedup=9.0, speedup_ci95=[8.5, 9.5])
        ended(shown.folder / "deep" / "missed", status="missed", backend="litert")
        write_json(
            ended(shown.folder / "failed") / "result.json", {"status": "failed", "error": HOSTILE, "strategy": "x"}
        )
        (shown.folder / "torn").mkdir()
        (shown.folder / "torn" / "result.json").write_text("{")
        ended(shown.folder / HOSTILE.replace("/", "_"))
        shown.wait_for(lambda runs: len(runs) == 6)
    return shown


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_is_whole_fits_and_asks_its_own_server_only(browser, filled, width, scheme):
    with Visit(browser, filled, width, scheme) as visit:
        assert visit.trouble == []
        assert all(url.startswith((filled.address, "data:")) for url in visit.requests)
        assert visit.page.title() == "6 runs: 3 met, 1 missed, 1 failed, 1 unreadable - nc_strategies"
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        for chart in ("speedup", "against"):
            box = visit.page.locator(f"#chart-{chart} svg").bounding_box()
            assert box["width"] > 250
            assert box["height"] > 100
        assert visit.bars() == 4
        for name in ("status", "model", "goal", "speedup", "size", "trials", "seconds"):
            assert visit.page.locator(f'#head th[data-key="{name}"]').count() == 1
        row = visit.page.locator("#body tr", has=visit.page.get_by_role("link", name="met-b", exact=True))
        text = row.inner_text()
        for part in ("met", "other", "random", "toy", "top1", "asked ≥", "9.00", "8.50 to 9.50", "% of fp32", "4"):
            assert part in text
        assert "result.json cannot be read (" in visit.page.locator("#body").inner_text()
        # Names and errors from outside stay text.
        assert HOSTILE in visit.page.locator("#body .told").all_inner_texts()
        assert visit.page.locator("img").count() == 0
        assert visit.trouble == []


def test_runs_are_filtered_ordered_and_chosen(browser, filled):
    with Visit(browser, filled) as visit:
        everything = visit.names()
        visit.page.get_by_label("Status", exact=True).select_option("met")
        assert len(visit.names()) == 3
        visit.page.get_by_label("Model", exact=True).select_option("other")
        assert visit.names() == ["met-b"]
        assert visit.page.locator("#count").inner_text() == "1 of 6 runs"
        visit.page.wait_for_selector("#chart-speedup svg")
        visit.page.reload()
        visit.page.wait_for_selector("body[data-ready]")
        assert visit.names() == ["met-b"], "the filters are in the address"
        for name in ("Status", "Model"):
            visit.page.get_by_label(name, exact=True).select_option("")
        visit.page.get_by_label("Find").fill("LITERT deep")
        assert visit.names() == ["deep/missed"]
        visit.page.get_by_label("Find").fill("no such run")
        assert "No run fits these filters." in visit.page.locator("#body").inner_text()
        visit.page.get_by_label("Find").fill("")
        assert visit.names() == everything
        visit.page.get_by_role("button", name="speed-up").click()
        assert visit.names()[0] == "met-b"
        assert visit.page.locator('#head th[data-key="speedup"]').get_attribute("aria-sort") == "descending"
        visit.page.get_by_role("button", name="speed-up").click()
        assert visit.names()[3] == "met-b", "a run without a speed-up is last in both directions"
        visit.page.get_by_label("Draw met-b").uncheck()
        expect_count(visit.page.locator(BARS), 3)
        visit.page.get_by_role("button", name="Choose none").click()
        visit.page.get_by_text("Choose runs in the table").first.wait_for()
        visit.page.get_by_role("button", name="Choose all").click()
        expect_count(visit.page.locator(BARS), 4)
        visit.page.get_by_role("button", name="Loss").click()
        visit.page.get_by_text("loss, tolerated loss = 1").wait_for()
        assert visit.trouble == []


def expect_count(locator, count):
    from playwright.sync_api import expect

    expect(locator).to_have_count(count, timeout=1000 * SECONDS)


def test_a_report_opens_from_its_row_and_cannot_ask_the_server(browser, filled):
    with Visit(browser, filled) as visit:
        with visit.context.expect_page() as opened:
            visit.page.get_by_role("link", name="met-a", exact=True).click()
        report = opened.value
        report.wait_for_selector("body[data-ready]")
        assert report.locator("#chart-trade-off svg").count() == 1
        assert visit.trouble == []
        assert filled.token not in report.evaluate("location.href + document.referrer")
        assert report.evaluate("window.opener") is None
        assert report.evaluate("self.origin") == "null"
        asked = report.evaluate("address => fetch(address).then(() => 'answered', () => 'refused')", filled.address)
        assert asked == "refused"


class Gate(StudyListener):
    """Holds a run up after some trials."""

    def __init__(self, trials):
        self.trials, self.reached, self.go_on = trials, threading.Event(), threading.Event()

    def trial_finished(self, study, trial):
        if len(study.trials) == self.trials:
            analysis.write(study)
            self.reached.set()
            assert self.go_on.wait(SECONDS)


def test_a_run_under_way_is_followed_without_a_reload(browser, serve, finished, tmp_path):
    each = serve(tmp_path)
    with Visit(browser, each) as visit:
        assert visit.page.locator("h1").inner_text() == "No run yet"
        assert str(tmp_path) in visit.page.locator("#example").inner_text()
        visit.page.evaluate("window.kept = true")
        gate = Gate(3)
        ops = (ToyOp("a", loss=0.001), ToyOp("b", "MatMul", loss=0.05))
        thread = threading.Thread(target=lambda: write(*finished("live", ops=ops, listener=gate, max_trials=5)))
        thread.start()
        try:
            visit.page.get_by_text("3 trials, ").wait_for()
            assert visit.page.locator("h1").inner_text() == "1 run: 1 under way"
            assert "Best so far: " in visit.page.locator("#jobs").inner_text()
            assert "so far" in visit.page.locator("#body").inner_text()
        finally:
            gate.go_on.set()
            thread.join()
        visit.page.get_by_role("heading", name="1 run: 1 met").wait_for()
        assert visit.page.locator("#running").is_hidden()
        expect_count(visit.page.locator(BARS), 1)
        assert visit.page.evaluate("window.kept") is True
        assert visit.trouble == []
        each.end()
        visit.page.get_by_text("The server does not answer. This is the state of").wait_for()
        assert visit.names() == ["live"]


def test_many_runs_are_shown_at_once(browser, serve, ended, tmp_path):
    first = ended(tmp_path / "runs" / "0")
    for number in range(1, MANY):
        (first.parent / str(number)).mkdir()
        shutil.copy(first / "result.json", first.parent / str(number))
    with Visit(browser, serve(first.parent), fragment="#order=name+up") as visit:
        names = visit.names()
        assert names == [str(number) for number in range(MANY)]
        assert visit.bars() == 30
        assert "The first 30 of 500 chosen runs are drawn." in visit.page.locator("#caption-speedup").inner_text()
        assert visit.trouble == []
