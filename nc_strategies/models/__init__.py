"""Model loaders: files, models that code builds, and the bundled sample."""

from nc_strategies.models.source import FileModel, FileModelSettings, ModelSource, sample

__all__ = ["FileModel", "FileModelSettings", "ModelSource", "sample"]
