"""Converters of published captions and conversations, from tiny files in their publishers' layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from sources_case import caption, gpt, human, put, talk, whole

from data.raw import BadRaw
from data.record import Record, Skipped
from data.sources import cllava, flickr30k, llavar, ocr_vqa, sharegpt4v, textcaps

# publishers in LLaVA's manner


def test_cllava_is_the_translated_captions_then_the_translated_conversations(tmp_path: Path) -> None:
    captions = tmp_path / "LLaVA-CC3M-Pretrain-595K"
    put(captions / "chat-translated.json", [
        {"id": "004539375", "image": "GCC_train_004539375.jpg",
         "conversations": talk("简要描述图像。\n<image>", "一棵树")},
    ])  # fmt: skip
    put(captions / "chat.json", "not read")
    put(tmp_path / "LLaVA-Instruct-150K" / "translated" / "llava_instruct_150k.json", [
        {"id": "000000033471", "image": "000000033471.jpg",
         "conversations": talk("<image>\n车是什么颜色？", "白色和红色。")},
        {"id": "000000033471", "image": "000000033471.jpg",
         "conversations": talk("有几辆车？\n<image>", "一辆。")},
    ])  # fmt: skip
    coco = tmp_path / "train2017" / "000000033471.jpg"
    assert whole(cllava.records(tmp_path)) == [
        Record(
            "pretrain-0-004539375",
            (human("简要描述图像。", 1), gpt("一棵树")),
            (captions / "images" / "GCC_train_004539375.jpg",),
        ),
        Record("instruct-0-000000033471", (human("车是什么颜色？", 1), gpt("白色和红色。")), (coco,)),
        Record("instruct-1-000000033471", (human("有几辆车？", 1), gpt("一辆。")), (coco,)),
    ]


def test_llavar_is_the_entries_whose_image_is_in_its_own_folders(tmp_path: Path) -> None:
    put(tmp_path / "chat_llavar.json", [
        {"id": "000000001", "image": "GCC_train_000000001.jpg", "conversations": talk("Describe.\n<image>", "a tree")},
        {"id": "900000001", "image": "GCC_train_900000001.jpg", "conversations": talk("<image>\nRead.", "SALE: 5 €")},
    ])  # fmt: skip
    put(tmp_path / "llava_instruct_150k_llavar_16k.json", [
        {"id": "33471", "image": "000000033471.jpg", "conversations": talk("<image>\nWhat colour?", "Red.")},
        {"id": "9001", "image": "000009000001.jpg",
         "conversations": talk("Title?\n<image>", "Emma.", "By?", "Austen.")},
    ])  # fmt: skip
    read = put(tmp_path / "pretrain" / "GCC_train_900000001.jpg", b"")
    told = put(tmp_path / "finetune" / "000009000001.jpg", b"")
    assert whole(llavar.records(tmp_path)) == [
        Skipped("pretrain-0-000000001", "its image is not in LLaVAR's folder"),
        Record("pretrain-1-900000001", (human("Read.", 1), gpt("SALE: 5 €")), (read,)),
        Skipped("finetune-0-33471", "its image is not in LLaVAR's folder"),
        Record("finetune-1-9001", (human("Title?", 1), gpt("Emma."), human("By?"), gpt("Austen.")), (told,)),
    ]


def test_llavar_without_the_folder_of_its_images_is_refused_at_once(tmp_path: Path) -> None:
    put(tmp_path / "chat_llavar.json", [{}])
    (tmp_path / "pretrain").mkdir()
    with pytest.raises(BadRaw, match=r"has no folder finetune; finetune\.zip unpacks into it"):
        next(llavar.records(tmp_path))


def test_sharegpt4v_names_its_images_from_the_data_folder(tmp_path: Path) -> None:
    image = "llava/llava_pretrain/images/00011/000114116.jpg"
    put(tmp_path / "sharegpt4v" / "sharegpt4v_instruct_gpt4-vision_cap100k.json", [
        {"id": "000114116", "image": image, "conversations": talk("Describe it.\n<image>", "A large, red house.")},
        {"id": "sa_1", "image": "sam/images/sa_1.jpg", "conversations": talk("<image>\nTell me.", "A street.")},
    ])  # fmt: skip
    assert whole(sharegpt4v.records(tmp_path)) == [
        Record("0-000114116", (human("Describe it.", 1), gpt("A large, red house.")), (tmp_path / image,)),
        Record("1-sa_1", (human("Tell me.", 1), gpt("A street.")), (tmp_path / "sam" / "images" / "sa_1.jpg",)),
    ]


# captions and questions


def test_each_of_flickr30ks_captions_is_a_pair(tmp_path: Path) -> None:
    images = tmp_path / "flickr30k-images"
    images.mkdir()
    put(
        tmp_path / "results_20130124.token",
        "1000092795.jpg#0\tTwo young guys , both with shaggy hair , look at their hands .\n"
        '1000092795.jpg#1\tA sign says " STOP " | and # 1 .\n'
        "36979.jpg#0\t\n",
    )
    image = images / "1000092795.jpg"
    assert whole(flickr30k.records(tmp_path)) == [
        caption("1000092795-0", image, "Two young guys , both with shaggy hair , look at their hands ."),
        caption("1000092795-1", image, 'A sign says " STOP " | and # 1 .'),
        Skipped("36979-0", "empty caption"),
    ]


def test_kaggles_copy_of_flickr30k_is_read_with_its_line_that_lacks_a_bar(tmp_path: Path) -> None:
    images = tmp_path / "flickr30k_images"
    images.mkdir()
    put(
        tmp_path / "results.csv",
        "image_name| comment_number| comment\r\n"
        '1000092795.jpg| 0| Two men , one with a " hat " .\r\n'
        "2199200615.jpg| 4   A dog runs across the grass .\r\n",
    )
    assert whole(flickr30k.records(tmp_path)) == [
        caption("1000092795-0", images / "1000092795.jpg", 'Two men , one with a " hat " .'),
        caption("2199200615-4", images / "2199200615.jpg", "A dog runs across the grass ."),
    ]


@pytest.mark.parametrize("line", ["1.jpg#0 no tab", "1.jpg\tno number", "caption alone", b"1.jpg#0\t\xff"])
def test_a_malformed_line_of_flickr30k_is_named(tmp_path: Path, line: str | bytes) -> None:
    (tmp_path / "flickr30k-images").mkdir()
    put(tmp_path / "results_20130124.token", b"1.jpg#0\tgood\n" + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(BadRaw, match=r"results_20130124\.token: line 2 is not an image, a number and a caption"):
        list(flickr30k.records(tmp_path))


def test_flickr30k_without_its_images_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "results_20130124.token", "1.jpg#0\tgood\n")
    with pytest.raises(BadRaw, match="has no folder flickr30k-images or flickr30k_images"):
        list(flickr30k.records(tmp_path))


def test_each_of_textcaps_entries_is_a_caption_of_a_training_image(tmp_path: Path) -> None:
    entry = {
        "image_id": "0000599864fd15b3",
        "image_name": "0000599864fd15b3",
        "image_path": "train/0000599864fd15b3.jpg",
    }
    put(tmp_path / "TextCaps_0.1_train.json", {
        "dataset_type": "train", "dataset_name": "textcaps", "dataset_version": "0.1", "data": [
            {**entry, "set_name": "train", "caption_id": 40, "caption_str": ' A bus reads "33, Oxford". ',
             "reference_strs": ["A bus", "Another"], "image_width": 1024},
            {**entry, "set_name": "train", "caption_id": 41, "caption_str": "Another", "reference_strs": []},
        ],
    })  # fmt: skip
    image = tmp_path / "train_images" / "0000599864fd15b3.jpg"
    assert whole(textcaps.records(tmp_path)) == [
        caption("0000599864fd15b3-40", image, 'A bus reads "33, Oxford".'),
        caption("0000599864fd15b3-41", image, "Another"),
    ]


def test_a_textcaps_entry_without_its_caption_is_named(tmp_path: Path) -> None:
    put(tmp_path / "TextCaps_0.1_train.json", {"data": [{"image_id": "a", "image_name": "a", "caption_id": 1}]})
    with pytest.raises(BadRaw, match=r"TextCaps_0\.1_train\.json: entry 0: 'caption_str' should be str"):
        list(textcaps.records(tmp_path))


def test_ocr_vqa_is_one_conversation_for_each_cover_of_the_training_split(tmp_path: Path) -> None:
    amazon = "http://ecx.images-amazon.com/images/I"
    about = {"title": "t", "authorName": "a", "genre": "g"}
    asked = ["Who wrote this book?", "Is it a games book?", "Edition?"]
    put(tmp_path / "dataset.json", {
        "761183272": {"imageURL": f"{amazon}/61Y5cOdHJbL.jpg", "questions": asked, "answers": ["S. Boynton", "No", " "],
                      **about, "split": 1},
        "2": {"imageURL": f"{amazon}/a.jpg", "questions": asked, "answers": asked, **about, "split": 2},
        "3": {"imageURL": f"{amazon}/a.jpg", "questions": asked, "answers": asked, **about, "split": 3},
        "4": {"imageURL": f"{amazon}/4.gif", "questions": ["Year?"], "answers": ["2016"], **about, "split": 1},
        "5": {"imageURL": f"{amazon}/5.gif", "questions": ["Year?"], "answers": ["2017"], **about, "split": 1},
        "6": {"imageURL": f"{amazon}/6.jpg", "questions": ["Year?"], "answers": [], **about, "split": 1},
        "7": {"imageURL": f"{amazon}/7.jpg", "questions": ["Year?"], "answers": [""], **about, "split": 1},
    })  # fmt: skip
    there = put(tmp_path / "images" / "4.gif", b"")
    short = "\nAnswer the question using a single word or phrase."
    assert whole(ocr_vqa.records(tmp_path)) == [
        Record(
            "761183272",
            (human("Who wrote this book?" + short, 1), gpt("S. Boynton"), human("Is it a games book?"), gpt("No")),
            (tmp_path / "images" / "761183272.jpg",),
        ),
        Record("4", (human("Year?" + short, 1), gpt("2016")), (there,)),
        Record("5", (human("Year?" + short, 1), gpt("2017")), (tmp_path / "images" / "5.jpg",)),
        Skipped("6", "questions and answers differ in number"),
        Skipped("7", "empty question or answer"),
    ]


def test_an_ocr_vqa_cover_without_a_split_is_named(tmp_path: Path) -> None:
    put(tmp_path / "dataset.json", {"761183272": {"questions": [], "answers": []}})
    with pytest.raises(BadRaw, match=r"dataset\.json: 761183272: 'split' should be int"):
        list(ocr_vqa.records(tmp_path))
