"""Asking: every form of generation, batches like single questions, streaming like asking, the command line."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from yivl import Conversation, Turn, YiVL, YiVLConfig, YiVLForConditionalGeneration, YiVLProcessor, prompt, question
from yivl.cli import main
from yivl.folder import write_model
from yivl.images import PADDING, ZERO
from yivl.inference import StopText, _settled

CATS = TINY / "image_0.png"
QUESTIONS = [
    question(CATS, "图中有几只猫？"),
    question(None, "Hi"),
    question(TINY / "image_1.png", "Describe the cats and what they are doing in detail."),
    Conversation(
        turns=(Turn("human", "Which is older?", images=2), Turn("assistant", "The first."), Turn("human", "Why?")),
        images=(CATS, TINY / "image_1.png"),
    ),
]


@pytest.mark.parametrize(
    "generation",
    [
        {},
        {"num_beams": 3},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"cache_implementation": "static"},
    ],
    ids=lambda generation: next(iter(generation), "greedy"),
)
def test_a_batch_answers_the_same_as_one_by_one(tiny: YiVL, generation: dict[str, Any]) -> None:
    together = tiny.answer(QUESTIONS, max_new_tokens=10, **generation)
    assert together == [tiny.chat(one, max_new_tokens=10, **generation) for one in QUESTIONS]
    assert all(together)


def test_sampling_is_reproducible_by_seed(tiny: YiVL) -> None:
    def sampled(seed: int) -> str:
        torch.manual_seed(seed)
        return tiny.ask(CATS, "图中有几只猫？", max_new_tokens=12, do_sample=True, temperature=1.0)

    assert sampled(1) == sampled(1) != sampled(2)


def test_beams_return_several_sequences_of_the_prompt_and_new_tokens(tiny: YiVL) -> None:
    inputs = tiny.processor.encode(QUESTIONS[:2])
    length = inputs["input_ids"].shape[1]
    sequences = tiny.model.generate(**inputs, num_beams=2, num_return_sequences=2, max_new_tokens=4, min_new_tokens=4)
    assert sequences.shape == (4, length + 4)
    text = inputs["input_ids"] >= 0
    assert torch.equal(sequences[::2, :length][text], inputs["input_ids"][text])


def test_beam_search_finds_no_less_likely_answers_than_greedy(tiny: YiVL) -> None:
    inputs = tiny.processor.encode(QUESTIONS[:1])
    length = inputs["input_ids"].shape[1]

    def likelihood(**generation: Any) -> float:
        sequence = tiny.model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, **generation)
        ids = torch.cat([inputs["input_ids"], sequence[:, length:]], dim=1)
        with torch.no_grad():
            logits = tiny.model(ids, inputs["pixel_values"]).logits[0, length - 1 : -1]
        return float(logits.log_softmax(-1).gather(1, ids[0, length:, None]).sum())

    assert likelihood(num_beams=8) >= likelihood() - 1e-4


def test_streamed_pieces_joined_are_the_answer(tiny: YiVL) -> None:
    pieces = list(tiny.stream(CATS, "图中有几只猫？", max_new_tokens=24))
    assert len(pieces) > 3
    assert "".join(pieces) == tiny.ask(CATS, "图中有几只猫？", max_new_tokens=24)


def test_streaming_never_shows_a_stop_or_takes_text_back() -> None:
    whole = " two # cats ##\n## end \n### Human: no"
    shown = ""
    for end in range(len(whole) + 1):
        settled = _settled(whole[:end])
        assert settled.startswith(shown)
        shown = settled
    assert shown == prompt.cut(whole) == "two # cats ##\n## end"


def test_an_abandoned_stream_stops_generating(tiny: YiVL) -> None:
    before = threading.active_count()
    stream = tiny.stream(CATS, "x", max_new_tokens=3000, min_new_tokens=3000)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_a_conversation_beyond_the_context_is_refused(tiny: YiVL) -> None:
    with pytest.raises(ValueError, match=r"takes \d+ tokens, images included; the model reads 4096 at most"):
        tiny.ask(CATS, "long " * 5000)


def test_an_error_while_streaming_reaches_the_caller(tiny: YiVL) -> None:
    with pytest.raises(ValueError, match="model_kwargs"):
        list(tiny.stream(CATS, "x", max_new_tokens=2, no_such_option=1))


def test_each_row_stops_at_its_own_separator(tiny: YiVL) -> None:
    stop = StopText(tiny.tokenizer, 1, prompt.STOPS)
    rows = ["a b\n###", "abc\nHuman:", "abc\n Human:", "nothing #", "x ### y"]
    ids = [tiny.tokenizer(row).input_ids for row in rows]
    width = max(map(len, ids)) + 1
    padded = torch.tensor([[5] * (width - len(row)) + row for row in ids])
    assert stop(padded, None).tolist() == [True, True, True, False, True]


def test_an_image_is_taken_in_every_form(tiny: YiVL) -> None:
    image = Image.open(CATS)
    answers = {
        tiny.ask(form, "图中有几只猫？", max_new_tokens=6)
        for form in (str(CATS), CATS, CATS.read_bytes(), image, __import__("numpy").asarray(image.convert("RGB")))
    }
    assert len(answers) == 1


def test_the_zero_image_has_normalised_pixels_of_zero(tiny: YiVL) -> None:
    zero = tiny._inputs([question(CATS, "a"), question(ZERO, "b")])["pixel_values"]
    assert zero[1].abs().max() == 0 and zero[0].abs().max() > 0
    padding = tiny._inputs([question(Image.new("RGB", (5, 5), PADDING), "b")])["pixel_values"]
    assert padding.dtype == torch.uint8


def test_auto_classes_load_a_saved_model(tiny: YiVL, tmp_path: Path) -> None:
    write_model(tiny.model, tiny.tokenizer, tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), YiVLConfig)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(model, YiVLForConditionalGeneration) and isinstance(processor, YiVLProcessor)
    image = Image.open(CATS)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "图中有几只猫？"}]
    messages = [{"role": "user", "content": content}]
    from_messages = processor.apply_chat_template(messages, tokenize=True)
    from_text = processor(images=image, text=processor.apply_chat_template(messages), return_tensors="pt")
    assert torch.equal(from_messages["input_ids"], from_text["input_ids"])
    assert torch.equal(from_messages["pixel_values"], from_text["pixel_values"])
    new = model.generate(**from_text, max_new_tokens=8, do_sample=False)[:, from_text["input_ids"].shape[1] :]
    reply = prompt.cut(processor.batch_decode(new, skip_special_tokens=True)[0])
    assert reply == tiny.ask(CATS, "图中有几只猫？", max_new_tokens=8)


def test_save_pretrained_alone_reloads_bit_exactly(tiny: YiVL, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    first, second = tiny.model.state_dict(), again.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_text_alone_gives_the_language_models_own_logits(tiny: YiVL) -> None:
    ids = tiny.tokenizer("The language model alone", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(tiny.model(ids).logits, tiny.model.language(ids).logits)


def test_wrong_inputs_say_what_is_wrong(tiny: YiVL, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model folder"):
        YiVL.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json"):
        YiVL.load(tmp_path)
    with pytest.raises(ValueError, match="unknown dtype 'float99'"):
        YiVL.load(TINY, dtype="float99")
    for device in ("nowhere", "cuda:99"):
        with pytest.raises(ValueError, match=f"device '{device}' can't be used"):
            YiVL.load(TINY, device=device)
    with pytest.raises(ValueError, match="role 'system'; known are user, assistant"):
        tiny.processor.apply_chat_template([{"role": "system", "content": "x"}])
    with pytest.raises(ValueError, match="nothing to answer"):
        tiny.chat(Conversation(turns=(Turn("human", "a"), Turn("assistant", "b"))))
    with pytest.raises(ValueError, match="1 image placeholders in the text but 0 images"):
        tiny.processor(text=f"{prompt.PLACEHOLDER}\nhi")
    with pytest.raises(ValueError, match="16 image placeholders in the ids, but 0 images"):
        tiny.model(tiny.processor.encode(QUESTIONS[:1])["input_ids"])
    with pytest.raises(FileNotFoundError, match="no image file"):
        tiny.ask(tmp_path / "none.png", "x")


def test_dtype_is_chosen_on_loading() -> None:
    assert YiVL.load(TINY, dtype="bfloat16").model.dtype == torch.bfloat16


def test_yivl_ask(capsys: pytest.CaptureFixture[str], tiny: YiVL) -> None:
    assert main(["ask", str(TINY), str(CATS), "图中有几只猫？", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out == tiny.ask(CATS, "图中有几只猫？", max_new_tokens=8) + "\n"
    assert main(["ask", str(TINY), "none.png", "x"]) == 1
    assert "no image file none.png" in capsys.readouterr().err


def test_yivl_chat_keeps_the_conversation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: YiVL
) -> None:
    said = iter(["What is it?", "And why?", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    assert main(["chat", str(TINY), str(CATS), "--max-new-tokens", "5"]) == 0
    first = tiny.ask(CATS, "What is it?", max_new_tokens=5)
    turns = (Turn("human", "What is it?", images=1), Turn("assistant", first), Turn("human", "And why?"))
    second = tiny.chat(Conversation(turns=turns, images=(CATS,)), max_new_tokens=5)
    assert capsys.readouterr().out == f"{first}\n{second}\n"


def test_yivl_convert_to_the_other_layout_and_back(tmp_path: Path, tiny: YiVL) -> None:
    ours, released = tmp_path / "ours", tmp_path / "released"
    assert main(["convert", str(TINY), str(ours), "--layout", "yivl"]) == 0
    assert main(["convert", str(ours), str(released), "--layout", "released"]) == 0
    assert main(["convert", str(ours), str(released)]) == 1  # would overwrite a model
    answer = tiny.ask(CATS, "图中有几只猫？", max_new_tokens=8)
    assert YiVL.load(ours).ask(CATS, "图中有几只猫？", max_new_tokens=8) == answer
    assert YiVL.load(released).ask(CATS, "图中有几只猫？", max_new_tokens=8) == answer
