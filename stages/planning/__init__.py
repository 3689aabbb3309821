"""What a stage will take, before it runs: memory, FLOPs, steps and time; and what to change where it does not fit."""
