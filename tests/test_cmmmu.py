"""CMMMU in both published layouts: what Yi-VL is asked, and what replies are known to give officially and strictly."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmmu_case import IMAGE, Recorder, png, read

from eval.benchmark import BadData, Choices, Verdict
from eval.cmmmu import CMMMU
from eval.cmmmu.dataset import CATEGORIES
from eval.cmmmu.grading import OFFICIAL, STRICT, blank, choice, true_or_false
from eval.results import Result
from eval.runner import evaluate
from yivl.images import ZERO

CHOICE = (
    "请回答以下多项选择题，并选出正确选项。这些题目可能包括单选和多选题型。"
    "如果所提供的信息不足以确定一个明确的答案，那么请根据可用的数据和你的判断来选择最可能正确的选项。"
)
TRUE_FALSE = (
    "请回答以下判断题，并根据题目描述和所给的信息来判断问题中陈述的对错。"
    "如果信息不完整或不足以作出绝对判断，请运用你的逻辑推理和现有信息来做出最可能的判断。"
)
BLANK = (
    "请回答以下填空题，并根据题目的要求和所提供的信息来给出最恰当的答案。"
    "如果信息不足以确切回答，那么请依据现有的数据和你的推理能力来填写最合理的答案。"
)


def entry(id: int, /, **fields: Any) -> dict[str, Any]:
    """A line of the repository's files: a question of choice about one picture, `fields` apart."""
    return {
        "id": id,
        "type": "选择",
        "source_type": "website",
        "source": "https://example.org",
        "question": f'如图<img="q_{id:05}_001.png">，图中是什么（）',
        "option1": "甲",
        "option2": "乙",
        "option3": "丙",
        "option4": "丁",
        "answer": "B",
        "analysis": None,
        "distribution": "本科",
        "difficulty_level": "easy",
        "img_list": [f"q_{id:05}_001.png"],
        "subcategory": "设计",
        "category": "艺术与设计",
        "subfield": ["图像编辑"],
        "img_type": ["照片"],
    } | fields


def of_type(kind: str, id: int, **fields: Any) -> dict[str, Any]:
    """A question without options."""
    line = entry(id, type=kind, **fields)
    return {name: value for name, value in line.items() if not name.startswith("option")}


def clone(folder: Path, categories: Mapping[str, list[dict[str, Any]]], split: str = "val") -> Path:
    """The repository's layout; every picture has a colour of its own."""
    for category, lines in categories.items():
        here = folder / f"cmmmu-data-{split}" / category
        here.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        (here / f"{category}.jsonl").write_text(text, encoding="utf-8")
        for line in lines:
            for number, name in enumerate(line["img_list"]):
                (here / name).write_bytes(png(line["id"] + 100 * number))
    return folder


def download(folder: Path, categories: Mapping[str, list[dict[str, Any]]], split: str = "val") -> Path:
    """The same in the hub's layout: no list of pictures, but columns of them and of their names."""
    names = [f"image_{n}" for n in range(1, 6)]
    text = ["type", "question", "option1", "option2", "option3", "option4", "answer", "subcategory", "category"]
    schema = pa.schema(
        [("id", pa.string())]
        + [(name, pa.string()) for name in text]
        + [(name, IMAGE) for name in names]
        + [(f"{name}_filename", pa.string()) for name in names]
    )
    for category, lines in categories.items():
        rows = []
        for line in lines:
            images = {
                name: {"bytes": png(line["id"] + 100 * number), "path": None}
                for number, (name, _) in enumerate(zip(names, line["img_list"], strict=False))
            }
            files = {f"{name}_filename": file for name, file in zip(names, line["img_list"], strict=False)}
            rows.append({"id": str(line["id"]), **{name: line.get(name) for name in text}, **images, **files})
        (folder / category).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / category / f"{split}-00000-of-00001.parquet")
    return folder


def one(folder: Path, line: dict[str, Any], **choices: Any) -> CMMMU:
    return CMMMU(clone(folder, {"art_and_design": [line]}), Choices(**choices))


