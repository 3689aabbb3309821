"""What the adapters to harnesses share: options, stops, and the probability of an answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from PIL import Image

from yivl import YiVL
from yivl.integrations.replies import conversation, cut, log_probability, options_of
from yivl.processor import YiVLProcessor
from yivl.prompt import text

PICTURES = [Image.new("RGB", (64, 40), (200, 0, 0)), Image.new("RGB", (30, 50), (0, 90, 0))]


@pytest.mark.parametrize("pictures", [PICTURES[:0], PICTURES[:1], PICTURES], ids=len)
def test_the_probability_of_an_answer_is_the_product_of_its_tokens(tiny: YiVL, pictures: Sequence[Image.Image]) -> None:
    """The last tokens of the prompt, one forward pass for each."""
    asked = conversation(pictures, "Which colour?", "red, or 红色")
    before = text(conversation(pictures, "Which colour?"))
    processor = YiVLProcessor.of(tiny.model.config, tiny.tokenizer)
    whole = text(asked).removesuffix(" ")  # after the separator
    ids = [processor(list(pictures) or None, [prompt])["input_ids"][0] for prompt in (before, whole)]
    inputs = processor(list(pictures) or None, [whole])
    expected, greedy = 0.0, True
    with torch.no_grad():
        for end in range(len(ids[0]), len(ids[1])):
            logits = tiny.model(input_ids=ids[1][None, :end], pixel_values=inputs.get("pixel_values")).logits[0, -1]
            expected += float(logits.float().log_softmax(-1)[ids[1][end]])
            greedy &= bool(logits.argmax() == ids[1][end])
    found, is_greedy = log_probability(tiny, asked)
    assert found == pytest.approx(expected, rel=1e-4)
    assert is_greedy is greedy


def test_greedy_unless_a_temperature_is_given() -> None:
    assert options_of({}, 9) == {"do_sample": False, "max_new_tokens": 9}
    cold = {"temperature": 0, "top_p": None, "num_beams": 2, "max_new_tokens": 5, "until": ["x"]}
    assert options_of(cold, 9) == {"do_sample": False, "num_beams": 2, "max_new_tokens": 5}
    warm = {"temperature": 0.2, "top_p": 0.9}
    assert options_of(warm, 9) == {"temperature": 0.2, "top_p": 0.9, "do_sample": True, "max_new_tokens": 9}


def test_a_reply_ends_at_the_first_stop() -> None:
    assert cut("one STOP two END", ["END", "STOP", ""]) == "one "
    assert cut("one", "x") == cut("one", ()) == cut("one", "") == "one"
