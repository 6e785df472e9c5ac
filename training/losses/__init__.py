"""What training minimises: each loss is a function of tensors; ``combined`` weighs them."""
