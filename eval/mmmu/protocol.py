"""The four ways in which MMMU is asked and graded: prompt, pictures, longest reply, parser, grading.

They differ in all of these, and so do their scores: the protocol's name stands in every result. Common to all here are
greedy decoding and the model's own way of preparing a picture.

`yi` is that of Yi-VL's script (01-ai/Yi at 526ec7aa, `VL/llava/eval/01_eval_mmmu.py`), very probably the one behind the
published scores. The script writes raw replies only; they are graded as `official` grades them.

`official` is that of the benchmark's own runner for LLaVA-1.5 (MMMU-Benchmark/MMMU, `mmmu/run_llava.py`,
`mmmu/configs/llava1.5.yaml`). Its model samples with five beams; this one does not.

`lmms-eval` is lmms-eval's task `mmmu_val` (`tasks/mmmu/utils.py`). To a question that mentions several pictures it
shows them all, and leaves it to the model what to do; Yi-VL reads one, so they are joined here as its tasks
`mmmu_*_group_img` join them for such models. A list literal is no list of right answers: three questions of validation
can't be answered right.

`vlmevalkit` is VLMEvalKit's `MMMU_DEV_VAL` for a model that takes one picture (`vlmeval/dataset/image_mcq.py`,
`vlmeval/vlm/base.py`, `vlmeval/vlm/yi_vl.py`), graded with `exact_matching`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image, ImageOps

from eval.benchmark import BadData, Picture, Verdict
from eval.fallback import Marker
from eval.mmmu.dataset import TAG, Sample, accepted
from eval.mmmu.inference import OTHER, infer, right_letter
from eval.mmmu.strip import joined
from eval.mmmu.subjects import SPLITS
from eval.parsing import LOOSE, OFFICIAL, Mark, normalize_str, parse_multi_choice_response, parse_open_response

Images = Mapping[int, bytes]
"""Files of images by their number, in the order in which they are wanted; one that is null is not there."""

_CHOOSE = "Answer with the option's letter from the given choices directly."
_SAY = "Answer the question using a single word or phrase."
_DOTTED = "{}. {}\n"
_BRACKETED = "({}) {}\n"
_SELECT = "Please select the correct answer from the options above. \n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One way to ask and to grade."""

    prompt: Callable[[Sample], str]
    """The user's text; the picture stands before it, on a line of its own."""
    wanted: Callable[[Sample], Sequence[int]]
    """Numbers of the images that are shown."""
    show: Callable[[Sample, Images], tuple[Picture, ...]]
    """What is made of them."""
    max_new_tokens: Mapping[str, int]
    """Longest reply, by split."""
    seed: int | None
    """Of the random fallback; None where nothing is drawn."""
    grade: Callable[[Sample, str, Marker], Verdict]
    """What becomes of a reply."""


def _lines(sample: Sample, form: str) -> str:
    return "".join(form.format(letter, text) for letter, text in sample.choices.items())


def _yi_prompt(sample: Sample) -> str:
    """Tags leave the question, and the space that followed them stays; the options keep theirs."""
    question = TAG.sub("", sample.question)
    if not sample.multiple_choice:
        return f"{question}\n{_SAY}"
    return f"{question}\n{_lines(sample, _DOTTED)}\n{_CHOOSE}"


def _official_prompt(sample: Sample) -> str:
    """The blank lines of the format in `llava1.5.yaml` are folded by YAML; tags stay as text."""
    if not sample.multiple_choice:
        return f"{sample.question}\n{_SAY}"
    return f"{sample.question}\n{_lines(sample, _BRACKETED)}\n{_CHOOSE}"


def _lmms_eval_prompt(sample: Sample) -> str:
    """Tags stay as text."""
    if not sample.multiple_choice:
        return f"{sample.question}\n\n{_SAY}"
    return f"{sample.question}\n{_lines(sample, _DOTTED)}\n{_CHOOSE}"


def _vlmevalkit_prompt(sample: Sample) -> str:
    """Cut at the tags, where pictures would stand, and put together again by line breaks. An open question asks for
    nothing."""
    options = f"Options:\n{_lines(sample, _DOTTED)}{_SELECT}" if sample.options else ""
    return "\n".join(TAG.split(f"Question: {sample.question}\n{options}")[::2])


