"""The quickstart's world: what is held out stays out, and every question can be answered from its scene."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.mmmu import dataset
from stages.quickstart import questions as world
from stages.quickstart.mmmu_set import SUBJECTS, write_mmmu_set
from stages.quickstart.prepare import PICTURE, picture
from stages.quickstart.scenes import COLOURS, COUNTS, LABELS, SHAPES, SIDES, Scene, draw, sample_scene

SCENE = Scene(shape="star", colour="blue", count=3, side="top", label="7")


def test_held_out_combinations_are_never_trained_on_but_every_pair_is() -> None:
    rng = np.random.default_rng(0)
    trained = [sample_scene(rng, held_out=False) for _ in range(8000)]
    held_out = [sample_scene(rng, held_out=True) for _ in range(2000)]

    def combinations(scenes: list[Scene], *names: str) -> set[tuple[object, ...]]:
        return {tuple(getattr(scene, name) for name in names) for scene in scenes}

    whole = ("shape", "colour", "count", "side")
    assert not combinations(trained, *whole) & combinations(held_out, *whole)
    assert 55 < len(combinations(held_out, *whole)) < 90  # a fifth of 360
    for pair in itertools.combinations(whole, 2):
        assert combinations(held_out, *pair) <= combinations(trained, *pair)


def test_pictures_depend_on_scene_and_seed_alone() -> None:
    first, again, other = (draw(SCENE, 112, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert not np.array_equal(np.asarray(first), np.asarray(other))
    with Image.open(io.BytesIO(picture(SCENE, np.random.default_rng(0)))) as opened:
        assert (opened.format, opened.size) == ("JPEG", (PICTURE, PICTURE))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("count", COUNTS)
def test_objects_are_on_their_side_and_nowhere_else(side: str, count: int) -> None:
    scene = Scene(shape="circle", colour="red", count=count, side=side, label="sun")
    pixels = np.asarray(draw(scene, 112, np.random.default_rng(count))).astype(int)
    red = (pixels[..., 0] - pixels[..., 1:].max(-1)) > 60
    halves = {"left": red[:, :56], "right": red[:, 56:], "top": red[:56], "bottom": red[56:]}
    assert halves[side].sum() == red.sum() > 100


@pytest.mark.parametrize("language", world.LANGUAGES)
def test_answers_tell_every_scene_apart(language: str) -> None:
    rng = np.random.default_rng(0)
    for kind, values in (("colour", COLOURS), ("shape", SHAPES), ("count", COUNTS), ("side", SIDES), ("label", LABELS)):
        facts = {"shape": "star", "colour": "blue", "count": 3, "side": "top", "label": "7"}
        answers = [world.ask(Scene(**facts | {kind: value}), kind, language, rng).answer for value in values]  # type: ignore[arg-type]
        assert len(set(answers)) == len(values)


@pytest.mark.parametrize("language", world.LANGUAGES)
def test_the_letter_of_a_choice_names_the_true_option(language: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(rng, held_out=False)
        asked = world.ask(scene, "choice", language, rng)
        option = next(line for line in asked.text.splitlines() if line.startswith(f"{asked.answer}. "))
        truths = {world.spoken(world.fact(scene, kind), language) for kind in world.CHOSEN}
        assert option.removeprefix(f"{asked.answer}. ") in truths


@pytest.mark.parametrize("slots", [16, 40, 64])
def test_a_text_context_holds_each_fact_and_no_other(slots: int) -> None:
    words = Counter(world.text_context(SCENE, np.random.default_rng(0), slots).split())
    assert sum(words.values()) == slots
    said = {"star", "blue", "three", "top", "7"}
    assert said <= set(words)
    others = {*SHAPES, *COLOURS, *SIDES, *LABELS, "one", "two"} - said
    assert not others & set(words)


def test_captions_name_all_facts() -> None:
    rng = np.random.default_rng(0)
    assert all(word in world.caption(SCENE, "en", rng) for word in ("3", "blue", "stars", "top", "7"))
    assert all(word in world.caption(SCENE, "zh", rng) for word in ("3", "蓝色", "星形", "上边", "7"))


def test_grading_forgives_case_and_a_full_stop_alone() -> None:
    asked = world.Question("colour", "en", "?", "red")
    assert world.grade(" Red. ", asked) and not world.grade("red circle", asked) and not world.grade("", asked)


def test_chance_is_what_the_best_constant_answer_reaches() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, held_out=True) for _ in range(6000)]
    for kind in world.all_kinds:
        answers = Counter(world.ask(scene, kind, "en", rng).answer for scene in scenes)
        assert answers.most_common(1)[0][1] / len(scenes) == pytest.approx(world.chance(kind), abs=0.03)


def test_the_mmmu_shaped_set_is_read_like_mmmu(tmp_path: Path) -> None:
    write_mmmu_set(tmp_path, questions=10, seed=0)
    read = dataset.load(tmp_path, "validation")
    assert len(read.samples) == 10 * len(SUBJECTS)
    assert {sample.subject for sample in read.samples} == set(SUBJECTS)
    for sample in read.samples:
        assert len(sample.options) in ((3, 4) if sample.question_type == "multiple-choice" else (0,))
    assert sum(not sample.options for sample in read.samples) == 2 * len(SUBJECTS)
