"""Published models: ours beside what a user would pick instead."""