def verdict(folder: Path, line: dict[str, Any], reply: str, **choices: Any) -> Verdict:
    (found,) = one(folder, line, **choices).judge({str(line["id"]): reply})
    return found


def judged(data: Path, out: Path, model: Any = None, **choices: Any) -> Result:
    return evaluate(model or Recorder(), CMMMU(data, Choices(**choices)), out, model_name="model", batch_size=4)


# ------------------------------------------------------------------ what is asked


def test_prompts_have_no_tags_and_an_instruction_for_each_type(tmp_path: Path) -> None:
    assert one(tmp_path, entry(1)).questions[0].prompt == (
        f"{CHOICE}\n\n问题：如图，图中是什么（）\n选项：\n(A) 甲\n(B) 乙\n(C) 丙\n(D) 丁\n\n正确答案：\n"
    )
    assert one(tmp_path, of_type("判断", 1)).questions[0].prompt == (
        f"{TRUE_FALSE}\n\n问题：如图，图中是什么（）\n正确答案：\n"
    )
    assert one(tmp_path, of_type("填空", 1)).questions[0].prompt == (
        f"{BLANK}\n\n问题：如图，图中是什么（）\n正确答案：\n"
    )


def test_options_with_the_same_text_appear_once(tmp_path: Path) -> None:
    assert "(A) 甲\n(B) 乙\n(C) 丁\n\n" in one(tmp_path, entry(1, option3="甲")).questions[0].prompt


def pictured(**fields: Any) -> dict[str, Any]:
    """A question whose options are pictures, as science/10447 of dev is."""
    options = {f"option{n}": f'<img="a_00001_00{n}.png">' for n in range(1, 5)}
    names = [*(f"a_00001_00{n}.png" for n in range(1, 5)), "q_00001_001.png"]
    return entry(1, **options | {"img_list": names} | fields)


def test_zeros_are_shown_where_several_options_are_pictures(tmp_path: Path) -> None:
    benchmark = one(tmp_path, pictured())
    assert benchmark.pictures(benchmark.questions) == [(None,)]
    assert "选项：\n(A) \n(B) \n(C) \n(D) \n\n" in benchmark.questions[0].prompt


def test_a_single_option_s_picture_leaves_its_tag_and_the_question_its_picture(tmp_path: Path) -> None:
    line = pictured(option2="乙", option3="丙", option4="丁", img_list=["a_00001_001.png", "q_00001_001.png"])
    benchmark = one(tmp_path, line)
    (shown,) = benchmark.pictures(benchmark.questions)
    assert [path.name for path in shown if isinstance(path, Path)] == ["q_00001_001.png"]
    assert '(A) <img="a_00001_001.png">\n' in benchmark.questions[0].prompt


def test_of_several_pictures_of_a_question_the_first_is_shown_and_all_tags_go(tmp_path: Path) -> None:
    line = entry(
        1,
        question='图<img="q_00001_002.png">与图<img="q_00001_001.png">',
        img_list=["q_00001_001.png", "q_00001_002.png"],
    )
    benchmark = one(tmp_path, line)
    (shown,) = benchmark.pictures(benchmark.questions)
    assert [path.name for path in shown if isinstance(path, Path)] == ["q_00001_001.png"]
    assert "问题：图与图\n" in benchmark.questions[0].prompt


def test_a_question_without_a_picture_gets_zeros_and_is_not_left_out(tmp_path: Path) -> None:
    clone(tmp_path / "data", {"business": [entry(1, question="哪个？", img_list=[])]})
    model = Recorder()
    judged(tmp_path / "data", tmp_path / "out", model)
    assert model.asked["1"].images == (ZERO,) and model.max_new_tokens == 64


