"""``python -m nc_strategies``."""

from nc_strategies.app.entry import main

if __name__ == "__main__":
    main()
