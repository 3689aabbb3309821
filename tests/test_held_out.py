"""Held-out samples: which they are, their loss, the model's answers, and that training does not notice."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, jpeg
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from data.index import index_path
from data.loader import BrokenSource
from data.mixture import Mixture, resolve, taken_samples
from data.packing import pack
from data.shards import caption_sample, conversation_sample, write_shards
from data.store import Store
from stages.held_out import HeldOut, Look
from stages.parts import freeze_all_but
from stages.stage import Stage
from stages.train import engine_of, train
from yivl import YiVL
from yivl.conversation import Conversation, Turn
from yivl.encoder import IGNORE, Encoder
from yivl.fast_images import PIXELS
from yivl.ranks import Ranks, joined
from yivl.settings import SettingsError, read

ROOT = Path(__file__).resolve().parent.parent
FORMATS = {"seen": "caption", "asked": "conversation", "told": "completion"}
Made = Callable[..., Stage]


def world() -> dict[str, list[Conversation]]:
    """12 captions; 5 conversations: one of text alone, one with two images in its question, one with a second image in
    its second question; 4 completions, one of nothing."""
    rng = np.random.default_rng(7)
    asked = []
    for i in range(5):
        images = (0, 2)[i] if i < 2 else 1
        turns = [Turn("human", f"What is {i}?", images=images), Turn("assistant", f"It is {'so ' * i}much.")]
        turns += [Turn("human", "And this?", images=int(i == 2)), Turn("assistant", "Less.")] * (i % 2 or i == 2)
        pictures = tuple(jpeg(rng) for turn in turns for _ in range(turn.images))
        asked.append(Conversation(turns=tuple(turns), images=pictures, source="asked", key=f"a{i}"))
    captions = [f"a picture of {'very ' * (i % 4)}odd thing {i}" for i in range(12)]
    return {
        "seen": [
            Conversation(turns=(Turn("assistant", text, images=1),), images=(jpeg(rng),), source="seen", key=f"s{i:02}")
            for i, text in enumerate(captions)
        ],
        "asked": asked,
        "told": [
            Conversation(
                turns=(Turn("assistant", f"are {i + i}."),), given=f"{i} and {i}\n", source="told", key=f"t{i}"
            )
            for i in range(3)
        ],
    }


def written(one: Conversation) -> dict[str, Any]:
    """A conversation as a member of a shard of its source's format."""
    if one.source == "seen":
        assert isinstance(one.images[0], bytes)
        return caption_sample(one.key, one.images[0], one.turns[0].text)
    if one.source == "asked":
        return conversation_sample(one)
    return {"__key__": one.key, "json": {"prompt": one.given, "completion": one.turns[0].text}}


@pytest.fixture
def made(stage_file: Callable[..., Path], shards: Path, tmp_path: Path) -> Made:
    """Makes a stage with held-out samples; `held` (a mixture's sources) says of which sources."""
    data = tmp_path / "data"
    data.mkdir()
    for source in ("captions", "chats"):
        (data / source).symlink_to(shards / source)
    for source, conversations in world().items():
        write_shards(data / source, map(written, conversations), per_shard=5)

    def make(held: dict[str, Any] | None = None, **settings: Any) -> Stage:
        known = {name: {"shards": f"{name}/*.tar", "format": kind} for name, kind in FORMATS.items()}
        known |= {name: {"shards": f"{name}/*.tar", "format": "caption"} for name in ("captions", "copies")}
        known["others"] = known["captions"]  # the same shards under another name
        (tmp_path / "known.yaml").write_text(yaml.safe_dump({"sources": known}))
        mixture = {"catalogue": "known.yaml", "sources": held or {name: {} for name in FORMATS}}
        (tmp_path / "held.yaml").write_text(yaml.safe_dump(mixture, sort_keys=False))
        stage = {"data": str(data), "held_out": "held.yaml", "learning_rate": {"language": 1e-3}, "answers": 0}
        return read(Stage, stage_file(**(stage | settings)))

    return make


