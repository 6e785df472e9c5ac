"""What training minimises: each loss is a function of tensors and a thin Module around it, one idea per file."""
