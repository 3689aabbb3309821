"""Needle in a haystack: can a model find one sentence, anywhere in a text of any length that it reads?

A number is hidden at some depth of a long text, and the model is asked for it: a grid by length and depth, as in
Figure 6 of the Yi technical report. Keys and numbers are drawn anew for every cell, so nothing can be guessed or was
learned, and the reply is judged by whether it has the number (both as in NVIDIA/RULER), not by another model.

`languages` (the words) -> `haystack` (the text) -> `cell` (a prompt of exactly so many tokens) -> `reader` (a model) ->
`grid` (asks, and goes on after a stop) -> `report` and `heatmap`.
"""
