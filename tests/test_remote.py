"""Shards that lie elsewhere, on a real HTTP server that drops, stalls and truncates."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import captions

from data import index
from data.cache import Cache, Prefetcher, Wanted
from data.loader import Loader, Samples
from data.mixture import Mixture, resolve
from data.order import Order
from data.remote import Patience, RemoteError, expand, fetch, local_name
from data.shards import write_shards
from data.store import Store
from yivl import YiVL
from yivl.encoder import Encoder
from yivl.settings import read

QUICK = Patience(attempts=4, first_wait=0.01, stall=0.5)


class Faulty(ThreadingHTTPServer):
    """Serves a folder with ranges; `fault` says what goes wrong with the n-th request for a file's content."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.gets: Counter[str] = Counter()
        self.fault: dict[int, str] = {}
        self.every_fault = ""
        self.ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faulty

    def do_HEAD(self) -> None:
        self.answer(content=False)

    def do_GET(self) -> None:
        self.answer(content=True)

    def answer(self, content: bool) -> None:
        file = self.server.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        whole = file.read_bytes()
        start, end = 0, len(whole)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        ranged = bool(asked) and self.server.ranges
        if asked and ranged:
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(whole)) if asked[2] else len(whole)
        fault = ""
        if content:
            self.server.gets[file.name] += 1
            fault = self.server.fault.get(self.server.gets[file.name], self.server.every_fault)
        if fault == "busy":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = whole[start:end]
        if fault == "truncated":  # and says nothing of it
            body = body[: len(body) // 2]
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(body)))
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(whole)}")
        self.end_headers()
        if not content:
            return
        if fault in ("drop", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                time.sleep(1.5)
            self.close_connection = True
            return
        if fault == "slow":
            for at in range(0, len(body), 5000):
                self.wfile.write(body[at : at + 5000])
                time.sleep(0.02)
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Faulty]:
    folder = tmp_path / "served"
    write_shards(folder, captions(60, np.random.default_rng(0)), per_shard=3)
    serving = Faulty(folder)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()


def wanted(server: Faulty, number: int) -> Wanted:
    file = server.folder / f"{number:05d}.tar"
    return Wanted(f"{server.address}/{file.name}", file.stat().st_size)


def original(server: Faulty, number: int) -> bytes:
    return (server.folder / f"{number:05d}.tar").read_bytes()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("fault", ["drop", "stall", "truncated", "busy", "slow"])
def test_a_fetch_survives_what_servers_do(server: Faulty, tmp_path: Path, fault: str, ranges: bool) -> None:
    server.fault = {1: fault, 2: fault}
    server.ranges = ranges
    one = wanted(server, 0)
    fetch(one.address, tmp_path / "0.tar", one.size, QUICK)
    assert (tmp_path / "0.tar").read_bytes() == original(server, 0)


def test_a_server_that_always_fails_is_an_error_that_says_why(server: Faulty, tmp_path: Path) -> None:
    server.every_fault = "busy"
    one = wanted(server, 0)
    with pytest.raises(RemoteError, match=r"00000\.tar: 4 attempts failed, the last with: .*503"):
        fetch(one.address, tmp_path / "0.tar", one.size, QUICK)


def test_waits_grow_and_begin_anew_after_progress(server: Faulty, tmp_path: Path) -> None:
    waits: list[float] = []
    server.fault = {1: "busy", 2: "busy", 3: "truncated", 4: "busy"}
    one = wanted(server, 0)
    patience = Patience(attempts=4, first_wait=1, stall=1, sleep=waits.append)
    fetch(one.address, tmp_path / "0.tar", one.size, patience)
    assert waits[:2] == [1, 2]
    assert (tmp_path / "0.tar").read_bytes() == original(server, 0)


def test_a_shard_of_another_size_than_its_index_says_is_refused(server: Faulty, tmp_path: Path) -> None:
    address, size = wanted(server, 0)
    for wrong in (size - 512, size + 512):
        with pytest.raises(RemoteError, match=f"{wrong:,}"):
            Cache(tmp_path / "cache", 10**9, QUICK).open(Wanted(address, wrong))
        assert not list((tmp_path / "cache").glob("*.tar"))


