"""Evaluation from the command line: sets by name, searchers side by side, the waterfall."""
