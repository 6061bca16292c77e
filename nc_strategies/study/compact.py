"""Compact form of the configurations of large models in the journal, and the file that names their operators.

A configuration of 2,000 operators takes 400 kB as `Config.to_dict` gives it, most of which is the same in every line.
The compact form has a character per operator, and the names are in a file of their own, once::

    {"operators": "<key>", "schemes": [{...}, ...], "codes": "0120...", "options": {...}}

``operators`` is a key of ``trials.operators.json``; the other fields are those of `Config.to_compact`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nc_strategies.runtime.files import unwritable, write_atomically
from nc_strategies.space import Config
from nc_strategies.space.palette import Names, names_of

log = logging.getLogger(__name__)
FILE = "trials.operators.json"
SCHEMA = 1
"""Version of the schema of `FILE`."""
MAX_PLAIN_OPERATORS = 200
"""Largest number of operators of a configuration that is written as `Config.to_dict` gives it, for human readers: about
40 kB."""


def is_large(config: Config) -> bool:
    """Whether the journal holds a configuration in the compact form."""
    return len(config.names) > MAX_PLAIN_OPERATORS


def key_of(names: Sequence[str]) -> str:
    """Key of the names of a model's operators, a hash of 16 hex digits."""
    return hashlib.sha256(json.dumps(list(names), separators=(",", ":")).encode()).hexdigest()[:16]


class Operators:
    """``trials.operators.json``: names of the operators of a run's configurations, by key.

    Args:
        folder: The run's folder.
        known: Names of the operators of the run's model, if the caller knows them. They replace a file that is lost or
            damaged.
    """

    def __init__(self, folder: Path, known: Sequence[str] = ()) -> None:
        self.path = folder / FILE
        self._names: dict[str, Names] = {}
        self._keys: dict[Names, str] = {}
        self._stored: set[str] | None = None
        if len(known) > MAX_PLAIN_OPERATORS:
            self._add(key_of(known), names_of(tuple(known)))

    def _add(self, key: str, names: Names) -> None:
        self._names[key] = names
        self._keys[names] = key

    def _read(self) -> set[str]:
        """Read the file once; names whose key is not theirs are ignored: the file was damaged."""
        if self._stored is None:
            self._stored = set()
            try:
                found = json.loads(self.path.read_text(encoding="utf-8"))
                for key, names in found["operators"].items():
                    if key_of(names) == key:
                        self._add(key, names_of(tuple(map(sys.intern, names))))
                        self._stored.add(key)
            except FileNotFoundError:
                pass
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                log.warning("%s cannot be read (%s)", self.path, error)
        return self._stored

    def write(self, config: Config) -> dict[str, Any]:
        """The compact form of a configuration, once its names are on disk.

        Raises:
            EngineError: the disk is full or no longer writable.
        """
        stored = self._read()
        names = names_of(config.names)
        if names not in self._keys:
            self._add(key_of(config.names), names)
        key = self._keys[names]
        if key not in stored:
            every = {one: list(self._names[one].names) for one in {*stored, key}}
            write_atomically(self.path, json.dumps({"schema": SCHEMA, "operators": every}) + "\n")
            _sync(self.path.parent)
            stored.add(key)
        return {"operators": key, **config.to_compact()}

    def read(self, data: Mapping[str, Any], fingerprint: str) -> Config:
        """The configuration of a compact form.

        Args:
            data: The compact form.
            fingerprint: The configuration's fingerprint, which is expensive to compute.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: `write` did not write this data, or the names are lost.
        """
        key = data["operators"]
        names = self._names.get(key)
        if names is None:
            self._read()
            if key not in self._names:
                raise ValueError(f"{self.path.name} does not hold its operators, {key}")
            names = self._names[key]
        return Config.from_compact(data, names.names, fingerprint)


def _sync(folder: Path) -> None:
    """Wait until the names of a folder's files are on disk: a line that refers to a file must not outlive it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritable(folder, error) from error
