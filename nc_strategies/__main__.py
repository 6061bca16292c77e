"""``python -m nc_strategies``."""

from nc_strategies.app.hydra_app import main

if __name__ == "__main__":
    main()