def test_a_missing_shard_is_not_asked_for_twice(server: Faulty, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"99999\.tar"):
        fetch(f"{server.address}/99999.tar", tmp_path / "0.tar", None, QUICK)


def test_a_command_may_give_the_shard(server: Faulty, tmp_path: Path) -> None:
    fetch(f"pipe:cat {server.folder}/00001.tar", tmp_path / "1.tar", None, QUICK)
    assert (tmp_path / "1.tar").read_bytes() == original(server, 1)
    with pytest.raises(RemoteError, match="the command ended with status 3: no luck"):
        fetch("pipe:echo no luck >&2; exit 3 # x.tar", tmp_path / "2.tar", None, QUICK)


def test_addresses_are_expanded_and_named(server: Faulty) -> None:
    assert expand("s3://bucket/laion/{00000..00002}.tar") == [f"s3://bucket/laion/{n:05d}.tar" for n in range(3)]
    assert expand(f"file://{server.folder}/0000*.tar") == [f"file://{server.folder}/{n:05d}.tar" for n in range(10)]
    assert local_name("http://h/a/00003.tar?token=x/y") == "00003.tar"
    assert local_name("pipe:aws s3 cp 's3://b/a/00003.tar' -") == "00003.tar"
    with pytest.raises(ValueError, match="names no file that ends in"):
        local_name("pipe:generate 3")
    with pytest.raises(ValueError, match="the same file name"):
        expand("s3://{a,b}/0.tar")


def test_the_cache_stays_within_its_bound_and_keeps_what_was_used_last(server: Faulty, tmp_path: Path) -> None:
    size = wanted(server, 0).size
    cache = Cache(tmp_path / "cache", 3 * size + 100, QUICK)
    kept = cache.open(wanted(server, 0))
    for number in (1, 2, 0, 3, 0, 4):
        with cache.open(wanted(server, number)) as file:
            assert file.read() == original(server, number)
        time.sleep(0.01)
        assert sum(file.stat().st_size for file in cache.folder.glob("*.tar")) <= cache.limit
    assert {file.name.split("-")[-1] for file in cache.folder.glob("*.tar")} == {"00000.tar", "00003.tar", "00004.tar"}
    assert server.gets["00000.tar"] < 6 and not list(cache.folder.glob("*.part"))
    for number in (5, 6, 7):
        cache.open(wanted(server, number)).close()
    assert kept.read() == original(server, 0)  # removed, but still readable where it is open
    with pytest.raises(ValueError, match="more than the whole cache"):
        Cache(tmp_path / "small", size - 1, QUICK).open(wanted(server, 0))


def use(folder: Path, limit: int, all_wanted: list[Wanted], seed: int, failures: multiprocessing.Queue[str]) -> None:
    cache = Cache(folder, limit, QUICK)
    for number in np.random.default_rng(seed).integers(0, len(all_wanted), 40):
        one = all_wanted[number]
        try:
            with cache.open(one) as file:
                if len(file.read()) != one.size:
                    failures.put(f"{one.address} is cut")
        except Exception as error:
            failures.put(repr(error))


