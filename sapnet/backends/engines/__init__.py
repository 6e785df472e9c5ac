"""TensorRT engines: built once, cached, checked and run."""
