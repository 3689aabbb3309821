"""MMMU: college-level questions about images, answered by a model and scored as the benchmark's authors do.

    python -m eval.mmmu MODEL --data FOLDER --split validation

`subjects`, `parsing`, `dataset`, `protocol`, `scoring`, `published`, `predictions` and `report` know nothing of torch,
so that predictions are scored anywhere; `run` asks the model and is the only one that imports `yivl`.
"""
