"""LAION-400M: pairs of web images and their alternative texts, as img2dataset downloads them. Used in place.

    RAW/00000.tar, RAW/00001.tar, …       members KEY.jpg, KEY.txt, KEY.json (beside 00000.parquet, 00000_stats.json)

413 M unique pairs (laion.ai/blog/laion-400-open-dataset); the metadata are CC BY 4.0, the images their owners'. With
`img2dataset --output_format webdataset --image_size 448 --resize_mode keep_ratio --resize_only_if_bigger True
--encode_quality 95` images keep their shape and their longer side is enough for stage 2.
"""

from __future__ import annotations

from pathlib import Path

from data.raw import BadRaw


def shards(raw: Path) -> list[Path]:
    """The tars, which are shards already."""
    if found := sorted(raw.rglob("*.tar")):
        return found
    raise BadRaw(f"{raw} holds no .tar; img2dataset writes them with --output_format webdataset")
