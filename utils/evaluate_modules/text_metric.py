"""Define the base class of this folder's `evaluate` modules, which can be combined:

    path = "utils/evaluate_modules/{}.py"
    both = evaluate.combine([evaluate.load(path.format(name)) for name in ("dialogue_rouge", ...)])
    both.compute(predictions=..., references=..., sources=...)

A dialogue has one reference or a list of them; `sources` are the dialogues. No network is needed.
"""

import inspect

import datasets
import evaluate
import numpy as np

OPTIONS = {"reduce", "use_stemmer", "classifier"}
TEXT = datasets.Value("string")


class TextMetric(evaluate.Metric):
    """Report the mean of each column of scores that a subclass's `_score` returns."""

    def _info(self) -> evaluate.MetricInfo:
        names = [name for name in inspect.signature(self._score).parameters if name not in OPTIONS]
        one, several = dict.fromkeys(names, TEXT), {"references": datasets.Sequence(TEXT)}
        features = [one | several, one] if "references" in names else [one]
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=", ".join(names),
            features=[datasets.Features(columns) for columns in features],
        )

    def _compute(self, **given) -> dict[str, float]:
        """Pass only its own arguments to `_score`: `evaluate.combine` gives all to every module."""
        known = OPTIONS | {"predictions", "references", "sources"}
        if unknown := ", ".join(sorted(given.keys() - known)):
            raise ValueError(f"unknown option {unknown}: choose from {', '.join(sorted(known))}")
        own = given.keys() & inspect.signature(self._score).parameters
        columns = self._score(**{name: given[name] for name in own})
        return {name: float(np.mean(column)) for name, column in columns.items()}
