"""python -m eval: which benchmarks there are, and what data each wants."""

from eval.registry import BENCHMARKS, find

for name in BENCHMARKS:
    benchmark = find(name)
    print(f"python -m eval.{name} MODEL --data PATH\n  {benchmark.title}: {', '.join(benchmark.splits)}")
    print(f"  protocols: {', '.join(benchmark.protocols)}\n  data: {benchmark.layout}\n")
