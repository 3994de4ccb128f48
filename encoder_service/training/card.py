"""The model card: what a trained folder is, from what, and how good. Pure."""

from collections.abc import Mapping
from typing import Any

_SIDES = {
    "model": "questions and passages",
    "question": "questions",
    "passage": "passages",
}

_SHARED = "Both sides share this network."
_APART = "The other side has a network of its own."


def describe(name: str, about: Mapping[str, Any]) -> str:
    """Markdown for the folder of one network; `about` is the record in training.json."""
    before, best = about["before"], about["best"]
    figures = [key for key in best if key != "step"]
    rows = "\n".join(f"| {key} | {before[key]:.4f} | {best[key]:.4f} |" for key in figures)
    settings = "\n".join(f"- {key}: {value}" for key, value in about["settings"].items())
    data = "\n".join(f"- {source}" for source in about["data"])
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
---
# A dense encoder for {_SIDES[name]}

Fine-tuned by `shoal train` from `{about["model"]}` on {about["n_pairs"]:,} pairs of question and
passage, with in-batch and hard negatives at temperature {about["temperature"]}.
{_SHARED if about["shared"] else _APART}
Scores are inner products.

## Data

{data}

## Figures

Exact retrieval of {about["n_validation_questions"]:,} questions among
{about["n_validation_passages"]:,} passages that were held back. The weights are those after
step {best["step"]:.0f} of {about["n_steps_done"]}.

| | before | trained |
|---|--:|--:|
{rows}

## Settings

{settings}
"""
