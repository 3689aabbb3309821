"""Converters: one module a source, from the files its publishers ship to records (`data.record`)."""
