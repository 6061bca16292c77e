"""Shared by all tests."""

import os

# Engines and thread pools must not take all processors from the other tests.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")
