"""Makes and judges the weights. Not installed with the package."""
