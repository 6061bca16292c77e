"""What a run leaves to read: the result file, tables, comparisons, progress."""
