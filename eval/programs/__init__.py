"""Benchmarks whose answers are programs: HumanEval and MBPP, pass@1 of a language model's greedy completions.

`humaneval` and `mbpp` (problems, prompts, tests) are `benchmark`s whose judgement is that of tests: each program is run
by `sandbox` in a process of its own, `confined`. `python -m eval.text` asks them.
"""
