"""A third party's package that cannot be imported."""

raise RuntimeError("made for another version")
