"""What a user is told when the other machine cannot be used."""

import io
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import nc_strategies
from nc_strategies.app.path_overrides import quote_path
from nc_strategies.errors import EngineError, InputError, TargetError
from nc_strategies.measuring.lengths import TimedBatch
from nc_strategies.measuring.remote import frames, store
from nc_strategies.measuring.remote.connection import Target
from nc_strategies.measuring.remote.session import Engine, RemoteSession, pauses
from nc_strategies.measuring.remote.store import Parcel, pack
from nc_strategies.measuring.worker.messages import Request
from nc_strategies.measuring.worker.process import DiedError, Limits, WorkerProcess
from nc_strategies.models import ModelSource
from nc_strategies.runtime.ssh import Address
from nc_strategies.testing.toy import SCHEMES, ToyBackend, ToyOp, ToySettings, toy_space

TOY = Engine.named("nc_strategies.testing.toy:ToyBackend", ToySettings, 1)
HERE = Path(nc_strategies.__file__).parent


@pytest.fixture
def there(machine):
    """Makes a session with an interpreter on the other machine."""

    def make(python=sys.executable, engine=TOY):
        target = Target(Address.parse(machine.address(python)), str(machine.config))
        return closing(RemoteSession(target, engine))

    return make


def refusal(session):
    with session as made, pytest.raises(TargetError) as caught:
        made.connect()
    text = str(caught.value)
    assert text.startswith("measure.target: ")
    assert "\n" not in text
    return text


def script(machine, name, text):
    path = machine.folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_wrong_host_key_is_one_line_with_status_two(machine, toys):
    machine.know(machine.folder / "other.pub")
    try:
        status, out, err = toys.run(*toys.arguments(*machine.settings(), "run_dir=refused"))
    finally:
        machine.know(machine.folder / "host.pub")
    assert (status, out) == (2, "")
    assert err.startswith("error: measure.target: ")
    assert err.endswith("cannot be reached (Host key verification failed.)\n")
    assert err.count("\n") == 1
    assert not (toys.folder / "refused").exists()


def test_a_refused_login_says_what_ssh_says(machine, there):
    machine.configure("other")
    try:
        assert "Permission denied (publickey)" in refusal(there())
    finally:
        machine.configure("client")


def test_a_server_that_is_not_there_says_what_ssh_says(machine):
    target = Target(Address.parse("ssh://127.0.0.1:1/usr/bin/python3"), str(machine.config))
    assert "Connection refused" in refusal(closing(RemoteSession(target, TOY)))


def test_a_missing_interpreter_is_named(there):
    assert "has no Python at /no/such/python" in refusal(there("/no/such/python"))


def test_an_interpreter_that_cannot_be_run_is_named(machine, there):
    path = machine.folder / "not-a-program"
    path.write_text("")
    assert f"cannot run {path}" in refusal(there(path))


def test_a_missing_package_comes_with_the_command_that_installs_it(machine, there):
    python = machine.python("bare", [])
    text = refusal(there(python))
    assert f"has no nc-strategies in {python}" in text
    version = nc_strategies.__version__
    assert f'"{python} -m pip install nc-strategies=={version}"' in text
    assert f"ssh -p {machine.port} " in text


def test_another_version_comes_with_the_command_that_installs_it(machine, there):
    stub = machine.folder / "older" / "nc_strategies"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text('__version__ = "0.0.9"\n')
    text = refusal(there(machine.python("old", [stub.parent])))
    assert f"has nc-strategies 0.0.9, this is {nc_strategies.__version__}" in text
    assert "pip install" in text


def test_a_missing_engine_is_named(there):
    engine = Engine(("no_such_engine.backend", "Backend"), ("", "", {}), 1)
    text = refusal(there(engine=engine))
    assert "has no no_such_engine" in text
    assert "pip install" in text


def test_a_login_may_print_before_the_greeting(machine, there):
    python = script(machine, "chatty", f'echo Welcome\necho to this machine\nexec {sys.executable} "$@"')
    with there(python) as session:
        assert session.machine()["cores"] >= 1


@pytest.mark.parametrize("limit", ["file size", "disk"])
def test_a_full_disk_is_one_line(machine, there, limit, tmp_path):
    if limit == "disk":
        full = tmp_path / "full"
        full.mkdir()
        mounted = (
            os.getuid() == 0
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full], check=False, capture_output=True
            ).returncode
        )
        if not mounted:
            pytest.skip("needs the right to mount a small file system")
        setting = f"export XDG_CACHE_HOME={full}"
    else:
        setting = "ulimit -f 64"
    python = script(machine, "small", f'{setting}\nexec {sys.executable} "$@"')
    parcel = tmp_path / "large.zip"
    parcel.write_bytes(os.urandom(10**6))
    try:
        with there(python) as session, pytest.raises(TargetError, match="cannot store what the run sends") as caught:
            session.peak_bytes(Parcel(parcel, "0" * 40), {"x": np.zeros(4)})
        assert "\n" not in str(caught.value)
        assert any(word in str(caught.value) for word in ("No space left", "File too large"))
    finally:
        if limit == "disk":
            subprocess.run(["umount", "-l", full], check=True)