def _first(sample: Sample) -> Sequence[int]:
    return (1,)


def _yi_wanted(sample: Sample) -> Sequence[int]:
    """The first, and none where the options hold several.

    Where the question has no tag the script counts those of the options twice, so one is several.
    """
    tags = sum(len(TAG.findall(option)) for option in sample.options)
    if not TAG.search(sample.question):
        tags *= 2
    return (1,) if tags <= 1 else ()


def _all_mentioned(sample: Sample) -> Sequence[int]:
    return sorted(set(sample.mentioned))


def _first_mentioned(sample: Sample) -> Sequence[int]:
    """Not always the first; that one where none is mentioned."""
    return sample.mentioned[:1] or (1,)


def _or_zeros(sample: Sample, images: Images) -> tuple[Picture, ...]:
    """The placeholder of the picture stays in the prompt, and zeros take its place."""
    return (images.get(1),)


def _if_any(sample: Sample, images: Images) -> tuple[Picture, ...]:
    return tuple(images.values())


def _mentioned_one(sample: Sample, images: Images) -> tuple[Picture, ...]:
    _check_there(sample, images, sample.mentioned[:1])
    return tuple(images.values())


def _as_a_strip(sample: Sample, images: Images) -> tuple[Picture, ...]:
    _check_there(sample, images, sample.mentioned)
    if len(images) < 2:
        return tuple(images.values())
    return (joined([_opened(sample, number, content) for number, content in images.items()]),)


def _check_there(sample: Sample, images: Images, mentioned: Sequence[int]) -> None:
    if missing := [number for number in mentioned if number not in images]:
        raise BadData(f"{sample.where}: <image {missing[0]}> is mentioned, and image_{missing[0]} is empty")


def _opened(sample: Sample, number: int, content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and others
        raise BadData(f"{sample.where}: image_{number} can't be decoded: {error}") from error


def _grade(sample: Sample, reply: str, marker: Marker, *, marks: Sequence[Mark], lists: bool) -> Verdict:
    """As MMMU's own scripts do (`mmmu/utils/eval_utils.py`).

    Args:
        sample: the question.
        reply: to it.
        marker: draws where no letter is found.
        marks: how letters are looked for.
        lists: whether a list literal among the right answers is one.
    """
    answers = accepted(sample.truth) if lists else [sample.truth]
    if sample.multiple_choice:
        found = parse_multi_choice_response(reply, sample.choices, marks)
        return marker.choice(sample, reply, found, list(sample.choices), answers.__contains__)
    values = [value for answer in answers for value in normalize_str(answer)]
    return marker.free(sample, reply, parse_open_response(reply), values)


def _vlmevalkit_grade(sample: Sample, reply: str, marker: Marker) -> Verdict:
    """An open question becomes a choice between its answer and other answers."""
    options = sample.choices or {"A": sample.truth, "B": OTHER}
    found = infer(reply, options)
    right = right_letter(sample.truth)
    return marker.choice(sample, reply, found, list(options), lambda letter: letter == right)


PROTOCOLS = {
    "yi": Protocol(
        prompt=_yi_prompt,
        wanted=_yi_wanted,
        show=_or_zeros,
        max_new_tokens=dict.fromkeys(SPLITS, 64),
        seed=42,
        grade=partial(_grade, marks=OFFICIAL, lists=True),
    ),
    "official": Protocol(
        prompt=_official_prompt,
        wanted=_first,
        show=_if_any,
        max_new_tokens=dict.fromkeys(SPLITS, 128),
        seed=42,
        grade=partial(_grade, marks=OFFICIAL, lists=True),
    ),
    "lmms-eval": Protocol(
        prompt=_lmms_eval_prompt,
        wanted=_all_mentioned,
        show=_as_a_strip,
        max_new_tokens={"validation": 128, "dev": 128, "test": 512},
        seed=0,
        grade=partial(_grade, marks=LOOSE, lists=False),
    ),
    "vlmevalkit": Protocol(
        prompt=_vlmevalkit_prompt,
        wanted=_first_mentioned,
        show=_mentioned_one,
        max_new_tokens=dict.fromkeys(SPLITS, 1024),
        seed=None,
        grade=_vlmevalkit_grade,
    ),
}
"""By name; the first is the usual one. To add one, add an entry here."""
