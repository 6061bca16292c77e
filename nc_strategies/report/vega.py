"""The plotting library's scripts for a page: Vega, Vega-Lite and Vega-Embed.

The package vl-convert-python bundles them, which takes seconds and many megabytes of memory. This is done once, in a
separate process, and the result is kept in the user's cache.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from importlib.metadata import version

from nc_strategies.runtime import cache

BUNDLE = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"
NOTICE = """/* Vega, Vega-Lite and Vega-Embed: Copyright (c) 2015-2025 University of Washington Interactive Data Lab and
contributors. Redistribution and use in source and binary forms, with or without modification, are permitted under the
terms of the BSD 3-Clause License: this notice is kept, the names of the holders endorse nothing without permission, and
THE SOFTWARE IS PROVIDED "AS IS", WITHOUT ANY WARRANTY; THE HOLDERS ARE NOT LIABLE FOR ANY DAMAGES. */
"""


@functools.cache
def vega() -> str:
    """The scripts as one text that is safe inside a script element.

    Raises:
        PackageNotFoundError: vl-convert-python is not installed.
        CalledProcessError: it could not bundle the scripts.
    """
    name = f"vega-{version('vl-convert-python')}.js"
    kept = cache.read(name)
    if kept is not None:
        return kept
    made = subprocess.run([sys.executable, "-c", BUNDLE], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    text = NOTICE + made.stdout.decode().replace("</script", "<\\/script").replace("<!--", "<\\!--")
    cache.keep(name, text)
    return text
