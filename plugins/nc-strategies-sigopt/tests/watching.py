"""What other users of the machine, and child processes, can see of a token."""

import threading
from pathlib import Path


class Watch:
    """Looks at all command lines, and at the environments of a process's Python descendants, while a block runs.

    `found` says where the token was, `children` are the descendants that were seen. The system's tools which Python's
    own library calls for a moment (uname, ldconfig) inherit what the process itself was given.
    """

    def __init__(self, token, process):
        self.token, self.process = token.encode(), process
        self.found, self.children, self.looks = set(), set(), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(0.05):
            self.looks += 1
            self._look()

    def _look(self):
        parents = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                line = (place / "cmdline").read_bytes()
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if self.token in line:
                self.found.add(f"command line {line[:200]!r}")
        for number in parents:
            parent = parents[number]
            while parent in parents and parent != self.process:
                parent = parents[parent]
            if parent == self.process:
                self._look_into(number)

    def _look_into(self, number):
        try:
            line = Path(f"/proc/{number}/cmdline").read_bytes()
            environment = Path(f"/proc/{number}/environ").read_bytes()
        except OSError:
            return
        # Between fork and exec a child is still its parent's copy.
        if b"python" in line and line != Path(f"/proc/{self.process}/cmdline").read_bytes():
            self.children.add(line.replace(b"\0", b" ").decode())
            if self.token in environment:
                self.found.add(f"environment of {line[:200]!r}")
