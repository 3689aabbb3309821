"""What a reply to a question of CMMMU says, and whether it is right, as officially or with the bugs fixed.

Source of the behaviour: CMMMU-Benchmark/CMMMU, `eval/utils/eval_utils.py`. `OFFICIAL` keeps its bugs, since scores are
comparable only when the same replies count; `STRICT` is without them:

1. A letter counts anywhere, inside words too: a reply with DNA chooses A and D. Strictly it stands alone among Latin
   letters.
2. An empty option occurs in every reply. Strictly it does not count.
3. 不正确, 不对, 不准确 count as 对, since they hold 正确, 对, 准确, which are looked for first. Strictly what denies
   comes first.
4. A full-width colon or comma behind 答案 passes for the answer, and hides the line with the real one. Strictly a tail
   of punctuation alone, Chinese too, is none.
5. 1，234 is the text 1，234 and the number 234, and 1,234 inside a text the numbers 1 and 234. Strictly both are 1234.

All three kinds of question keep what is no bug but a rule: of letters that occur equally often all are chosen; a text
is right when it holds the right one; true and false mentioned equally often are no answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eval.benchmark import Verdict
from eval.cmmmu.dataset import BLANK, CHOICE, Entry
from eval.fallback import Marker
from eval.parsing import TRIVIAL, Found, Value, extract_numbers, number, padded, tails

_LETTERS = ("A", "B", "C", "D")
_TRUE, _FALSE = "对", "错"

_LINES = re.compile("。|\n")
_BLANK_INDICATORS = ("是", "为", "所以", "等于", "方案", "选择", "正确答案", "因此", "最后", "答案", "结果")
_TRUE_FALSE_INDICATORS = ("是", "为", "所以", "判断", "陈述", "说法", "表达", "答案", "结果")
"""What follows the last of one of these on a line is taken for the answer."""

_AFFIRM = ("正确", "对", "准确", "肯定", "对的")
_DENY = ("不对", "错误", "不正确", "不准确", "不合适", "否定", "错的", "错")
_AMBIGUOUS = ("对错", "是否正确", "否正确", "或者", "是否", "正确性", "对不")
"""Tails with one of these say neither."""

_LONGER = 20
_MORE_LETTERS = 2
"""By so many characters, and by so many Latin letters, a text may exceed the right one and still be an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """In what `OFFICIAL` and `STRICT` differ."""

    letter: str
    """Pattern of a letter outside brackets; `{}` is the letter."""
    empty_options: bool
    """Whether an empty option's text is looked for."""
    polarity: tuple[tuple[str, tuple[str, ...]], ...]
    """Words for either answer; the first that has one in a tail gets it."""
    trivial: tuple[str, ...]
    """Tails that say nothing."""
    numbers: tuple[re.Pattern[str], ...]
    separator: str
    """Of thousands, beside the comma."""


OFFICIAL = Rules(
    letter="{}",
    empty_options=True,
    polarity=((_TRUE, _AFFIRM), (_FALSE, _DENY)),
    trivial=TRIVIAL,
    numbers=(
        re.compile(r"-?\d{1,3}(?:，\d{3})+"),
        re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
        re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+)(?![eE][+-]?\d+)(?!，\d)"),
    ),
    separator="",
)
STRICT = Rules(
    letter=r"(?<![A-Za-z]){}(?![A-Za-z])",
    empty_options=False,
    polarity=((_FALSE, _DENY), (_TRUE, _AFFIRM)),
    trivial=(*TRIVIAL, "：", "，", "、", "；", "！", "？"),
    numbers=(re.compile(r"-?(?:\d{1,3}(?:[,，]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|-?\.\d+"),),
    separator="，",
)


def grade(entry: Entry, reply: str, marker: Marker, rules: Rules) -> Verdict:
    """The verdict on a reply.

    Args:
        entry: the question.
        reply: to it.
        marker: draws where no answer is found.
        rules: `OFFICIAL` or `STRICT`.
    """
    if entry.type == BLANK:
        accepted = _normalised(entry.truth, entry.truth, rules)
        return marker.free(entry, reply, blank(reply, entry.truth, rules), accepted)
    if entry.type == CHOICE:
        # The official script looks into no empty reply: it is wrong, without a draw.
        found = choice(reply, entry.choices, rules) if reply else Found("", "an empty reply: wrong without a draw")
        drawn_from: Sequence[str] = _LETTERS
    else:
        found = true_or_false(reply, rules)
        drawn_from = (_TRUE, _FALSE)
    return marker.choice(entry, reply, found, drawn_from, entry.truth.__eq__)


def choice(reply: str, options: Mapping[str, str], rules: Rules) -> Found | None:
    """The letters that a reply chooses, in order, all of those that occur most often; None where the script draws one.

    Letters in brackets count first, then bare letters, then the options' texts.
    """
    reply = padded(reply)
    ways: dict[str, Callable[[str], int]] = {
        "in brackets": lambda letter: reply.count(f"({letter})"),
        "in it": lambda letter: len(re.findall(rules.letter.format(letter), reply)),
    }
    if reply.split():
        ways["as the option's text"] = lambda letter: _occurrences(reply, options.get(letter, ""), rules)
    for way, count in ways.items():
        counts = {letter: count(letter) for letter in _LETTERS}
        if most := max(counts.values()):
            letters = "".join(letter for letter in _LETTERS if counts[letter] == most)
            return Found(letters, f"{' and '.join(letters)} {way}, {most} time{'s' * (most > 1)}")
    return None


def _occurrences(reply: str, option: str, rules: Rules) -> int:
    return reply.count(option) if option or rules.empty_options else 0


def true_or_false(reply: str, rules: Rules) -> Found | None:
    """对 or 错, whichever more of the reply's tails say; None where the script draws one."""
    each = dict.fromkeys(_tails(reply, _TRUE_FALSE_INDICATORS, (), rules))
    clear = [tail for tail in each if not any(word in tail for word in _AMBIGUOUS)]
    said = [one for tail in clear if (one := _says(tail, rules))]
    counts = Counter(one.answer for one in said)
    if counts[_TRUE] == counts[_FALSE]:
        return None
    winner = max(counts, key=counts.__getitem__)
    return next(one for one in said if one.answer == winner)


def _says(tail: str, rules: Rules) -> Found | None:
    words = ((answer, word) for answer, known in rules.polarity for word in known)
    return next((Found(answer, f"{word} says {answer}") for answer, word in words if word in tail), None)


def blank(reply: str, answer: str, rules: Rules) -> list[Value]:
    """Everything in a reply that may be what fills the blank, normalised for comparison with `answer`."""
    found = list(_tails(reply, _BLANK_INDICATORS, ("=",), rules))
    found += [one for tail in found for one in extract_numbers(tail, rules.numbers)]
    return list(dict.fromkeys(value for one in found for value in _normalised(one, answer, rules)))


def _tails(reply: str, indicators: tuple[str, ...], last_line: tuple[str, ...], rules: Rules) -> list[str]:
    text = reply.strip("。").strip()
    return list(tails(_LINES.split(text), indicators, last_line, rules.trivial)) or [text]


def _normalised(text: str, answer: str, rules: Rules) -> list[Value]:
    """As compared: a number of two decimals, or text; nothing for text that is too long to be the answer."""
    text = text.strip()
    value = number(text.replace(rules.separator, ""))
    if value is not None:
        return [value]
    too_long = len(text) > len(answer) + _LONGER or _latin(text) > _latin(answer) + _MORE_LETTERS
    return [] if too_long else [text]


def _latin(text: str) -> int:
    return sum(letter.isascii() and letter.isalpha() for letter in text)