def encoder_of(model: YiVL, stage: Stage) -> Encoder:
    return Encoder(model.tokenizer, patches=16, image_side=56, pixels=PIXELS[stage.pixels], max_length=stage.max_length)


def build(stage: Stage, model: YiVL, ranks: Ranks | None = None) -> HeldOut:
    store = Store(Path(stage.data))
    trained = resolve(read(Mixture, stage.mixture), store, stage.seed)
    return HeldOut(
        stage, trained=trained, store=store, encoder=encoder_of(model, stage), ranks=ranks or Ranks(),
        folder=Path(stage.run),
    )  # fmt: skip


def look(stage: Stage, model: YiVL) -> Look:
    freeze_all_but(model.model, stage.learning_rate)
    return build(stage, model).look(engine_of(model.model, stage, Ranks()))


def keys(stage: Stage, model: YiVL) -> list[str]:
    """Of all held-out samples, in the order in which they would be answered."""
    return [asked.key for asked in build(stage, model).questions]


def slow_loss(model: YiVL, encoder: Encoder, conversations: list[Conversation]) -> tuple[float, int]:
    """The definition: each sample alone, logits at every position, one mean over all supervised tokens."""
    total, tokens = 0.0, 0
    for conversation in conversations:
        example = encoder.encode(conversation)
        pixels = torch.from_numpy(example.pixels) if len(example.pixels) else None
        with torch.no_grad():
            logits = model.model(torch.from_numpy(example.input_ids)[None], pixels).logits[0, :-1]
        targets = torch.from_numpy(example.labels)[1:]
        total += F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum").item()
        tokens += int((targets != IGNORE).sum())
    return total / tokens, tokens


@pytest.mark.parametrize("tokens", [1024, 300])
def test_losses_are_those_of_each_sample_alone(made: Made, tiny: YiVL, fresh_tiny: YiVL, tokens: int) -> None:
    stage = made(tokens_per_micro_batch=tokens, max_length=300)
    found = look(stage, fresh_tiny)
    encoder = encoder_of(tiny, stage)
    expected = {source: slow_loss(tiny, encoder, conversations) for source, conversations in world().items()}
    assert list(found.losses) == list(FORMATS)
    assert found.tokens == {source: count for source, (_, count) in expected.items()}
    assert found.losses == pytest.approx({source: loss for source, (loss, _) in expected.items()}, rel=1e-5)
    assert found.answers == ()


def test_in_bf16_it_computes_as_training_does(made: Made, fresh_tiny: YiVL) -> None:
    """Under autocast, over frozen weights in bf16 and trained ones in fp32."""
    stage = made(precision="bf16", held={"seen": {}}, answers=2, learning_rate={"projector": 1e-3})
    freeze_all_but(fresh_tiny.model, stage.learning_rate)
    engine = engine_of(fresh_tiny.model, stage, Ranks())
    held_out = build(stage, fresh_tiny)
    found = held_out.look(engine)
    (batch,) = held_out.batches
    fresh_tiny.model.eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = fresh_tiny.model(
            batch.input_ids[None], batch.pixels, position_ids=batch.position_ids[None], labels=batch.labels[None],
            bounds=batch.bounds,
        ).loss  # fmt: skip
    assert found.losses["seen"] == pytest.approx(expected.item(), rel=1e-6)
    assert len(found.answers) == 2


def test_samples_are_a_fixed_choice(made: Made, tiny: YiVL) -> None:
    every = keys(made(held={"seen": {}}, held_out_samples=100, answers=100), tiny)
    assert sorted(every) == [f"s{i:02}" for i in range(12)] != every
    assert keys(made(held={"seen": {}}, held_out_samples=5, answers=100), tiny) == every[:5]
    assert keys(made(held={"seen": {}}, held_out_samples=5, answers=100, seed=7), tiny) == every[:5]
    among = keys(made(held_out_samples=5, answers=100, global_batch=7, tokens_per_micro_batch=512), tiny)
    assert [key for key in among if key.startswith("s")] == every[:5]
    assert keys(made(held={"seen": {"cap": 3}}, answers=100), tiny)[3:] == []


