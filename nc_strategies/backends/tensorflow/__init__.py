"""The TensorFlow backend: the int8 kernels of stock TensorFlow, in a plain SavedModel."""
