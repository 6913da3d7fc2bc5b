"""The prompt playground of Lab 1: a dialogue or your own conversation, a prompt, a summary."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils import prompts
from utils.conversations.turns import Conversation, number_speakers, restore_names
from utils.dialogue_files import check_words, format_of, parse_conversations
from utils.generation import generate
from utils.rouge import rouge_scores
from utils.settings import Settings

OWN = "Paste a conversation, one turn on each line. It takes the place of the dialogue above."
ACCEPTED = ".txt,.json,.jsonl,.csv,.tsv,.vtt,.srt"


@dataclass(frozen=True)
class Answer:
    """One prompt with its number of tokens and of examples, and the summary with its ROUGE F1.

    Your own conversation has no references: `rouge` is then empty.
    """

    prompt: str
    tokens: int
    examples: int
    summary: str
    rouge: dict[str, float]


def _controls(dialogues: Sequence[str], settings: Settings) -> SimpleNamespace:
    titles = [(f"{i}: {' '.join(text.split())[:80]}", i) for i, text in enumerate(dialogues)]
    menu, number, slider = widgets.Dropdown, widgets.FloatSlider, widgets.IntSlider
    selections, decodings = ("similar", "random", "diverse"), ("greedy", "beam search", "sampling")
    plain, wide = prompts.TEMPLATES["plain"], {"layout": {"width": "95%"}}
    new_tokens = settings.max_new_tokens
    table = {
        "dialogue": (menu, "dialogue", {"options": titles, **wide}),
        "own": (widgets.Textarea, "or your own", {"placeholder": OWN, "rows": 5, **wide}),
        "template_name": (menu, "template", {"options": list(prompts.TEMPLATES), "value": "plain"}),
        "template": (widgets.Textarea, "wording", {"value": plain, "rows": 5, **wide}),
        "shots": (slider, "examples", {"value": 1, "min": 0, "max": 8}),
        "selection": (menu, "chosen", {"options": selections}),
        "decoding": (menu, "decoding", {"options": decodings}),
        "temperature": (number, "temperature", {"value": 1.0, "min": 0.1, "max": 2.0}),
        "top_p": (number, "top p", {"value": 1.0, "min": 0.1, "max": 1.0, "step": 0.05}),
        "penalty": (number, "repetition", {"value": 1.0, "min": 1.0, "max": 2.0}),
        "new_tokens": (slider, "new tokens", {"value": new_tokens, "min": 4, "max": 256}),
        "seed": (widgets.IntText, "seed", {"value": settings.seed}),
    }
    look = {"style": {"description_width": "6em"}}
    made = {k: kind(description=text, **look, **more) for k, (kind, text, more) in table.items()}
    return SimpleNamespace(**made)


def _one(found: Sequence[Conversation]) -> Conversation:
    if len(found) > 1:
        raise ValueError(f"the text holds {len(found)} conversations: give one of them")
    return found[0]


class Playground(widgets.VBox):
    """Widgets for choosing a prompt and a decoding method, and for reading the model's summary.

    `test` has columns dialogue and summaries; `train` has columns dialogue and summary and
    supplies the worked examples. `own` is a conversation of yours, which you can also paste into
    the widgets or upload. A page that cannot show widgets shows the first answer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        test: Dataset,
        train: Dataset,
        settings: Settings,
        own: str | Conversation = "",
    ):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.dialogues, self.summaries = list(test["dialogue"]), list(test["summaries"])
        self.train = list(train["dialogue"]), list(train["summary"])
        self.controls = c = _controls(self.dialogues, settings)
        self.own, c.own.value = own, str(own)
        self.upload = widgets.FileUpload(description="or a file", accept=ACCEPTED)
        self.button = widgets.Button(description="Summarize", button_style="primary")
        self.page = widgets.HTML(layout={"width": "95%"})
        rows = [c.dialogue], [c.own], [self.upload], [c.template_name, c.shots, c.selection]
        rows += [c.template], [c.decoding, c.temperature, c.top_p]
        rows += [c.penalty, c.new_tokens, c.seed], [self.button], [self.page]
        super().__init__([widgets.HBox(row) for row in rows])
        widgets.dlink((c.template_name, "value"), (c.template, "value"), prompts.TEMPLATES.get)
        self.upload.observe(lambda change: self.read_upload(change["new"]), "value")
        self.button.on_click(lambda _: self.show())
        self.show()

    def show(self) -> None:
        """Show the answer, or the error if the chosen prompt cannot be used."""
        self.button.disabled = True
        try:
            self.page.value = self._render(self.answer())
        except ValueError as error:  # such as a template without {dialogue}
            self._show_error(error)
        finally:
            self.button.disabled = False

    def answer(self) -> Answer:
        """Summarize the conversation, with the prompt and decoding set in the widgets.

        Raises ValueError if the template has no {dialogue}, the conversation exceeds the budget or
        its speakers are unclear, or the small world's model does not know its words.
        """
        dialogue, references, names = self._conversation()
        template, budget = self.controls.template.value, self.settings.max_prompt_tokens
        fixed = template, self.tokenizer, budget
        examples = prompts.fitting_examples(dialogue, self._examples(dialogue), *fixed)
        prompt = prompts.build_prompt(dialogue, examples, template)
        torch.manual_seed(self.controls.seed.value)
        (summary,) = generate(self.model, self.tokenizer, [prompt], **self.generation_config())
        rouge = rouge_scores([summary], [references]).iloc[0].to_dict() if references else {}
        tokens = prompts.count_tokens(self.tokenizer, prompt)
        return Answer(prompt, tokens, len(examples), restore_names(summary, names), rouge)

    def _conversation(self) -> tuple[str, list[str], dict[str, str]]:
        """Return the dialogue, its references and, if it is your own, its speakers' names."""
        own, number = self.controls.own.value.strip(), self.controls.dialogue.value
        if not own:
            return self.dialogues[number], self.summaries[number], {}
        conversation = self.own
        if isinstance(conversation, str) or own != str(conversation):
            file_format = format_of(own, "your text") or "transcript"
            conversation = _one(parse_conversations(own.encode(), "your text", file_format))
        turns, names = number_speakers(conversation.turns)
        check_words([" ".join(turn.text for turn in turns)], self.settings.model)
        return "\n".join(map(str, turns)), [], names

    def read_upload(self, files: Any) -> None:
        """Show an uploaded conversation, for you to check and change, or why it cannot be read."""
        for file in files.values() if isinstance(files, dict) else files:  # ipywidgets 7 or 8
            name = file.get("name") or file["metadata"]["name"]
            try:
                self.own = _one(parse_conversations(bytes(file["content"]), name))
                self.controls.own.value = str(self.own)
            except ValueError as error:
                self._show_error(error)

    def _show_error(self, error: ValueError) -> None:
        self.page.value = f"<p style='color:#b00020'>{html.escape(str(error))}</p>"

    def generation_config(self) -> dict[str, Any]:
        """Return the arguments for `generate` that the widgets set."""
        c = self.controls
        config = {"precision": self.settings.precision, "max_new_tokens": c.new_tokens.value}
        config["repetition_penalty"] = c.penalty.value
        if c.decoding.value == "beam search":
            config["num_beams"] = 4
        if c.decoding.value == "sampling":
            config |= {"do_sample": True, "top_k": 0}
            config |= {"temperature": c.temperature.value, "top_p": c.top_p.value}
        return config

    def _examples(self, dialogue: str) -> Sequence[prompts.Example]:
        k, selection = self.controls.shots.value, self.controls.selection.value
        if selection == "similar":
            return prompts.similar_examples(*self.train, k, [dialogue])[0]
        draw = prompts.random_examples if selection == "random" else prompts.diverse_examples
        return draw(*self.train, k, 1, self.controls.seed.value)[0]

    def _render(self, answer: Answer) -> str:
        """Return the answer as HTML, with all texts escaped."""
        _, summaries, _ = self._conversation()
        references = "".join(f"<li>{html.escape(text)}</li>" for text in summaries)
        scores = ", ".join(f"{name} {100 * score:.1f}" for name, score in answer.rouge.items())
        dropped = self.controls.shots.value - answer.examples
        note = f", {dropped} more did not fit" if dropped else ""
        budget = self.settings.max_prompt_tokens
        judged = f"<p><b>References</b></p><ul>{references}</ul>"
        judged += f"<p><b>ROUGE F1, points</b>: {scores}</p>"
        return (
            f"<p><b>Summary</b>: {html.escape(answer.summary)}</p>{judged if summaries else ''}"
            f"<p><b>Prompt</b>: {answer.tokens} of {budget} tokens; "
            f"examples: {answer.examples}{note}</p>"
            f"<pre style='white-space:pre-wrap'>{html.escape(answer.prompt)}</pre>"
        )

    _ipython_display_ = None  # ipywidgets 7 (Colab's) has it, and IPython would prefer it

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """Return the widgets, and the answer's HTML for front ends without widgets."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        answer = {"text/html": self.page.value, "text/plain": "Playground"}
        return {"application/vnd.jupyter.widget-view+json": view} | answer
