"""How CMMMU is put to Yi-VL: what it is told, and which picture it sees.

Source: 01-ai/Yi at 526ec7aa, `VL/llava/eval/01_eval_cmmmu.py`, `cmmmu_utils/data_utils.py`, `cmmmu_configs/yi.yaml`;
very probably the way in which the published scores were made. Its oddities, kept since the model sees them:

- Options with the same text appear once, and the later ones move up a letter.
- Where several options are pictures, zeros are shown; their tags leave the prompt, so that "(A) " stays of an option.
- A single option's picture leaves its tag in the prompt.
- The script leaves out a question without any picture. Here it gets zeros, so that nothing is left out.
"""

from __future__ import annotations

import re

from eval.cmmmu.dataset import BLANK, CHOICE, TRUE_FALSE, Entry

_INSTRUCTIONS = {
    CHOICE: (
        "请回答以下多项选择题，并选出正确选项。这些题目可能包括单选和多选题型。"
        "如果所提供的信息不足以确定一个明确的答案，那么请根据可用的数据和你的判断来选择最可能正确的选项。"
    ),
    TRUE_FALSE: (
        "请回答以下判断题，并根据题目描述和所给的信息来判断问题中陈述的对错。"
        "如果信息不完整或不足以作出绝对判断，请运用你的逻辑推理和现有信息来做出最可能的判断。"
    ),
    BLANK: (
        "请回答以下填空题，并根据题目的要求和所提供的信息来给出最恰当的答案。"
        "如果信息不足以确切回答，那么请依据现有的数据和你的推理能力来填写最合理的答案。"
    ),
}
_TAG = re.compile('<img="(.*?)">')
_MARKER = re.compile(r"<图片 \d+>")
"""What the script puts for a tag before it removes both."""


def prompt(entry: Entry) -> str:
    """The user's text; the picture stands before it, on a line of its own."""
    question = entry.question
    for name in _of_question(entry):
        question = question.replace(f'<img="{name}">', "")
    options = "".join(f"({letter}) {text}\n" for letter, text in zip("ABCD", _options(entry), strict=False))
    listed = f"选项：\n{options}\n" if entry.type == CHOICE else ""
    return _MARKER.sub("", f"{_INSTRUCTIONS[entry.type]}\n\n问题：{question}\n{listed}正确答案：\n")


def picture(entry: Entry) -> str | None:
    """The name of the picture that is shown; None for a picture of zeros."""
    pictured = _of_options(entry)
    if not _of_question(entry):
        pictured += [name for option in _options(entry) for name in _TAG.findall(option)]
    if len(pictured) > 1:
        return None
    return next(iter(_of_question(entry)), None)


def _of_question(entry: Entry) -> list[str]:
    return [name for name in entry.images if name.startswith("q_")]


def _of_options(entry: Entry) -> list[str]:
    return [name for name in entry.images if name.startswith("a_")]


def _options(entry: Entry) -> list[str]:
    """Each text once; where several are pictures, without the tag of the picture whose name ends in its number."""
    pictures = dict.fromkeys(entry.options, "")
    named = _of_options(entry)
    if entry.options and len(named) > 1:
        for name in named:
            number = name.rsplit("_", 1)[-1].split(".")[0][-1:]
            if number in ("1", "2", "3", "4"):
                pictures[entry.options[int(number) - 1]] = name
    return [text.replace(f'<img="{name}">', "") if name else text for text, name in pictures.items()]
