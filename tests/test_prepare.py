"""Preparing shards: exact whatever happens on the way, and nothing lost without a word."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import captions, jpeg
from PIL import Image

from data import index, journal
from data.formats import FORMATS, unpack
from data.prepare import main, prepare
from data.shards import write_shards
from data.tar import read

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 entries in LLaVA's layout: 52 good ones (with keys that are no file names), 8 that are not."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    entries = []
    for number in range(60):
        name = f"images/{number}.jpg"
        (folder / "images").mkdir(exist_ok=True)
        (folder / name).write_bytes(jpeg(rng))
        turns = [{"from": "human", "value": f"<image>\nWhat is {number}?"}, {"from": "gpt", "value": f"第{number}个."}]
        entries.append({"id": f"a.b/{number % 7}", "image": name, "conversations": turns})
    (folder / entries[3]["image"]).write_bytes(b"not an image")
    (folder / entries[17]["image"]).write_bytes(jpeg(rng)[:500])
    (folder / entries[18]["image"]).unlink()
    with io.BytesIO() as file:
        Image.new("1", (20_000, 20_000)).save(file, "PNG")
        (folder / entries[19]["image"]).write_bytes(file.getvalue())
    (folder / entries[20]["image"]).write_bytes(b"")
    entries[21]["conversations"] = []
    entries[22]["image"] = "../secret.jpg"
    entries[23]["conversations"][1]["value"] = " "
    (folder / "entries.json").write_text(json.dumps(entries))
    return folder


BAD = {3, 17, 18, 19, 20, 21, 22, 23}


def contents(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("*.tar"))}


def samples(out: Path) -> list[tuple[str, dict[str, bytes]]]:
    found = []
    for shard in sorted(out.glob("*.tar")):
        of = index.load(index.index_path(shard))
        assert index.check(shard).samples == len(of)
        with shard.open("rb") as file:
            for i in range(len(of)):
                found.append((of.key(i), unpack(read(file, int(of.offsets[i]), int(of.sizes[i])), of.key(i))))
    return found


def test_every_record_is_written_or_left_out_with_its_reason(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["llava", str(raw), str(tmp_path / "out"), "--per-shard", "16", "--workers", "2"]) == 0
    found = samples(tmp_path / "out")
    chats = [FORMATS["conversation"](members, "s", key) for key, members in found]
    assert [chat.turns[0].text for chat in chats] == [f"What is {n}?" for n in range(60) if n not in BAD]
    assert [chat.images[0] for chat in chats] == [
        (raw / f"images/{n}.jpg").read_bytes() for n in range(60) if n not in BAD
    ]
    table = capsys.readouterr().out
    for name, count in (
        ("read", 60), ("written", 52), ("skipped: image can't be decoded", 4), ("skipped: image file can't be read", 1),
        ("skipped: no question with an answer", 1), ("skipped: image path leaves the folder", 1),
        ("skipped: empty message", 1),
    ):  # fmt: skip
        assert any(line.split() == [*name.split(), str(count)] for line in table.splitlines()), (name, table)
    lines = [json.loads(line) for line in (tmp_path / "out" / journal.JOURNAL).read_text().splitlines()]
    skipped = [one for line in lines if "skipped" in line for one in line["skipped"]]
    assert {int(key.split("-")[0]) for key, _, _ in skipped} == BAD and len(skipped) == len(BAD)
    assert "400000000 pixels" in next(particulars for key, _, particulars in skipped if key.startswith("19-"))


def test_shards_are_the_same_for_any_number_of_workers(raw: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        prepare("llava", raw, tmp_path / str(workers), per_shard=7, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    assert len(contents(tmp_path / "1")) == 9


def test_a_killed_preparation_goes_on_to_the_same_shards(raw: Path, tmp_path: Path) -> None:
    prepare("llava", raw, tmp_path / "whole", per_shard=2)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "data.prepare", "llava", str(raw), str(out), "--per-shard", "2", "--workers", "2"]
    kills = 0
    for after in (1, 9, 20):  # shards
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and len(list(out.glob("*.tar"))) < after:
                time.sleep(0.005)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert kills >= 2
    with (out / journal.JOURNAL).open("ab") as file:
        file.write(b'{"shard": 0, "rea')  # cut off by the kill
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and workers_of(out):
        time.sleep(0.1)
    assert not workers_of(out)  # workers don't outlive the process that began them
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.glob(".0*"))
    assert sum(report.written for report in prepare("llava", raw, out, per_shard=2)) == 52


def workers_of(out: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(out).encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_a_lost_shard_is_written_again(raw: Path, tmp_path: Path) -> None:
    prepare("llava", raw, tmp_path, per_shard=10)
    before = contents(tmp_path)
    (tmp_path / "00002.tar").unlink()
    (tmp_path / "00004.tar").write_bytes(before["00004.tar"][:2000])
    prepare("llava", raw, tmp_path, per_shard=10)
    assert contents(tmp_path) == before


def test_a_full_disk_is_an_error_after_which_the_same_command_goes_on(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data.prepare", "llava", str(raw), str(out), "--per-shard", "30", "--workers", "1"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    failed = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "error: [Errno 27] File too large" in failed.stderr and "Traceback" not in failed.stderr
    assert contents(out) == {} and not list(out.glob(".0*"))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert len(samples(out)) == 52


def test_what_is_not_the_same_preparation_is_refused(raw: Path, tmp_path: Path) -> None:
    prepare("llava", raw, tmp_path / "out", per_shard=30)
    with pytest.raises(journal.NotPrepared, match="was begun with per_shard 30, not 20; use another folder, or delete"):
        prepare("llava", raw, tmp_path / "out", per_shard=20)
    write_shards(tmp_path / "other", captions(3, np.random.default_rng(0)))
    with pytest.raises(journal.NotPrepared, match="holds shards that were not written"):
        prepare("llava", raw, tmp_path / "other")
    with pytest.raises(journal.NotPrepared, match="no converter 'llama'; there are cllava, documents, flickr30k, fo"):
        prepare("llama", raw, tmp_path / "x")
    with pytest.raises(journal.NotPrepared, match="llava has no setting 'flie'; it has file, images"):
        prepare("llava", raw, tmp_path / "x", {"flie": "a"})
    with pytest.raises(journal.NotPrepared, match="no folder"):
        prepare("llava", raw / "missing", tmp_path / "x")


def test_raw_files_that_changed_halfway_are_noticed(tmp_path: Path) -> None:
    folder, out = tmp_path / "raw", tmp_path / "out"
    for number in range(4):
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(jpeg(np.random.default_rng(number)))
        (folder / f"{number}.txt").write_text(f"caption {number}")
    prepare("folder", folder, out, per_shard=2)
    lines = (out / journal.JOURNAL).read_bytes().splitlines(keepends=True)
    (out / journal.JOURNAL).write_bytes(b"".join(lines[:2]))
    (folder / "0.jpg").rename(folder / "9.jpg")
    (folder / "0.txt").rename(folder / "9.txt")
    with pytest.raises(journal.NotPrepared, match="the raw files changed since"):
        prepare("folder", folder, out, per_shard=2)


def test_captions_documents_and_several_images_survive_the_way_through_shards(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with io.BytesIO() as file:
        Image.fromarray(rng.integers(0, 255, (9, 5, 4), dtype=np.uint8)).save(file, "PNG")
        png = file.getvalue()
    (folder / "a.jpg").write_bytes(jpeg(rng))
    (folder / "b.png").write_bytes(png)
    lines = [
        {"image": "a.jpg", "text": "a caption"},
        {"text": "A document that speaks of <image> tags."},
        {"images": ["b.png", "a.jpg"],
         "messages": [{"role": "user", "content": "<image><image>Same?"}, {"role": "assistant", "content": "No."}]},
    ]  # fmt: skip
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepare("jsonl", folder, tmp_path / "out")
    one, two, three = (FORMATS["conversation"](members, "s", key) for key, members in samples(tmp_path / "out"))
    assert one.plain and one.turns[0].text == "a caption" and one.images == ((folder / "a.jpg").read_bytes(),)
    assert two.plain and not two.images and two.turns[0].text == "A document that speaks of < image > tags."
    assert three.images == (png, (folder / "a.jpg").read_bytes()) and three.turns[0].text == "Same?"


def test_laion_is_used_in_place_and_a_damaged_tar_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = write_shards(tmp_path / "raw" / "part0", captions(25, np.random.default_rng(0)), per_shard=10)
    for shard in made:
        index.index_path(shard).unlink()
    made[1].write_bytes(made[1].read_bytes()[:5000])
    os.chmod(tmp_path / "raw" / "part0", 0o555)
    assert main(["laion400m", str(tmp_path / "raw"), str(tmp_path / "out"), "--workers", "1"]) == 0
    os.chmod(tmp_path / "raw" / "part0", 0o755)
    assert [key for key, _ in samples(tmp_path / "out")] == [f"{n:09d}" for n in range(25) if n // 10 != 1]
    assert (tmp_path / "out" / "part0-00002.tar").resolve() == made[2].resolve()
    assert "skipped: shard can't be indexed" in capsys.readouterr().out
    assert "part0/00001.tar" in (tmp_path / "out" / journal.JOURNAL).read_text()
    assert not list((tmp_path / "out").glob("*00001*"))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.index")}
    assert main(["laion400m", str(tmp_path / "raw"), str(tmp_path / "out")]) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.index")} == before
    write_shards(tmp_path / "raw" / "part1", captions(4, np.random.default_rng(1)))  # came later
    assert main(["laion400m", str(tmp_path / "raw"), str(tmp_path / "out")]) == 0
    assert len(samples(tmp_path / "out")) == 15 + 4


def test_a_full_disk_leaves_no_shard_out_for_good(tmp_path: Path) -> None:
    write_shards(tmp_path / "raw", captions(500, np.random.default_rng(0)))
    index.index_path(tmp_path / "raw" / "00000.tar").unlink()
    command = [sys.executable, "-m", "data.prepare", "laion400m", str(tmp_path / "raw"), str(tmp_path / "out")]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    failed = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and "File too large" in failed.stderr
    assert main(["laion400m", str(tmp_path / "raw"), str(tmp_path / "out")]) == 0
    assert len(samples(tmp_path / "out")) == 500


def test_hostile_records_are_left_out_and_end_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(np.random.default_rng(0)))
    lines = [
        b'{"image": "a.jpg", "text": "half a pair: \\ud83d"}',
        b'{"image": "a\\u0000.jpg", "text": "a zero byte"}',
        b'{"id": "\\ud83d", "image": "a.jpg", "text": "a key"}',
        b'{"id": "' + b"k" * 3000 + b'", "image": "a.jpg", "text": "a long key"}',
    ]
    (folder / "all.jsonl").write_bytes(b"\n".join(lines))
    report = prepare("jsonl", folder, tmp_path / "out")[0]
    assert (report.read, report.written) == (4, 2)
    assert sorted(reason for _, reason, _ in report.skipped) == ["image file can't be read", "text is not Unicode"]
    assert prepare("jsonl", folder, tmp_path / "out") == [report]


def test_tars_of_prepare_are_read_by_tarfile(raw: Path, tmp_path: Path) -> None:
    prepare("llava", raw, tmp_path, per_shard=30)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        names = tar.getnames()
    assert names[:2] == ["0-a_b_0.jpg", "0-a_b_0.json"]
