"""The TensorFlow backend: int8 kernels of the stock TensorFlow wheel, saved as a plain SavedModel."""
