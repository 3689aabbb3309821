"""The benchmarks by the name of their module. To add one, write its module and name it here."""

from __future__ import annotations

from importlib import import_module

from eval.benchmark import Benchmark

BENCHMARKS = {
    "mmmu": "MMMU",
    "cmmmu": "CMMMU",
    "mmmu_pro": "MMMUPro",
    "vqav2": "VQAv2",
    "vizwiz": "VizWiz",
    "gqa": "GQA",
    "textvqa": "TextVQA",
    "pope": "POPE",
    "refcoco": "RefCOCO",
    "coco_captions": "COCOCaptions",
}
"""Module of `eval`, and the class in it."""


def find(name: str) -> type[Benchmark]:
    """The benchmark of a module.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    found: type[Benchmark] = getattr(import_module(f"eval.{name}"), BENCHMARKS[name])
    return found


def titled(title: str) -> type[Benchmark]:
    """The benchmark of a title, as result files name it.

    Raises:
        ValueError: there is none.
    """
    for name in BENCHMARKS:
        if (benchmark := find(name)).title == title:
            return benchmark
    raise ValueError(f"unknown benchmark {title!r}; there are {', '.join(find(name).title for name in BENCHMARKS)}")
