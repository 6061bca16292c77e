"""A real OpenSSH server on the loopback interface, for the tests of measuring on another machine."""

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from nc_strategies.testing import ToyOp

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SAMPLES = 400


def _lacking():
    programs = [
        name
        for name, path in (("ssh", shutil.which("ssh")), ("ssh-keygen", shutil.which("ssh-keygen")))
        if path is None
    ]
    return [*programs, *([] if Path(SSHD).is_file() else ["sshd"])]


class Machine:
    """An OpenSSH server with keys of its own, and interpreters that it can be asked to run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cache = folder / "cache"
        for name in ("host", "client", "other"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True, capture_output=True
            )
        (folder / "authorized_keys").write_text((folder / "client.pub").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile {folder / 'pid'}\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\n"
            f"SetEnv XDG_CACHE_HOME={self.cache} NCS_BEHIND_SSH=1\n"
        )
        self.know(folder / "host.pub")
        self.config = folder / "ssh_config"
        self.configure("client")
        self.process = None
        self.start()

    def know(self, key):
        """Let the client expect this host key."""
        kind, text = key.read_text().split()[:2]
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {text}\n")

    def configure(self, key):
        """Let the client sign in with this key."""
        self.config.write_text(
            f"IdentityFile {self.folder / key}\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {self.folder / 'known_hosts'}\nGlobalKnownHostsFile /dev/null\n"
        )

    def start(self):
        Path("/run/sshd").mkdir(exist_ok=True) if os.getuid() == 0 else None
        self.process = subprocess.Popen(
            [SSHD, "-D", "-E", self.folder / "sshd.log", "-f", self.folder / "sshd_config"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise TimeoutError((self.folder / "sshd.log").read_text())

    def stop(self):
        """Stop the server; its connections stay."""
        self.process.terminate()
        self.process.wait()

    def connections(self):
        """Process ids of the servers of the connections that are open."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(status[1]) == self.process.pid and status[0] != "Z":
                    found.append(int(entry.name))
        return found

    def cut(self):
        """End all connections, as a network does."""
        for each in self.connections():
            os.kill(each, signal.SIGKILL)

    def vanish(self):
        """End the server and all connections; `start` brings it back."""
        open_ones = self.connections()
        self.stop()
        for each in open_ones:
            os.kill(each, signal.SIGKILL)

    def address(self, python=sys.executable):
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{python}"

    def settings(self, python=sys.executable):
        """Arguments of a run that measures there."""
        return [f"measure.target={self.address(python)}", f"measure.ssh_config={self.config}"]

    def python(self, name, places):
        """An interpreter with packages of its own: an environment without pip, and paths."""
        place = self.folder / name
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        site = next((place / "lib").glob("python3*")) / "site-packages"
        (site / "places.pth").write_text("".join(f"{each}\n" for each in places))
        return place / "bin" / "python"


@pytest.fixture(scope="session")
def packages():
    """Paths of the packages that the project needs, as this interpreter finds them."""
    return [each for each in sys.path if each and Path(each).is_dir() and "site-packages" in each]


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    lacking = _lacking()
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    found = Machine(tmp_path_factory.mktemp("machine"))
    yield found
    found.cut()
    found.stop()


@pytest.fixture(scope="session")
def python_there(machine, packages):
    """An interpreter in an environment of its own, as another machine has one."""
    return machine.python("there", [ROOT, HERE / "plugin", *packages])


def toy_ops(count=6):
    rng = np.random.default_rng(3)
    losses, times = rng.lognormal(0, 1.0, count), rng.lognormal(0, 0.5, count)
    return [
        ToyOp(
            f"op{i}",
            loss=float(losses[i] / losses.sum() * 0.04),
            time_us=float(times[i] * 40),
            int8_time_us=float(times[i] * 16),
        )
        for i in range(count)
    ]


class Toys:
    """A toy problem in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "model.toy").write_text(json.dumps([asdict(op) for op in toy_ops()]))
        labels = np.arange(SAMPLES) % 2
        np.savez(folder / "data.npz", x=labels + (np.arange(SAMPLES) * 0.618034) % 1.0, y=labels)
        found = folder / "site" / "ncs_toys-0.dist-info"
        found.mkdir(parents=True)
        (found / "METADATA").write_text("Metadata-Version: 2.1\nName: ncs-toys\nVersion: 0\n")
        (found / "entry_points.txt").write_text("[nc_strategies]\ntoys = ncs_toys\n")
        paths = [str(ROOT), str(HERE / "plugin"), str(folder / "site"), os.environ.get("PYTHONPATH", "")]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def arguments(self, *more):
        return [
            "backend=toys",
            "model=toy",
            f"model.path={self.folder / 'model.toy'}",
            "data=npz",
            f"data.path={self.folder / 'data.npz'}",
            "data.calibration_samples=20",
            "strategy=random",
            "measure.latency_runs=20",
            "measure.final_runs=20",
            "tuning.max_trials=3",
            *more,
        ]

    def start(self, *arguments):
        """Start the command line."""
        return subprocess.Popen(
            [sys.executable, "-m", "nc_strategies", *arguments],
            cwd=self.folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )

    def run(self, *arguments, timeout=120):
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return process.returncode, out, err

    def journal(self, name):
        path = self.folder / name / "trials.jsonl"
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []

    def log(self, name):
        return (self.folder / name / "nc_strategies.log").read_text()

    @staticmethod
    def wait_for(condition, seconds=60.0):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("waited in vain")
            time.sleep(0.01)

    def result(self, name="run"):
        return json.loads((self.folder / name / "result.json").read_text())


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("toys"))
