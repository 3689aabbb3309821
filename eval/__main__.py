"""python -m eval: which benchmarks there are, and what data each wants."""

from eval.registry import BENCHMARKS, find

for name in BENCHMARKS:
    benchmark = find(name)
    print(f"python -m eval.{name} MODEL --data PATH\n  {benchmark.title}: {', '.join(benchmark.splits)}")
    print(f"  protocols: {', '.join(benchmark.protocols)}\n  data: {benchmark.layout}\n")
print("of the language model alone:")
print("python -m eval.needle MODEL       needle in a haystack, over lengths and depths")
print("python -m eval.text MODEL --data FOLDER --table8       text benchmarks, HumanEval and MBPP among them")
