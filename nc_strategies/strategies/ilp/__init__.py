"""The integer-programming strategy: schemes by solving predicted latency under predicted loss, corrected by trials."""
