"""The model in other people's evaluation harnesses. Each module imports its harness, which must be installed."""
