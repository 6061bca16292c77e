"""Parts of ``benchmarks/peers.py``: environments, drivers of other tools, the common judge, the report."""
