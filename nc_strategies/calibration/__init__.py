"""What calibration keeps of a model's tensors, and what it decides from them; plain numpy, for any engine."""
