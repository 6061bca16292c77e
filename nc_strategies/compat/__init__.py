"""Translations of other tools' interfaces."""
