"""Reports of a run: the result file, tables, comparisons, pages, progress."""
