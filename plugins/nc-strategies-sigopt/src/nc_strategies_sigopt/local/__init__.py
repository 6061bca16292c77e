"""SigOpt's API in this process: no account, no network, kept on disk, Optuna's TPE behind it."""

from nc_strategies_sigopt.local.driver import LocalDriver

__all__ = ["LocalDriver"]
