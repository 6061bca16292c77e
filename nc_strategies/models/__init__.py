"""Where the user's model comes from."""

from nc_strategies.models.source import FileModel, FileModelSettings, ModelSource, sample

__all__ = ["FileModel", "FileModelSettings", "ModelSource", "sample"]
