"""The choice in a reply as VLMEvalKit infers it, without its judge.

Source of the behaviour: open-compass/VLMEvalKit, `vlmeval/utils/matching_util.py` (`can_infer`) and
`vlmeval/dataset/utils/multiple_choice.py` (`MMMU_preproc`, `exact_matching`). What can't be inferred it would ask a
language model; with `exact_matching`, as here, it is wrong. Nothing is drawn.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from eval.parsing import Found

OTHER = "Other Answers"
"""The second option that an open question gets when it is graded; the first is its answer."""

_SPACES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_NEAR_THE_END = 5
"""A letter counts whose distance from the end is less than so many tokens: one of the last four."""
_TOLD = re.compile(r"(?i)answer\s+is\s+\**([ABCD])\**")
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
REFUSED = "Z"


def infer(reply: str, options: Mapping[str, str]) -> Found | None:
    """The option, by its letter, that `reply` chooses; `REFUSED` for none of them; None where that can't be inferred.

    Args:
        reply: as the model gave it.
        options: text by letter.
    """
    if any(refusal in reply for refusal in _REFUSALS):
        return Found(REFUSED, "a refusal")
    tokens = reply.translate(_SPACES).split()
    letters = [letter for letter in options if letter in tokens]
    if len(letters) == 1 and len(tokens) - tokens.index(letters[0]) < _NEAR_THE_END:
        return Found(letters[0], f"{letters[0]} is the only letter of an option, near the end")
    if not letters and REFUSED in tokens:
        return Found(REFUSED, "Z stands for none of the options")
    told = _TOLD.search(reply)
    if told and (letter := told[1].upper()) in options:
        return Found(letter, f"says that the answer is {letter}")
    return _by_text(reply.lower(), {letter: text.lower() for letter, text in options.items()})


def _by_text(reply: str, options: Mapping[str, str]) -> Found | None:
    """The only option whose text is in a reply that is not much longer than all options together."""
    if len(reply) > 2 * sum(map(len, options.values())):
        return None
    found = [letter for letter, text in options.items() if text in reply]
    return Found(found[0], f"the text of option {found[0]} alone") if len(found) == 1 else None


def right_letter(answer: str) -> str:
    """The letter that counts for `answer`, of a choice or open: what is no capital letter is itself the first option.

    So an open question whose answer is "C" can't be answered right, and one whose answer is "B" by that letter alone,
    which is that of the other answers (VLMEvalKit #1617).
    """
    return answer if len(answer) == 1 and answer in string.ascii_uppercase else "A"