@pytest.mark.parametrize(
    ("answer", "error", "problem"),
    [
        ("garbage that is not a frame at all", TargetError, "does not answer as nc-strategies does"),
        ("shape", EngineError, "not that of the models asked for"),
        ("nan", EngineError, "not that of the models asked for"),
        ("pickle", EngineError, "cannot be read"),
        ("escape", EngineError, r"on the target: \?\[2Jgone"),
    ],
)
def test_a_target_that_sends_something_else_is_not_believed(machine, there, tmp_path, answer, error, problem):
    """The other machine's answers are data: none of them is run."""
    ran = tmp_path / "ran"
    python = machine.folder / "liar"
    python.write_text(
        LIAR.format(python=sys.executable, answer=answer, ran=str(ran), version=nc_strategies.__version__)
    )
    python.chmod(0o755)
    parcel = tmp_path / "model.zip"
    parcel.write_bytes(b"")
    with there(python) as session:
        model = session.model(Parcel(parcel, "0" * 40))
        with pytest.raises(error, match=problem):
            session.time([model, model], [TimedBatch({"x": np.zeros(4)})], 20, 0, 1.0, lambda: None, lambda: 1.0)
    assert not ran.exists()


LIAR = """#!{python}
import io, json, os, re, struct, sys
import numpy as np

class Evil:
    def __reduce__(self):
        return (os.mkdir, ({ran!r},))

def send(header, body=b""):
    text = json.dumps(header).encode()
    sys.stdout.buffer.write(struct.pack(">IQ", len(text), len(body)) + text + body)
    sys.stdout.buffer.flush()

answers = {{
    "shape": np.ones((5, 3)),
    "nan": np.full((5, 2), np.nan),
    "pickle": np.array([Evil()], dtype=object),
}}
sys.stdin.buffer.read(int(re.search("[0-9]+", sys.argv[-1])[0]))
print("nc-strategies-target " + json.dumps({{"version": {version!r}, "protocol": 1}}), flush=True)
while sizes := sys.stdin.buffer.read(12):
    count, size = struct.unpack(">IQ", sizes)
    call = json.loads(sys.stdin.buffer.read(count))["call"]
    sys.stdin.buffer.read(size)
    if call != "time":
        send({{"versions": {{}}, "lacking": []}})
    elif {answer!r} == "escape":
        send({{"error": "engine", "text": chr(27) + "[2Jgone"}})
    elif {answer!r} in answers:
        stream = io.BytesIO()
        np.savez(stream, a0=answers[{answer!r}])
        send({{}}, stream.getvalue())
    else:
        sys.stdout.buffer.write({answer!r}.encode() * 10)
        sys.stdout.buffer.flush()
"""


@pytest.mark.parametrize(
    "address",
    [
        "user@host:/usr/bin/python3",
        "ssh://host",
        "ssh://host/",
        "ssh://-oProxyCommand=touch/usr/bin/python3",
        "ssh://user@-host/usr/bin/python3",
        "ssh://host:port/usr/bin/python3",
        "ssh://host/usr/bin/python3?x=1",
        "ssh://us er@host/usr/bin/python3",
        "http://host/usr/bin/python3",
    ],
)
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(InputError, match=r"expected ssh://user@host\[:port\]/path/to/python"):
        Address.parse(address)


def test_an_address_with_a_password_is_refused_without_showing_it():
    with pytest.raises(InputError, match="no password is taken") as caught:
        Address.parse("ssh://user:geheim@host/usr/bin/python3")
    assert "geheim" not in str(caught.value)


def test_the_path_of_an_interpreter_is_quoted_for_the_shell():
    command = Address.parse("ssh://host/a%20b/$(touch x)/python").command(["-c", "1"])
    assert command[-1] == "'/a b/$(touch x)/python' -c 1"
    assert command[-3:-1] == ["--", "host"]
    assert Address.parse("ssh://host/~/venv/bin/python").python == "venv/bin/python"


def test_host_keys_are_checked_and_no_password_is_asked_for():
    words = " ".join(Address.parse("ssh://host/usr/bin/python3").command([]))
    assert "BatchMode=yes" in words
    assert "StrictHostKeyChecking" not in words


def test_pauses_grow_and_add_up():
    found = list(pauses(90.0))
    assert found[:4] == [0.0, 0.5, 1.0, 2.0]
    assert sum(found) == pytest.approx(90.0)
    assert list(pauses(0.0)) == [0.0]


