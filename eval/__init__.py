"""Benchmarks: each a sub-package that is run from the checkout, such as `python -m eval.mmmu MODEL --data FOLDER`."""
