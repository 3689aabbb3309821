"""Forward, backward and the optimiser: in plain torch, and on DeepSpeed."""