def test_several_processes_share_a_cache_that_is_too_small_for_them(server: Faulty, tmp_path: Path) -> None:
    server.fault = {3: "drop", 5: "truncated", 6: "busy"}
    all_wanted = [wanted(server, number) for number in range(12)]
    limit = 5 * all_wanted[0].size + 100
    failures: multiprocessing.Queue[str] = multiprocessing.Queue()
    users = [
        multiprocessing.Process(target=use, args=(tmp_path / "cache", limit, all_wanted, seed, failures))
        for seed in range(4)
    ]
    for user in users:
        user.start()
    while any(user.is_alive() for user in users):
        if (tmp_path / "cache").is_dir():
            with (tmp_path / "cache" / "cache.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # while it is held, nothing is reserved or removed
                held = {f.name.removesuffix(".part") for f in (tmp_path / "cache").glob("*-*") if f.suffix != ".lock"}
            assert sum(int(name.split("-")[1]) for name in held) <= limit
        time.sleep(0.002)
    assert failures.empty()
    assert all(user.exitcode == 0 for user in users)


def test_what_a_killed_process_left_is_continued_or_removed(server: Faulty, tmp_path: Path) -> None:
    one, two = wanted(server, 0), wanted(server, 1)
    cache = Cache(tmp_path, one.size + 10, QUICK)
    cache.open(one).close()
    (complete,) = tmp_path.glob("*00000.tar")
    part = complete.with_name(f"{complete.name}.part")
    complete.replace(part)
    os.truncate(part, 1000)
    requests = server.gets["00000.tar"]
    assert cache.open(one).read() == original(server, 0)
    assert server.gets["00000.tar"] > requests
    complete.replace(part)
    os.truncate(part, 1000)
    assert cache.open(two).read() == original(server, 1)
    assert not part.exists()


def test_shards_are_fetched_ahead_in_the_order_of_need(server: Faulty, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 6 * wanted(server, 0).size, QUICK)
    prefetcher = Prefetcher(cache)
    needed = [wanted(server, number) for number in (7, 3, 5, 1, 2, 9, 11, 13)]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and len(list(tmp_path.glob("*.tar"))) < 6:
        prefetcher.want(needed)
        time.sleep(0.01)
    prefetcher.want(needed)
    assert {int(file.stem.split("-")[-1]) for file in tmp_path.glob("*.tar")} == {7, 3, 5, 1, 2, 9}
    assert max(server.gets.values()) == 1 or not server.gets


@pytest.mark.parametrize("beside", [True, False])
def test_a_run_over_remote_shards_is_the_run_over_local_ones(
    server: Faulty, tiny: YiVL, tmp_path: Path, beside: bool
) -> None:
    server.fault = {2: "truncated", 4: "drop"}
    if not beside:
        for file in server.folder.glob("*.index"):
            file.rename(tmp_path / file.name)
    address = f"{server.address}/{{00000..00019}}.tar"
    assert index.main([address, "--into", str(tmp_path / "data" / "far"), "--workers", "2"]) == 0
    if not beside:
        for file in tmp_path.glob("*.tar.index"):
            file.rename(server.folder / file.name)

    def steps(store: Store, shards: str, workers: int) -> list[list[str]]:
        (tmp_path / "s.yaml").write_text(yaml.safe_dump({"sources": {"far": {"shards": shards, "format": "caption"}}}))
        (tmp_path / "m.yaml").write_text(yaml.safe_dump({"catalogue": "s.yaml", "sources": {"far": {}}}))
        manifest = resolve(read(Mixture, tmp_path / "m.yaml"), store, 0)
        samples = Samples(Order(manifest, 0), store, Encoder(tiny.tokenizer, patches=16, image_side=56))
        loader = Loader(samples, global_batch=10, tokens_per_micro_batch=500, epochs=1, workers=workers)
        return [sorted(key for batch in step.batches for key in batch.keys) for step in loader.steps()]

    store = Store(tmp_path / "data", Cache(tmp_path / "cache", 40 * wanted(server, 0).size, QUICK))
    near = steps(Store(server.folder), "*.tar", workers=0)
    assert len({key for step in near for key in step}) == 60
    assert steps(store, address, workers=2) == near
    assert steps(store, address, workers=0) == near


def test_a_remote_source_without_indexes_says_how_to_get_them(server: Faulty, tmp_path: Path) -> None:
    store = Store(tmp_path, Cache(tmp_path / "cache", 10**9, QUICK))
    shard = f"{server.address}/00000.tar"
    with pytest.raises(index.BadIndex, match=rf"run: python -m data\.index '{shard}' --into {tmp_path}/far"):
        store.headers("far", [shard])
