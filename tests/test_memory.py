"""Loading holds no data set: memory stays where it is over any number of samples."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import captions

from data.loader import Samples, Task
from data.mixture import Mixture, resolve
from data.order import Order
from data.shards import write_shards
from data.store import Store
from yivl import YiVL
from yivl.encoder import Encoder
from yivl.fast_images import PIXELS
from yivl.settings import read


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
@pytest.mark.parametrize("pixels", ["exact", "fast"])
def test_memory_is_flat_over_100_000_samples(tmp_path: Path, tiny: YiVL, pixels: str) -> None:
    """What a worker does, for 100,000 samples of 600 shards: more than are kept open."""
    write_shards(tmp_path / "s", captions(3000, np.random.default_rng(0)), per_shard=5)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"sources": {"s": {"shards": "s/*.tar", "format": "caption"}}}))
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"catalogue": "c.yaml", "sources": {"s": {}}}))
    store = Store(tmp_path)
    order = Order(resolve(read(Mixture, tmp_path / "m.yaml"), store, 0), 0)
    loading = Samples(order, store, Encoder(tiny.tokenizer, patches=64, image_side=112, pixels=PIXELS[pixels]))
    sizes = []
    for start in range(0, 100_000, 10_000):
        for position, place in enumerate(order.places(start, 10_000), start=start):
            assert loading[Task(position, place)].example is not None
        gc.collect()
        sizes.append(resident())
    assert max(sizes[2:]) - sizes[1] < 10 * 2**20, [size >> 20 for size in sizes]