def test_frames_hold_what_was_written():
    stream = io.BytesIO()
    frames.write_frame(stream, {"call": "put", "key": "é"}, b"\0" * 5)
    stream.seek(0)
    assert frames.read_frame(stream) == ({"call": "put", "key": "é"}, b"\0" * 5)
    with pytest.raises(EOFError):
        frames.read_frame(stream)


def test_an_engine_that_dies_there_again_and_again_is_at_fault(machine, python_there, tmp_path):
    ops = [ToyOp("a"), ToyOp("b")]
    config = toy_space(ops).all_float().with_op("a", scheme=SCHEMES[0])
    (tmp_path / "model.toy").write_text(json.dumps([asdict(op) for op in ops]))
    backend = ToyBackend(ToySettings())
    backend.load(ModelSource("toy", {"toy": tmp_path / "model.toy"}))
    parcel = pack(backend.save(config, tmp_path / "int8"), tmp_path / "int8", tmp_path / "int8.zip")
    engine = Engine(("ncs_toys.parts", "Toys"), ("ncs_toys", "ToysSettings", {"there": "dies"}), 1)
    target = Target(Address.parse(machine.address(python_there)), str(machine.config))
    with closing(RemoteSession(target, engine, reconnect_seconds=5.0)) as session:
        batch = {"x": np.zeros(4)}
        with pytest.raises(EngineError, match="ended 3 times"):
            session.time([session.model(parcel)], [TimedBatch(batch)], 20, 0, 1.0, lambda: None, lambda: 1.0)
        assert session.machine()["engine"]["toys"] == "there"  # the next model gets a new process


def test_time_in_which_a_worker_waits_does_not_count_for_its_limit(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE.parent / "tests" / "target" / "plugin"))
    worker = WorkerProcess("ncs_toys.waiting:make", None)
    try:
        assert worker.call(Request("wait", (0.1, True)), Limits(60.0)) == "waited"
        assert worker.call(Request("wait", (1.5, True)), Limits(1.0)) == "waited"
        with pytest.raises(DiedError, match="gave no answer within 1 seconds"):
            worker.call(Request("wait", (2.5, False)), Limits(1.0))
    finally:
        worker.kill()


def packed(folder, text):
    """A parcel with a file of a thousand random bytes and a text."""
    folder.mkdir()
    (folder / "weights").write_bytes(os.urandom(1000))
    (folder / "model").write_text(text)
    return pack(folder / "model", folder, folder.with_suffix(".zip"))


@pytest.fixture
def little_room(monkeypatch, tmp_path):
    """Room for three parcels on both machines."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "RULES", store.StoreRules(most_bytes=3900))


def test_parcels_in_use_stay_when_others_make_room(little_room, tmp_path):
    parcels, made = store.Parcels(), []

    def take(name):
        def make():
            made.append(name)
            return packed(tmp_path / f"{name}-{len(made)}", name)

        return parcels.take(name, make)

    fp32, first = take("fp32"), take("first")
    parcels.give_back(first)
    assert take("first").archive.exists()
    parcels.give_back(first)
    for name in ("second", "third"):
        parcels.give_back(take(name))
    assert fp32.archive.exists()
    assert not first.archive.exists()
    take("first")
    assert made == ["fp32", "first", "second", "third", "first"]


def test_the_target_makes_room_and_says_what_is_gone(little_room, tmp_path):
    there = store.Store("abc")
    found = [packed(tmp_path / str(n), str(n)) for n in range(5)]
    gone = []
    for parcel in found:
        data = parcel.archive.read_bytes()
        assert there.add(parcel.key, data[:100], True, False) == []
        gone += there.add(parcel.key, data[100:], False, True, used=[found[0].key])
    assert gone == [found[1].key, found[2].key]
    assert [there.find(parcel.key) is not None for parcel in found] == [True, False, False, True, True]
    assert (there.find(found[4].key) / found[4].path).read_text() == "4"
    there.remove()
    assert not there.folder.exists()


def test_what_an_old_run_left_is_removed_by_a_new_one(little_room):
    left, kept = store.Store("aaa"), store.Store("bbb")
    os.utime(left.folder, (0, 0))
    store.Store("ccc")
    assert (left.folder.exists(), kept.folder.exists()) == (False, True)


@pytest.mark.parametrize("name", ["../run", "", "a/b"])
def test_the_name_of_a_run_is_no_path(little_room, name):
    with pytest.raises(ValueError, match="no name of a run"):
        store.Store(name)


def test_addresses_can_be_swept_and_may_be_relative_to_the_home_folder():
    parse, places = (
        OverridesParser.create().parse_override,
        ["ssh://a@b:22/usr/bin/python3", "ssh://c/~/venv/bin/python"],
    )
    swept = parse(quote_path(f"measure.target={','.join(places)}", True))
    assert [parse(f"measure.target={each}").value() for each in swept.sweep_string_iterator()] == places
    assert parse(quote_path(f"measure.target={places[1]}", False)).value() == places[1]
