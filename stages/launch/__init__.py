"""Stages in order, on one machine, on several, or as a Slurm job; and the check of a machine before it trains."""
