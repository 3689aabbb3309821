"""CMMMU: MMMU's Chinese companion, with questions of choice, of true or false, and with blanks to fill.

python -m eval.cmmmu MODEL --data FOLDER [--split val] [--protocol official]
"""

from eval.cmmmu.benchmark import CMMMU

__all__ = ["CMMMU"]
