"""``nc-strategies serve``: a local, read-only page of all runs under a folder."""
