"""What becomes of a reply that shows no choice, and the verdicts on questions that are right or wrong.

`official` draws one of the choices at random, as the official scripts of MMMU, CMMMU and MMMU-Pro do, from one seeded
stream that runs through the questions in order; only such replies draw. `wrong` counts them as wrong. `expected` gives
what a draw gives on average, 1/n of a point for n choices, so that luck has no part in the score.

Where a choice is drawn or expected, the accuracy with all of these wrong stands beside the other one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from eval.benchmark import Part, Question, Verdict
from eval.parsing import Found, Value, match

FALLBACKS = {
    "official": "one was drawn at random",
    "wrong": "they count as wrong",
    "expected": "they count as a draw does on average",
}
"""By name, what is done about replies without an answer."""
ACCURACY = "accuracy"
FIRM = "accuracy, drawn as wrong"


class Marker:
    """Gives verdicts; one for each pass through the questions, since it holds the stream.

    The right answer to a question whose `truth` is empty is withheld: its verdicts have no parts.
    """

    def __init__(self, fallback: str, seed: int) -> None:
        self._fallback = fallback
        self._stream = random.Random(seed)

    def choice(
        self,
        question: Question,
        reply: str,
        found: Found | None,
        choices: Sequence[str],
        right: Callable[[str], bool],
    ) -> Verdict:
        """The verdict on a choice.

        Args:
            question: what was asked.
            reply: as the model gave it.
            found: what it chooses; None if that can't be said.
            choices: what is drawn from.
            right: whether an answer is right.
        """
        if found is not None:
            return self.settled(question, reply, found, right(found.answer))
        found, points = self._fall_back(choices, right)
        return self._verdict(question, reply, found, points, firm=0.0, drawn=True)

    def _fall_back(self, choices: Sequence[str], right: Callable[[str], bool]) -> tuple[Found, float]:
        if self._fallback == "official":
            drawn = self._stream.choice(choices)
            return Found(drawn, "nothing found: drawn at random"), float(right(drawn))
        if self._fallback == "wrong":
            return Found("", "nothing found: wrong"), 0.0
        why = f"nothing found: what a draw from {len(choices)} gives on average"
        return Found("", why), sum(map(right, choices)) / len(choices)

    def settled(self, question: Question, reply: str, answer: Found, right: bool) -> Verdict:
        """The verdict where there is nothing to draw."""
        return self._verdict(question, reply, answer, float(right), firm=float(right))

    def free(self, question: Question, reply: str, read: Sequence[Value], accepted: Sequence[Value]) -> Verdict:
        """The verdict on an open question.

        Args:
            question: what was asked.
            reply: as the model gave it.
            read: everything in it that may be its answer.
            accepted: right answers, normalised like these.
        """
        matched = match(accepted, read)
        if not question.truth:
            why = "the right answer is withheld"
        elif matched is None:
            why = "nothing read from it matches the answer"
        else:
            why = f"{str(matched).strip()} was read from it"
        answer = "; ".join(dict.fromkeys(str(value).strip() for value in read))
        return self.settled(question, reply, Found(answer, why), matched is not None)

    def missing(self, question: Question) -> Verdict:
        """The verdict on a question without a reply: it is wrong, and draws nothing."""
        return self._verdict(question, None, Found("", "no reply"), 0.0, firm=0.0)

    def _verdict(
        self, question: Question, reply: str | None, found: Found, points: float, *, firm: float, drawn: bool = False
    ) -> Verdict:
        parts: dict[str, Part] = {}
        if question.truth:
            parts[ACCURACY] = Part(points)
            if self._fallback != "wrong":
                parts[FIRM] = Part(firm)
        return Verdict(question=question, reply=reply, answer=found.answer, parts=parts, why=found.why, drawn=drawn)
