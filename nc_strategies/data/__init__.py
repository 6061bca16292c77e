"""What the user brings to calibrate and evaluate with: loaders, preprocessing, batches."""
