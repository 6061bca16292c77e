"""Runs that measure on another machine, over a real OpenSSH server."""

import json
import os


def test_times_are_those_of_the_target(machine, toy, python_there):
    status, out, err = toy.run(*toy.arguments(*machine.settings(python_there), "run_dir=run"))
    assert status in (0, 3), (out, err)
    result = toy.result()
    print(json.dumps(result["machine"], indent=1), result["tuned"], result["speedup"])
