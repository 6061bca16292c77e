"""Shared by all tests."""

import os
import signal

# Engines and thread pools must not take all processors from the other tests.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what it puts in the background with interrupts ignored, and so would every process that a test starts
# be: those that are to be interrupted would not notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
