"""MMMU: college-level questions about images, in the four protocols that people quote.

python -m eval.mmmu MODEL --data FOLDER [--split validation] [--protocol yi]
"""

from eval.mmmu.benchmark import MMMU

__all__ = ["MMMU"]
