"""What the `evaluate` modules of this folder share: texts in, means out, and `evaluate.combine` between them.

A module is loaded from its file and needs no network:

    both = evaluate.combine([evaluate.load("utils/evaluate_modules/dialogue_rouge.py"), evaluate.load("utils/evaluate_modules/...")])
    both.compute(predictions=..., references=..., sources=...)

`predictions` are one text per dialogue; `references` one text, or a list of texts, per dialogue; `sources` the
dialogues themselves. Each module takes what it needs and leaves the rest.
"""

import inspect

import datasets
import evaluate
import pandas as pd

KNOWN = {"predictions", "references", "sources", "reduce", "use_stemmer", "classifier"}
_TEXT = datasets.Value("string")
_INPUTS = {
    ("predictions",): [datasets.Features({"predictions": _TEXT})],
    ("predictions", "references"): [
        datasets.Features({"predictions": _TEXT, "references": datasets.Sequence(_TEXT)}),
        datasets.Features({"predictions": _TEXT, "references": _TEXT}),
    ],
    ("predictions", "sources"): [datasets.Features({"predictions": _TEXT, "sources": _TEXT})],
}


class TextMetric(evaluate.Metric):
    """A measure that scores each dialogue by `_score` and reports the mean of every column."""

    inputs: tuple[str, ...] = ("predictions", "references")
    source: str = ""

    def _score(self, **inputs) -> pd.DataFrame:
        """One row per dialogue; gets the texts that `inputs` names, and options."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation=self.source,
            inputs_description=", ".join(self.inputs),
            features=_INPUTS[self.inputs],
        )

    def _compute(self, **given) -> dict[str, float]:
        """Under `evaluate.combine` every module is given the options and sources of all: each takes its own."""
        if unknown := set(given) - KNOWN:
            raise ValueError(
                f"unknown option {', '.join(sorted(unknown))}: choose from {', '.join(sorted(KNOWN))}"
            )
        own = {
            name: given[name] for name in inspect.signature(self._score).parameters if name in given
        }
        return {name: float(mean) for name, mean in self._score(**own).mean().items()}