def test_both_layouts_ask_the_same(tmp_path: Path) -> None:
    lines = {
        "science": [pictured(), entry(2), of_type("判断", 3, answer="对")],
        "art_and_design": [of_type("填空", 4, answer="高")],
    }
    models = {layout: Recorder() for layout in (clone, download)}
    results = {
        layout: judged(layout(tmp_path / layout.__name__, lines), tmp_path / f"{layout.__name__}-out", model)
        for layout, model in models.items()
    }
    cloned, downloaded = (model.asked for model in models.values())
    # The official script begins with art.
    assert [verdict.question.id for verdict in results[clone].verdicts] == ["4", "1", "2", "3"]
    assert {key: one.turns for key, one in cloned.items()} == {key: one.turns for key, one in downloaded.items()}
    for key, conversation in cloned.items():
        (path,), (content,) = conversation.images, downloaded[key].images
        assert content is path is ZERO or (isinstance(path, Path) and path.read_bytes() == content)
    assert results[clone].scores == results[download].scores
    groups = [[one.question.groups for one in result.verdicts] for result in results.values()]
    assert groups[0] == groups[1]


# ------------------------------------------------------------------ choice


@pytest.mark.parametrize(
    ("reply", "official", "strict"),
    [
        ("B", "B", "B"),
        ("(B) 乙", "B", "B"),
        ("正确答案是(C) ②③。", "C", "C"),
        ("(A) A、B、D、C", "A", "A"),
        ("正确答案是(B)第二种和(C)第三种。", "BC", "BC"),
        # All letters with the most occurrences, in order.
        ("(D) x\n(A) y\n(C) z", "ACD", "ACD"),
        ("(A) (A) (C)", "A", "A"),
        # A letter counts anywhere, in words too.
        ("DNA", "AD", None),
        ("GDP和CPI", "CD", None),
        ("选B，因为DNA", "ABD", "B"),
        ("答案是B。", "B", "B"),
        ("应当选乙", "B", "B"),
        ("乙和丙", "BC", "BC"),
        ("我不知道", None, None),
        (" ", None, None),
    ],
)
def test_letters_chosen(reply: str, official: str | None, strict: str | None) -> None:
    options = {"A": "甲", "B": "乙", "C": "丙", "D": "丁"}
    for rules, letters in ((OFFICIAL, official), (STRICT, strict)):
        found = choice(reply, options, rules)
        assert (None if found is None else found.answer) == letters


def test_an_empty_option_is_in_every_reply_officially() -> None:
    options = {"A": "甲", "B": "乙", "C": "", "D": "丁"}
    official, strict = (choice("应当选乙", options, rules) for rules in (OFFICIAL, STRICT))
    assert official is not None and official.answer == "C"
    assert strict is not None and strict.answer == "B"


def test_an_empty_reply_to_a_choice_is_wrong_without_a_draw(tmp_path: Path) -> None:
    found = verdict(tmp_path, entry(1), "")
    assert (found.score, found.drawn, found.why) == (0, False, "an empty reply: wrong without a draw")


@pytest.mark.parametrize(("reply", "right"), [("(A)(C)(D)", True), ("(D) (C) (A)", True), ("(A)", False)])
def test_a_choice_of_several_is_right_as_a_whole(tmp_path: Path, reply: str, right: bool) -> None:
    assert verdict(tmp_path, entry(1, answer="ACD"), reply).score == right


# ------------------------------------------------------------------ true or false


@pytest.mark.parametrize(
    ("reply", "official", "strict"),
    [
        ("对", "对", "对"),
        ("正确", "对", "对"),
        ("错误。", "错", "错"),
        ("这个说法是错的", "错", "错"),
        # These hold a word that affirms.
        ("不正确", "对", "错"),
        ("不对", "对", "错"),
        ("这个陈述不准确", "对", "错"),
        # Neither, or as many as there are against.
        ("不能确定", None, None),
        ("是否正确", None, None),
        ("判断：对\n判断：错", None, None),
        ("判断：对\n判断：错\n结果：错误", "错", "错"),
        ("", None, None),
    ],
)
def test_true_or_false_said(reply: str, official: str | None, strict: str | None) -> None:
    for rules, answer in ((OFFICIAL, official), (STRICT, strict)):
        found = true_or_false(reply, rules)
        assert (None if found is None else found.answer) == answer


