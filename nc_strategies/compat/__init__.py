"""Compatibility with the interfaces of other tools."""