def spoil(stage: Stage, *numbers: int) -> None:
    """Writes the captions anew, some without their text."""
    samples = [written(one) for one in world()["seen"]]
    for number in numbers:
        del samples[number]["txt"]
    shutil.rmtree(Path(stage.data) / "seen")
    write_shards(Path(stage.data) / "seen", samples, per_shard=5)


def test_the_next_comes_for_a_sample_that_cannot_be_read(
    made: Made, fresh_tiny: YiVL, caplog: pytest.LogCaptureFixture
) -> None:
    stage = made(held={"seen": {}}, held_out_samples=6, answers=100)
    usual = keys(made(held={"seen": {}}, held_out_samples=12, answers=100), fresh_tiny)
    spoil(stage, int(usual[2][1:]))
    with caplog.at_level("INFO", logger="yivl"):
        assert keys(stage, fresh_tiny) == [*usual[:2], *usual[3:7]]
    assert f"held out: {usual[2]} in seen/" in caplog.text and "no txt member" in caplog.text
    kept = [one for one in world()["seen"] if one.key in {*usual[:2], *usual[3:7]}]
    expected, tokens = slow_loss(fresh_tiny, encoder_of(fresh_tiny, stage), kept)
    found = look(stage, fresh_tiny)
    assert (found.tokens["seen"], found.losses["seen"]) == (tokens, pytest.approx(expected, rel=1e-5))


def test_a_source_that_cannot_be_read_is_named_before_training(made: Made, tiny: YiVL) -> None:
    stage = made()
    spoil(stage, *range(12))
    with pytest.raises(BrokenSource, match=r"samples of source 'seen' in a row can't be used.*no txt member"):
        build(stage, tiny)
    shutil.rmtree(Path(stage.data) / "told")
    with pytest.raises(FileNotFoundError, match="source 'told' has no shards"):
        build(stage, tiny)


def test_samples_that_are_trained_on_are_refused(made: Made, tiny: YiVL) -> None:
    """The mixture trains on 50 of the 60 captions; each held-out one is refused just when it is among them."""
    outcomes = []
    for seed in range(40):
        stage = made(held={"others": {}}, held_out_samples=1, answers=1, seed=seed)
        store = Store(Path(stage.data))
        manifest = resolve(read(Mixture, stage.mixture), store, seed)
        chosen = manifest.sources[0]
        trained = set()
        for shard in chosen.shards:
            index = store.index(chosen.name, shard.path)
            trained |= {index.key(number) for number in taken_samples(manifest, chosen, shard, index)}
        assert len(trained) == 50
        try:
            (key,) = keys(stage, tiny)
            assert key not in trained
            outcomes.append(False)
        except SettingsError as error:
            assert "1 samples of source 'others', such as " in str(error) and "as source 'captions'" in str(error)
            assert str(error).split("such as ")[1].split(" in captions/")[0] in trained
            outcomes.append(True)
    assert set(outcomes) == {True, False}


def test_copies_of_trained_shards_are_refused(made: Made, tiny: YiVL, shards: Path) -> None:
    stage = made(held={"copies": {}})
    copies = Path(stage.data) / "copies"
    copies.mkdir()
    shutil.copy(shards / "captions" / "00001.tar", copies / "other.tar")
    shutil.copy(index_path(shards / "captions" / "00001.tar"), index_path(copies / "other.tar"))
    with pytest.raises(
        SettingsError, match=r"source 'copies', such as 0000000\d\d in copies/other.tar, are trained on"
    ):
        build(stage, tiny)