def test_only_a_reply_that_says_neither_draws(tmp_path: Path) -> None:
    """From one stream with choices, in the order of the files."""
    lines = [entry(1), of_type("判断", 2, answer="对"), of_type("判断", 3, answer="错"), entry(4)]
    data = clone(tmp_path, {"business": lines})
    replies = {"1": "不知道", "2": "不知道", "3": "错误", "4": "不知道"}
    random.seed(42)
    expected = [random.choice("ABCD"), random.choice("对错"), "错", random.choice("ABCD")]
    found = CMMMU(data, Choices()).judge(replies)
    assert [one.answer for one in found] == expected
    assert [one.drawn for one in found] == [True, True, False, True]
    worth = CMMMU(data, Choices(fallback="expected")).judge(replies)
    assert [one.score for one in worth] == [0.25, 0.5, 1, 0.25]


def test_a_drawn_letter_is_worth_nothing_where_several_are_right(tmp_path: Path) -> None:
    assert verdict(tmp_path, entry(1, answer="ACD"), "不知道", fallback="expected").score == 0


# ------------------------------------------------------------------ blanks


@pytest.mark.parametrize(
    ("answer", "reply", "official", "strict"),
    [
        ("高", "地势较高", True, True),
        ("400", "所以对外作功为400J", True, True),
        ("0.6", "E(X)=0.6", True, True),
        ("3.14", "样本均值是3.144", True, True),
        ("5", "不知道", False, False),
        # By more than 20 characters, or by more than two Latin letters, longer than the answer.
        ("甲", "甲" + "乙" * 20, True, True),
        ("甲", "甲" + "乙" * 21, False, False),
        ("甲", "甲ab", True, True),
        ("甲", "甲abc", False, False),
        # Not lower-cased.
        ("DNA", "dna", False, False),
        # A colon alone passes for the answer, and the next line is not looked at.
        ("高", "正确答案：\n高", False, True),
        # Thousands.
        ("5037", "流量为5,037", True, True),
        ("5037", "流量为5,037立方米", False, True),
        ("5037", "流量为5，037", False, True),
        ("37", "流量为5，037", True, False),
    ],
)
def test_blank_filled(tmp_path: Path, answer: str, reply: str, official: bool, strict: bool) -> None:
    line = of_type("填空", 1, answer=answer)
    for protocol, right in (("official", official), ("strict", strict)):
        assert verdict(tmp_path, line, reply, protocol=protocol).score == right, protocol


def test_everything_read_from_a_blank_s_reply() -> None:
    assert blank("结果是3-5，因此=7", "7", OFFICIAL) == [7.0]
    assert blank("浓度是3-5", "3", OFFICIAL) == ["3-5", 3.0, -5.0]


# ------------------------------------------------------------------ results


def test_a_whole_run(tmp_path: Path) -> None:
    lines = {
        "art_and_design": [entry(1), entry(2, answer="C")],
        "science": [of_type("判断", 3, answer="对", subcategory="物理"), of_type("填空", 4, answer="高")],
    }
    replies = {"1": "(B) 乙", "2": "B", "3": "不正确", "4": "不高"}
    result = judged(clone(tmp_path / "data", lines), tmp_path / "out", Recorder(replies.__getitem__))
    levels = result.scores["accuracy"]
    assert {name: one.value for name, one in levels["discipline"].items()} == {"Art & Design": 0.5, "Science": 1.0}
    assert {name: one.value for name, one in levels["type"].items()} == {"选择": 0.5, "判断": 1.0, "填空": 1.0}
    assert "物理" in levels["subject"]
    table = [line.split("|")[1:4] for line in result.text.splitlines() if "Yi-VL" in line]
    assert [[cell.strip() for cell in row] for row in table] == [["Yi-VL-34B", "36.2", "-"], ["Yi-VL-6B", "35.8", "-"]]
    assert "2 选择, 1 判断, 1 填空" in result.text and "Only 4 of the split's 900 questions" in result.text
    # What the leaderboard and the official script take: exactly these fields, the id a number.
    submitted = [json.loads(line) for line in (tmp_path / "out" / "val_response.jsonl").read_text().splitlines()]
    assert submitted[0] == {"id": 1, "type": "选择", "response": "(B) 乙"}
    assert [set(line) for line in submitted] == [{"id", "type", "response"}] * 4
    assert read(tmp_path / "out" / "result.json")["protocol"] == "official"


