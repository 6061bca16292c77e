"""Backends: the schemes an engine can execute, and how a configuration is built into an int8 graph.

Backends know nothing of strategies.
"""
