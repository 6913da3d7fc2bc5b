"""The prompt playground: choose a dialogue, a prompt and a decoding, and see what the model makes of it."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.generation import generate
from utils.prompts import (
    TEMPLATES,
    Example,
    build_prompt,
    count_tokens,
    diverse_examples,
    fitting_examples,
    random_examples,
    similar_examples,
)
from utils.rouge import rouge_scores
from utils.settings import Settings

DECODINGS = ("greedy", "beam search", "sampling")
CHOICES = ("random", "similar", "diverse")


@dataclass(frozen=True)
class Answer:
    """One prompt and what came back: its tokens, the examples that fitted, the summary, and its ROUGE."""

    prompt: str
    tokens: int
    examples: int
    summary: str
    rouge: dict[str, float]


class Playground(widgets.VBox):
    """Widgets around `answer`. In a page without a front end, the first answer is shown as it stands.

    `test` has columns dialogue and summaries, `train` has columns dialogue and summary and gives the worked examples.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        test: Dataset,
        train: Dataset,
        settings: Settings,
    ):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.dialogues, self.summaries = list(test["dialogue"]), list(test["summaries"])
        self.train = list(train["dialogue"]), list(train["summary"])
        wide = widgets.Layout(width="95%")
        titles = [
            (f"{i}: {' '.join(text.split())[:80]}", i) for i, text in enumerate(self.dialogues)
        ]
        self.dialogue = widgets.Dropdown(
            options=titles, value=0, description="dialogue", layout=wide
        )
        self.template_name = widgets.Dropdown(
            options=list(TEMPLATES), value="plain", description="template"
        )
        self.template = widgets.Textarea(
            value=TEMPLATES["plain"], rows=5, description="wording", layout=wide
        )
        self.shots = widgets.IntSlider(value=1, min=0, max=8, description="examples")
        self.choice = widgets.Dropdown(options=CHOICES, value="similar", description="chosen")
        self.decoding = widgets.Dropdown(options=DECODINGS, value="greedy", description="decoding")
        self.temperature = widgets.FloatSlider(
            value=1.0,
            min=0.1,
            max=2.0,
            step=0.1,
            description="temperature",
            style={"description_width": "6em"},
        )
        self.top_p = widgets.FloatSlider(
            value=1.0, min=0.1, max=1.0, step=0.05, description="top p"
        )
        self.penalty = widgets.FloatSlider(
            value=1.0, min=1.0, max=2.0, step=0.1, description="repetition"
        )
        self.new_tokens = widgets.IntSlider(
            value=settings.max_new_tokens, min=4, max=256, description="new tokens"
        )
        self.seed = widgets.IntText(value=settings.seed, description="seed")
        self.button = widgets.Button(description="Summarize", button_style="primary")
        self.page = widgets.HTML(layout=wide)
        super().__init__(
            [
                self.dialogue,
                widgets.HBox([self.template_name, self.shots, self.choice]),
                self.template,
                widgets.HBox([self.decoding, self.temperature, self.top_p]),
                widgets.HBox([self.penalty, self.new_tokens, self.seed]),
                self.button,
                self.page,
            ]
        )
        self.template_name.observe(
            lambda change: setattr(self.template, "value", TEMPLATES[change["new"]]), "value"
        )
        self.button.on_click(lambda _: self.show())
        self.show()

    def show(self) -> None:
        """Answer as the widgets stand, and write it, or what was wrong with the choice, into the page."""
        self.button.disabled = True
        try:
            self.page.value = self._render(self.answer())
        except ValueError as error:  # such as a template without {dialogue}
            self.page.value = f"<p style='color:#b00020'>{html.escape(str(error))}</p>"
        finally:
            self.button.disabled = False

    def answer(self) -> Answer:
        """What the model answers to the choices that the widgets hold.

        Raises:
            ValueError: the template has no {dialogue}, or the dialogue alone exceeds the budget.
        """
        dialogue, budget = self.dialogues[self.dialogue.value], self.settings.max_prompt_tokens
        examples = fitting_examples(
            dialogue, self._examples(), self.template.value, self.tokenizer, budget
        )
        prompt = build_prompt(dialogue, examples, self.template.value)
        torch.manual_seed(self.seed.value)
        (summary,) = generate(self.model, self.tokenizer, [prompt], **self._generation_config())
        return Answer(
            prompt=prompt,
            tokens=count_tokens(self.tokenizer, prompt),
            examples=len(examples),
            summary=summary,
            rouge=rouge_scores([summary], [self.summaries[self.dialogue.value]]).iloc[0].to_dict(),
        )

    def _examples(self) -> Sequence[Example]:
        k, query = self.shots.value, self.dialogues[self.dialogue.value]
        if self.choice.value == "similar":
            return similar_examples(*self.train, k, [query])[0]
        draw = random_examples if self.choice.value == "random" else diverse_examples
        return draw(*self.train, k, 1, self.seed.value)[0]

    def _generation_config(self) -> dict[str, Any]:
        config = {
            "precision": self.settings.precision,
            "max_new_tokens": self.new_tokens.value,
            "repetition_penalty": self.penalty.value,
        }
        if self.decoding.value == "beam search":
            return config | {"num_beams": 4}
        if self.decoding.value == "sampling":
            return config | {
                "do_sample": True,
                "top_k": 0,
                "temperature": self.temperature.value,
                "top_p": self.top_p.value,
            }
        return config

    def _render(self, answer: Answer) -> str:
        """The answer as HTML; texts are escaped, for a dialogue may hold anything."""
        references = "".join(
            f"<li>{html.escape(text)}</li>" for text in self.summaries[self.dialogue.value]
        )
        scores = ", ".join(f"{name} {100 * score:.1f}" for name, score in answer.rouge.items())
        dropped = self.shots.value - answer.examples
        note = f", {dropped} more did not fit" if dropped else ""
        return (
            f"<p><b>Summary</b>: {html.escape(answer.summary)}</p>"
            f"<p><b>References</b></p><ul>{references}</ul>"
            f"<p><b>ROUGE, F1 in points</b>: {scores}</p>"
            f"<p><b>Prompt</b>: {answer.tokens} of {self.settings.max_prompt_tokens} tokens; "
            f"examples: {answer.examples}{note}</p>"
            f"<pre style='white-space:pre-wrap'>{html.escape(answer.prompt)}</pre>"
        )

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The widgets for a front end that has them, the first answer for a page that has not."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        bundle = {"application/vnd.jupyter.widget-view+json": view}
        return bundle | {"text/html": self.page.value, "text/plain": "Playground"}
