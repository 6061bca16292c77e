"""What the user brings to calibrate and evaluate with: loaders, preprocessing, batches."""

from nc_strategies.data.dataset import Dataset, Raw
from nc_strategies.data.preprocess import Preprocess

__all__ = ["Dataset", "Preprocess", "Raw"]
