"""A measurement target in a worker process."""
