"""Training: stage files, the trainer that runs any of them, and the quickstart that shows all of it."""