def test_test_has_no_answers_and_its_table_yi_vl_s_disciplines(tmp_path: Path) -> None:
    lines = [{name: value for name, value in entry(1).items() if name != "answer"}]
    data = clone(tmp_path / "data", {"business": lines}, split="test")
    result = judged(data, tmp_path / "out", split="test")
    assert result.overall is None and (tmp_path / "out" / "test_response.jsonl").exists()
    published = CMMMU(data, Choices(split="test")).published
    assert published is not None and published.columns == ("Overall", *CATEGORIES.values())
    assert published.rows["Yi-VL-34B"] == (36.5, 62.9, 19.1, 31.5, 42.1, 42.5, 34.5)
    assert published.rows["Yi-VL-6B"] == (35.0, 58.0, 19.9, 32.3, 39.3, 40.6, 32.1)


def test_categories_can_be_chosen(tmp_path: Path) -> None:
    data = clone(tmp_path, {"business": [entry(1)], "science": [entry(2)]})
    assert [one.id for one in CMMMU(data, Choices(subjects=("science",))).questions] == ["2"]
    with pytest.raises(ValueError, match="unknown CMMMU category 'physics'; there are art_and_design"):
        CMMMU(data, Choices(subjects=("physics",)))
    with pytest.raises(FileNotFoundError, match=r"no .*health_and_medicine\.jsonl"):
        CMMMU(data, Choices(subjects=("health_and_medicine",)))


# ------------------------------------------------------------------ bad files


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": 2, "type', "not JSON, so the file is damaged"),
        ("[1]", "not an object"),
        ('{"id": 2, "type": "选择", "img_list": []}', "no question; it has id, type"),
        ('{"id": 2, "type": "问答", "question": "?", "img_list": []}', "type '问答'; there are 选择, 判断, 填空"),
        ('{"id": 2, "type": "选择", "question": "?", "img_list": []}', "a question of choice without options"),
        ('{"id": "x", "type": "判断", "question": "?", "img_list": []}', "id is 'x'; it should be a whole number"),
        ('{"id": 2, "type": "判断", "question": "?"}', "img_list is no list of names"),
        ('{"id": 1, "type": "判断", "question": "?", "img_list": []}', "the same id as .*row 0"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = clone(tmp_path, {"business": [entry(1)]}) / "cmmmu-data-val" / "business" / "business.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + line, encoding="utf-8")
    with pytest.raises(BadData, match=f"{file}, row 1.*{said}"):
        CMMMU(tmp_path, Choices())


def test_missing_pictures_and_files_are_named(tmp_path: Path) -> None:
    data = clone(tmp_path / "data", {"business": [entry(1)]})
    (data / "cmmmu-data-val" / "business" / "q_00001_001.png").unlink()
    with pytest.raises(BadData, match=r"row 0 \(1\): no picture q_00001_001.png"):
        judged(data, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"has neither cmmmu-data-test/business.*nor business/test-00000"):
        CMMMU(data, Choices(split="test"))
    (data / "cmmmu-data-val" / "business" / "business.jsonl").write_text("")
    with pytest.raises(BadData, match="no rows, so category business is empty"):
        CMMMU(data, Choices())


def test_a_name_without_a_picture_in_the_hub_s_copy_is_named(tmp_path: Path) -> None:
    file = download(tmp_path / "data", {"business": [entry(1)]}) / "business" / "val-00000-of-00001.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index("image_1")
    pq.write_table(table.set_column(place, "image_1", pa.array([None], IMAGE)), file)
    with pytest.raises(BadData, match=r"row 0 \(1\): no picture q_00001_001.png"):
        judged(tmp_path / "data", tmp_path / "out")
    pq.write_table(table.drop_columns(["question", "image_2"]), file)
    with pytest.raises(BadData, match=f"{file}: no column question, image_2"):
        CMMMU(tmp_path / "data", Choices())
