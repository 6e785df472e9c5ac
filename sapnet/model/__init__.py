"""The network: maths only, no files and no images."""
