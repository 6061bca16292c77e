"""Backends: what an engine can run, how a configuration becomes an int8 graph. They know no strategy."""