@pytest.fixture
def taught(fresh_tiny: YiVL, made: Made) -> YiVL:
    """The tiny model after a little training on the held-out samples, so that it ends what it says."""
    model, encoder = fresh_tiny.model.train(), encoder_of(fresh_tiny, made())
    batch = pack([encoder.encode(one) for conversations in world().values() for one in conversations[:3]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(15):
        loss = model(
            batch.input_ids[None], batch.pixels, position_ids=batch.position_ids[None], labels=batch.labels[None],
            bounds=batch.bounds,
        ).loss  # fmt: skip
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return fresh_tiny


def slow_reply(model: YiVL, ids: list[int], pixels: Tensor | None) -> str:
    """The likeliest token each time, without a cache, up to the end of a line or 64 of them."""
    reply, new = "", list[int]()
    while "\n" not in reply and len(new) < 64:
        with torch.no_grad():
            new.append(int(model.model(torch.tensor([ids + new]), pixels).logits[0, -1].argmax()))
        reply = model.tokenizer.decode(new)
    return reply


def test_answers_come_in_turn_and_are_those_that_the_model_gives_when_asked(made: Made, taught: YiVL) -> None:
    stage = made(answers=11, pixels="exact")
    answers = look(stage, taught).answers
    taught.model.eval()
    assert [one.source for one in answers] == ["seen", "asked", "told"] * 3 + ["seen", "asked"]
    assert {one.key for one in answers if one.source == "told"} == {"t0", "t1", "t2"}  # before t3 there is nothing
    conversations = {one.name: one for every in world().values() for one in every}
    encoder = encoder_of(taught, stage)
    endings = 0
    for one in answers:
        conversation = conversations[f"{one.source}/{one.key}"]
        first = conversation.turns[0]
        if one.source == "asked":
            assert (one.question, one.truth) == (first.text, conversation.turns[1].text)
            asked = Conversation(turns=(first,), images=conversation.images[: first.images])
            assert one.answer == taught.chat(asked, max_new_tokens=64)
        else:
            assert (one.question, one.truth) == (conversation.given, first.text)
            example = encoder.encode(conversation)
            before = example.input_ids[: (example.labels != IGNORE).argmax()].tolist()
            reply = slow_reply(taught, before, torch.from_numpy(example.pixels) if len(example.pixels) else None)
            assert one.answer == reply.strip()
            endings += reply.endswith("\n")
    assert endings > 3


def test_pictures_are_those_of_the_question_as_the_model_sees_them(made: Made, tiny: YiVL) -> None:
    stage = made(answers=100)
    conversations = {one.name: one for every in world().values() for one in every}
    shown = {}
    for number, one in enumerate(build(stage, tiny).questions, 1):
        conversation = conversations[f"{one.source}/{one.key}"]
        shown[one.key] = count = conversation.turns[0].images
        file = Path(stage.run) / "answers" / f"{number}.png"
        assert one.picture == (f"answers/{number}.png" if count else None) and file.exists() == bool(count)
        if count:
            seen = encoder_of(tiny, stage).encode(conversation).pixels[:count]
            with Image.open(file) as picture:
                assert np.array_equal(np.asarray(picture), np.hstack([image.transpose(1, 2, 0) for image in seen]))
    assert (shown["a0"], shown["a1"], shown["a2"], len(conversations["asked/a2"].images)) == (0, 2, 1, 2)


def test_a_look_changes_nothing(made: Made, fresh_tiny: YiVL) -> None:
    stage = made(answers=3)
    freeze_all_but(fresh_tiny.model, stage.learning_rate)
    engine = engine_of(fresh_tiny.model, stage, Ranks())
    states = repr((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))
    weights = {name: tensor.clone() for name, tensor in fresh_tiny.model.state_dict().items()}
    held_out = build(stage, fresh_tiny)
    assert held_out.look(engine) == held_out.look(engine)
    assert states == repr((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in fresh_tiny.model.state_dict().items())
    assert all(module.training for module in fresh_tiny.model.modules())
    assert all(parameter.grad is None for parameter in fresh_tiny.model.parameters())
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


def test_a_run_with_looks_is_the_run_without(made: Made, fresh_tiny: YiVL, tmp_path: Path) -> None:
    runs = []
    for name, held_out in ("with", tmp_path / "held.yaml"), ("without", None):
        rates = {"vision": 1e-3, "projector": 1e-3, "language": 1e-3}
        stage = made(learning_rate=rates, global_batch=6, held_out_every=3, answers=2, run=str(tmp_path / name))
        stage.mixture.write_text(stage.mixture.read_text().replace("cap: 50", "cap: 12"))
        folder = train(replace(stage, held_out=held_out))
        lines = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
        runs.append(([(one["loss"], one["grad_norm"]) for one in lines], load_file(folder / "model.safetensors")))
    (losses, weights), (expected_losses, expected_weights) = runs
    assert losses == expected_losses and len(losses) == 4
    assert all(torch.equal(tensor, expected_weights[name]) for name, tensor in weights.items())

    looks = [json.loads(line) for line in (tmp_path / "with" / "held_out.jsonl").read_text().splitlines()]
    assert [one["step"] for one in looks] == [0, 3, 4]
    stage = made(run=str(tmp_path / "again"))
    for model, told in ((fresh_tiny, looks[0]), (YiVL.load(tmp_path / "with" / "model", device="cpu"), looks[-1])):
        assert told["losses"] == look(stage, model).losses
    assert looks[-1]["losses"]["seen"] < looks[0]["losses"]["seen"]


def test_several_processes_see_what_one_sees(made: Made, fresh_tiny: YiVL, tmp_path: Path) -> None:
    """Each with the whole model or, under ZeRO-3, a share of it. Of one sample one process has nothing; of four, at
    rows of one each, one has an image where the other has text alone."""
    stage = made(held={"asked": {}}, tokens_per_micro_batch=300, max_length=300, answers=4)
    freeze_all_but(fresh_tiny.model, stage.learning_rate)
    engine = engine_of(fresh_tiny.model, stage, Ranks())
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
         "--rdzv-endpoint", "127.0.0.1:0", __file__, str(tmp_path / "stage.yaml"), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    for samples, images in (1, [[1], [0]]), (4, [[2, 0], [1, 1]]):
        expected = build(replace(stage, held_out_samples=samples), fresh_tiny).look(engine)
        for run in (tmp_path / f"{samples}-zero{zero}" for zero in (0, 3)):
            for rank in (0, 1):
                losses, tokens, answers, rows = json.loads((run / f"{rank}.json").read_text())
                assert losses == pytest.approx(expected.losses, rel=1e-5)
                assert (tokens, answers) == (expected.tokens, [asdict(one) for one in expected.answers])
                assert rows == images[rank]
            for one in expected.answers:
                if one.picture:
                    assert (run / one.picture).read_bytes() == (Path(stage.run) / one.picture).read_bytes()


def main(file: str, folder: str) -> None:
    """One of several processes: writes what it sees, and the number of images in its rows."""
    with joined(1) as ranks:
        for zero in (0, 3):
            stage = read(Stage, Path(file), [f"zero={zero}"])
            model = YiVL.load(TINY, device="cpu")
            freeze_all_but(model.model, stage.learning_rate)
            engine = engine_of(model.model, stage, ranks)
            for samples in (1, 4):
                run = Path(folder) / f"{samples}-zero{zero}"
                held_out = build(replace(stage, held_out_samples=samples, run=str(run)), model, ranks)
                losses, tokens, answers = held_out.look(engine)
                run.mkdir(exist_ok=True)
                images = [len(batch.pixels) for batch in held_out.batches]
                told = [losses, tokens, [asdict(one) for one in answers], images]
                (run / f"{ranks.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
