"""Draw the labs' explanatory pictures into docs/pictures/, and attach them to the notebooks.

A picture is a white card, readable in light and dark themes. A notebook shows it as a PNG
attachment of a markdown cell, `![alt text](attachment:name.png)`, which Jupyter, Colab, GitHub and
the HTML pages display. `python -m tools.pictures` draws and attaches all of them.
"""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

from utils.lab.notebooks import NOTEBOOKS, ROOT

FOLDER = ROOT / "docs" / "pictures"
WIDTH, DPI = 7.2, 120  # inches and dots per inch: 864 pixels, in which 13 pt is 22 pixels high
INK, GRAY, LINE = "#1f2933", "#52606d", "#9aa5b1"
BLUE, ORANGE, GREEN, WHITE = "#d6e9f8", "#fde8c8", "#d3f0e3", "#ffffff"
STRONG_BLUE, STRONG_ORANGE, STRONG_GREEN = "#0072B2", "#b45f06", "#00785a"
FROZEN = "#e1e5ea"
RANK, SIZE = 32, 768  # of FLAN-T5-base's query and value projections, with Lab 2's rank
WEIGHTS, ADAPTER = 247_577_856, 3_538_944  # of FLAN-T5-base and of its adapter
MEGABYTES = 4e-6  # of one number
ATTACHMENT = re.compile(r"!\[[^\]]+\]\(attachment:([\w-]+)\.png\)")


def card(height: float) -> tuple[Figure, Axes]:
    """Return a white card with a thin border; its axes run from 0 to 100 along x."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=WHITE)
    figure.patch.set(edgecolor=LINE, linewidth=2)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 100 * height / WIDTH))
    axes.axis("off")
    return figure, axes


def box(
    axes: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    text: str = "",
    color: str = WHITE,
    **style: object,
) -> None:
    """Draw a rounded box from its lower left corner, with text in its middle."""
    edge, dashes = style.pop("edge", LINE), style.pop("dashes", "-")
    shape = FancyBboxPatch(corner, *size, "round,pad=0,rounding_size=1")
    shape.set(facecolor=color, edgecolor=edge, linestyle=dashes, linewidth=1.2)
    axes.add_patch(shape)
    (x, y), (width, height) = corner, size
    write(axes, (x + width / 2, y + height / 2), text, **style)


def write(axes: Axes, place: tuple[float, float], text: str, **style: object) -> None:
    """Write text, centered unless the style says otherwise."""
    look = {"ha": "center", "va": "center", "color": INK, "fontsize": 12, "linespacing": 1.35}
    axes.text(*place, text, **look | style)


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = GRAY,
    bend: float = 0.0,
    width: float = 1.6,
) -> None:
    """Draw an arrow between two points, bent to the side if `bend` is not 0."""
    look = {"arrowstyle": "-|>", "mutation_scale": 14, "color": color, "linewidth": width}
    axes.add_patch(
        FancyArrowPatch(
            start, end, connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0, **look
        )
    )


def task() -> Figure:
    """Draw a dialogue, the model's summary and the three references it is scored against."""
    figure, axes = card(4.3)
    left = {"ha": "left"}
    write(axes, (3, 56), "dialogue", fontweight="bold", **left)
    turns = [
        "#Person1#: Hi, Anna. Could you\nlend me the ladder?",
        "#Person2#: When do you need it?",
        "#Person1#: On Friday.",
        "#Person2#: Sure, no problem.",
    ]
    top = 53.5
    for turn in turns:
        height = 8.5 if "\n" in turn else 5.6
        second = turn.startswith("#Person2#")
        box(
            axes, (7 if second else 3, top - height), (40, height), color=ORANGE if second else BLUE
        )
        write(axes, (8.5 if second else 4.5, top - height / 2), turn, fontsize=11, **left)
        top -= height + 1.3
    box(axes, (14, 10), (22, 8), "the model", GREEN, fontweight="bold", edge=STRONG_GREEN)
    arrow(axes, (25, 23.6), (25, 18.6))
    arrow(axes, (36.5, 14), (50.5, 14), STRONG_GREEN)
    box(axes, (51, 8), (46, 11.5), color=GREEN, edge=STRONG_GREEN)
    write(axes, (52.5, 13.7), "#Person1# asks Anna for the\nladder. Anna agrees.", **left)
    write(axes, (51, 22), "the model's summary", fontweight="bold", **left)
    write(axes, (51, 56), "three references, by three people", fontweight="bold", **left)
    references = [
        "#Person1# would like to borrow the\nladder on Friday. Anna says yes.",
        "Anna will lend #Person1# her ladder.",
        "Anna agrees to lend #Person1# the\nladder on Friday.",
    ]
    top = 53.5
    for text in references:
        height = 8.5 if "\n" in text else 5.6
        box(axes, (51, top - height), (46, height))
        write(axes, (52.5, top - height / 2), text, fontsize=11, **left)
        top -= height + 1.3
    write(axes, (50, 3.7), "score: the words shared with each reference, averaged over the three")
    return figure


def encoder_decoder() -> Figure:
    """Draw an encoder, a decoder, attention between them, and teacher forcing."""
    figure, axes = card(4.8)
    does = {
        "encoder": "reads the whole prompt at once;\nevery token looks at every other",
        "decoder": "writes one token at a time; looks\nat the prompt and at what it wrote",
    }
    colors = (BLUE, STRONG_BLUE), (ORANGE, STRONG_ORANGE)
    for x, (part, text), (color, edge) in zip((3, 53), does.items(), colors, strict=True):
        box(axes, (x, 24), (44, 17), color=color, edge=edge)
        write(axes, (x + 22, 37.5), part, fontsize=14, fontweight="bold")
        write(axes, (x + 22, 30), text, fontsize=11)
    arrow(axes, (47.3, 32.5), (52.7, 32.5), STRONG_BLUE, width=3)
    for position, token in enumerate(("Could", "Anna", "lend", "it?")):
        x = 4.5 + 10.6 * position
        box(axes, (x, 14), (9.6, 6), token, fontsize=11)
        arrow(axes, (x + 4.8, 20.3), (x + 4.8, 23.8))
    written = ("<pad>", "Anna", "lends", "it"), ("Anna", "lends", "it", "</s>")
    for position, (before, after) in enumerate(zip(*written, strict=True)):
        x = 54.5 + 10.6 * position
        box(axes, (x, 14), (9.6, 6), before, fontsize=11)
        arrow(axes, (x + 4.8, 20.3), (x + 4.8, 23.8))
        box(axes, (x, 45), (9.6, 6), after, GREEN, fontsize=11, edge=STRONG_GREEN)
        arrow(axes, (x + 4.8, 41.3), (x + 4.8, 44.8), STRONG_GREEN)
    for x, width in ((9.3, 0.8), (19.9, 2.2), (30.5, 4.2), (41.1, 0.8)):
        arrow(axes, (x, 41.3), (69.9, 51.4), STRONG_BLUE, bend=-0.35, width=width)
    note = "attention: to write “lends”, the decoder\nlooks most at “lend” and “Anna”"
    write(axes, (3, 62), note, fontsize=11, color=STRONG_BLUE, ha="left")
    write(axes, (97, 54), "predicted next tokens", fontsize=11, color=STRONG_GREEN, ha="right")
    write(axes, (25, 10.5), "tokens of the prompt", fontsize=11)
    write(axes, (75, 10.5), "tokens so far", fontsize=11)
    note = "in training: the true ones (teacher forcing)\nin use: the model's own"
    write(axes, (75, 4.8), note, fontsize=11, color=GRAY)
    write(
        axes,
        (25, 4.8),
        "line breaks are lost;\nspeaker tags mark the turns",
        fontsize=11,
        color=GRAY,
    )
    return figure


def few_shot_prompt() -> Figure:
    """Draw the parts of a three-shot prompt and which of them fit into two token budgets."""
    figure, axes = card(4.6)
    write(axes, (3, 59.5), "a few-shot prompt, from top to bottom", fontweight="bold", ha="left")
    parts = [
        ("example 1", BLUE, "Summarize … dialogue … Summary: #Person2# rents a bike."),
        ("example 2", BLUE, "Summarize … dialogue … Summary: Tom invites #Person1#."),
        ("example 3", BLUE, "Summarize … dialogue … Summary: #Person1# calls a taxi."),
        ("question", ORANGE, "Summarize … dialogue … Summary:"),
    ]
    for row, (name, color, text) in enumerate(parts):
        y = 50 - 8 * row
        box(axes, (3, y), (16, 6.6), name, color, fontsize=11)
        box(axes, (20, y), (77, 6.6), color=color)
        write(axes, (21.5, y + 3.3), text, fontsize=11, ha="left")
    write(axes, (83, 29.3), "the model continues here", fontsize=11, color=STRONG_ORANGE)
    for row, (budget, kept) in enumerate(((1024, 3), (512, 1))):
        _budget(axes, 13 - 11 * row, budget, kept)
    return figure


def _budget(axes: Axes, y: float, budget: int, kept: int) -> None:
    """Draw a prompt as a bar, 200 tokens for each part; examples that do not fit are dashed."""
    per_token = 60 / 1100
    write(axes, (3, y + 2.5), f"budget {budget:,}", ha="left", fontweight="bold")
    x = 23.0
    for number in (1, 2, 3, 0):
        held = 0 < number <= kept or number == 0
        color = (ORANGE if number == 0 else BLUE) if held else WHITE
        width = 200 * per_token
        name = f"ex. {number}" if number else "question"
        style = {} if held else {"dashes": "--", "color": color}
        look = {"fontsize": 11, **({} if held else {"dashes": "--"})}
        box(axes, (x, y), (width, 5), name, style.get("color", color), **look)
        x += width
    noun = "examples fit" if kept > 1 else "example fits"
    write(axes, (x + 2, y + 2.5), f"{kept} {noun}", ha="left", color=STRONG_BLUE)


def rouge() -> Figure:
    """Draw the matched words of a prediction and a reference, and precision, recall and F1."""
    figure, axes = card(3.3)
    rows = {
        "prediction": (33.0, ["Anna", "asks", "Tom", "for", "the", "ladders"]),
        "reference": (17.5, ["Tom", "lends", "Anna", "the", "ladder"]),
    }
    matched, places = {"Anna", "Tom", "the"}, {}
    for name, (y, words) in rows.items():
        write(axes, (3, y + 3), name, ha="left", fontweight="bold")
        for position, word in enumerate(words):
            x = 22 + 12.8 * position
            color = GREEN if word in matched else WHITE
            edge = STRONG_GREEN if word in matched else LINE
            box(axes, (x, y), (11.6, 6), word, color, edge=edge)
            places[name, word] = x + 5.8
    pairs = [(word, word, "-") for word in sorted(matched)] + [("ladders", "ladder", "--")]
    for above, below, dashes in pairs:
        ends = [places["prediction", above], places["reference", below]]
        color = STRONG_GREEN if dashes == "-" else STRONG_ORANGE
        axes.plot(ends, [32.8, 23.7], color=color, linestyle=dashes, linewidth=1.8)
    write(axes, (88, 26.3), "with a\nstemmer", ha="left", fontsize=11, color=STRONG_ORANGE)
    write(axes, (50, 42.3), "3 words are shared", color=STRONG_GREEN)
    sums = "precision 3/6 = 0.50     recall 3/5 = 0.60     F1 = 6/11 = 0.55"
    write(axes, (50, 10), sums, fontsize=13)
    write(axes, (50, 4), "the order of the words does not count", fontsize=11, color=GRAY)
    return figure


def lora_beside_w() -> Figure:
    """Draw the frozen matrix W with the trained matrices A and B beside it."""
    figure, axes = card(4.4)
    left, small = {"ha": "left"}, 2 * RANK * SIZE
    box(axes, (12, 15), (27, 27), color=FROZEN)
    write(axes, (25.5, 33), "W", fontsize=18, fontweight="bold")
    write(axes, (25.5, 24.5), f"{SIZE} × {SIZE}\nfrozen", fontsize=13)
    box(axes, (51, 18), (27, 5.5), "A", ORANGE, edge=STRONG_ORANGE, fontweight="bold", fontsize=14)
    write(axes, (80, 20.7), f"{RANK} × {SIZE}\ntrained", fontsize=13, **left)
    box(axes, (62, 31), (5, 15), "B", ORANGE, edge=STRONG_ORANGE, fontweight="bold", fontsize=14)
    write(axes, (69, 38.5), f"{SIZE} × {RANK}\ntrained, zero at first", fontsize=13, **left)
    box(axes, (41, 3.5), (12, 6), "input x", BLUE, edge=STRONG_BLUE, fontsize=13)
    box(axes, (32, 52), (30, 6), "output: W x + B A x", GREEN, edge=STRONG_GREEN, fontsize=13)
    for start, end in (
        ((44, 9.8), (25.5, 14.7)),
        ((50, 9.8), (64.5, 17.7)),
        ((64.5, 23.8), (64.5, 30.7)),
        ((25.5, 42.3), (41, 51.7)),
        ((64.5, 46.3), (53, 51.7)),
    ):
        arrow(axes, start, end)
    sums = f"W holds {SIZE * SIZE:,} numbers,\nA and B {small:,}"
    write(axes, (62, 7.5), sums, fontsize=13, color=GRAY, **left)
    return figure


def trained_and_stored() -> Figure:
    """Draw the memory that full fine-tuning and LoRA need, and the files that they leave."""
    figure, axes = card(4.2)
    left = {"ha": "left", "fontsize": 13}
    write(axes, (3, 54), "FLAN-T5-base in memory during training", fontweight="bold", **left)
    write(axes, (78, 54), "stored after", fontweight="bold", **left)
    rows = (
        (36, "full fine-tuning", 0, WEIGHTS, GREEN, STRONG_GREEN),
        (17, f"LoRA, rank {RANK}", WEIGHTS, ADAPTER, ORANGE, STRONG_ORANGE),
    )
    scale = 68 / (4 * MEGABYTES * WEIGHTS)  # percent of the picture's width per megabyte
    for y, name, frozen, trained, color, edge in rows:
        write(axes, (3, y + 11.3), name, **left)
        total = _memory(axes, y, (frozen, trained), (color, edge), scale)
        stored = MEGABYTES * trained
        _bar(axes, (78, y), stored * scale, color, edge)
        write(axes, (3, y - 3), f"{total:,.0f} MB", **left)
        write(axes, (78, y - 3), f"{stored:,.0f} MB", **left)
    note = "Full fine-tuning needs four numbers for every weight. LoRA needs one for each frozen\n"
    note += "weight (gray) and four for each trained one. Stored activations come on top of both."
    write(axes, (3, 5.5), note, ha="left", fontsize=11, color=GRAY)
    return figure


def _memory(
    axes: Axes, y: float, counts: tuple[int, int], colors: tuple[str, str], scale: float
) -> float:
    """Draw frozen weights and four numbers for each trained one; return the megabytes."""
    frozen, trained = (MEGABYTES * count for count in counts)
    x = 3.0
    if frozen:
        _bar(axes, (x, y), frozen * scale, FROZEN, LINE)
        write(axes, (x + frozen * scale / 2, y + 4), "weights", fontsize=12)
        x += frozen * scale
    for name in ("weights", "gradients", "average 1", "average 2"):
        _bar(axes, (x, y), trained * scale, *colors)
        if not frozen:
            write(axes, (x + trained * scale / 2, y + 4), name, fontsize=12)
        x += trained * scale
    return frozen + 4 * trained


def _bar(axes: Axes, corner: tuple[float, float], width: float, color: str, edge: str) -> None:
    axes.add_patch(Rectangle(corner, width, 8, facecolor=color, edgecolor=edge, linewidth=1.2))


def experiment() -> Figure:
    """Draw Lab 3's experiment: plant a behavior, train it away, and judge on new dialogues."""
    figure, axes = card(4.3)
    steps = (
        (
            "1  plant",
            BLUE,
            STRONG_BLUE,
            "The summarizer learns\nfrom annotators who\nquote insults.",
        ),
        (
            "2  train",
            ORANGE,
            STRONG_ORANGE,
            "A classifier judges the\nsampled summaries. PPO\nlearns from that alone.",
        ),
        (
            "3  judge",
            GREEN,
            STRONG_GREEN,
            "We score summaries of\nnew dialogues, before\nand after PPO.",
        ),
    )
    for number, (name, color, edge, text) in enumerate(steps):
        x = 3 + 32 * number
        box(axes, (x, 36), (30, 20), color=color, edge=edge)
        write(axes, (x + 15, 52), name, fontweight="bold", fontsize=14)
        write(axes, (x + 15, 43), text, fontsize=11)
        if number:
            arrow(axes, (x - 1.8, 46.5), (x - 0.2, 46.5))
    box(axes, (3, 27), (62, 6), "600 heated training dialogues", fontsize=11)
    box(axes, (35, 18), (30, 6), "150 for choosing β", fontsize=11)
    box(axes, (67, 27), (30, 6), "heated test dialogues", fontsize=11)
    note = "their insults occur in\nno training dialogue"
    write(axes, (82, 21.5), note, fontsize=10.5, color=GRAY)
    example = "quoting:  Tom calls Anna a lazy clown.        cool:  Tom loses patience with Anna."
    box(axes, (3, 4), (94, 9), color=FROZEN)
    write(axes, (50, 8.5), example, fontsize=11.5)
    return figure


def ppo_loop() -> Figure:
    """Draw one step of PPO: sample, judge, subtract the KL, compare with the value, update."""
    figure, axes = card(5.2)
    bold = {"fontweight": "bold", "fontsize": 13}
    box(axes, (36, 57), (28, 12), color=ORANGE, edge=STRONG_ORANGE)
    write(axes, (50, 65.3), "policy", **bold)
    write(axes, (50, 60.2), "the model in training", fontsize=10.5)
    box(axes, (3, 57), (22, 12), "prompt\n(a dialogue)", BLUE, edge=STRONG_BLUE)
    box(axes, (71, 57), (26, 12), "response\n(a sampled summary)", fontsize=11)
    box(axes, (70, 33), (27, 13), color=GREEN, edge=STRONG_GREEN)
    write(axes, (83.5, 42), "judge", **bold)
    write(axes, (83.5, 36.7), "score: log p(nothate)", fontsize=10.5)
    box(axes, (36, 33), (28, 13), color=FROZEN)
    write(axes, (50, 42), "reference", **bold)
    write(axes, (50, 36.7), "initial policy, frozen", fontsize=10.5)
    box(axes, (36, 11), (61, 9), "reward = score − β · KL to the reference", fontsize=12.5)
    box(axes, (3, 11), (26, 9), "advantage =\nreward − value", ORANGE, fontsize=11)
    box(axes, (3, 33), (26, 13), color=ORANGE)
    write(axes, (16, 42), "value head", **bold)
    write(axes, (16, 36.7), "predicts the reward", fontsize=10.5)
    for start, end in (
        ((25.3, 63), (35.7, 63)),
        ((64.3, 63), (70.7, 63)),
        ((86, 56.7), (86, 46.3)),
        ((77, 56.7), (60, 46.3)),
        ((83.5, 32.7), (83.5, 20.3)),
        ((50, 32.7), (50, 20.3)),
        ((35.7, 15.5), (29.3, 15.5)),
        ((16, 32.7), (16, 20.3)),
    ):
        arrow(axes, start, end)
    axes.plot((3, 1.2, 1.2, 31), (15.5, 15.5, 52, 52), color=STRONG_ORANGE, linewidth=2)
    arrow(axes, (31, 52), (42, 56.7), STRONG_ORANGE, width=2)
    write(axes, (17, 54), "update the policy", fontsize=10.5, color=STRONG_ORANGE)
    write(
        axes,
        (50, 4.5),
        "raise the probability of tokens with a positive advantage, a little at a time",
        fontsize=11,
        color=GRAY,
    )
    return figure


def clip() -> Figure:
    """Draw PPO's clipped objective against the ratio, for a good and for a bad token."""
    figure, axes = card(3.4)
    for x, good in ((8, True), (56, False)):
        color = STRONG_GREEN if good else STRONG_ORANGE
        base, height = (12, 20) if good else (36, -20)
        arrow(axes, (x, base), (x + 38, base), INK)
        axes.plot((x + 18, x + 18), (10, 37), color=LINE, linestyle=":")
        corner = x + (24 if good else 12)
        at = base + height * (corner - x) / 34
        if good:
            axes.plot((x, corner, x + 36), (base, at, at), color=color, linewidth=2.5)
        else:
            axes.plot(
                (x, corner, x + 36), (at, at, base + height * 36 / 34), color=color, linewidth=2.5
            )
        axes.plot((corner, corner), (base, at), color=color, linestyle="--", linewidth=1.2)
        edge = "1 + ε" if good else "1 − ε"
        below = 9.5 if good else 38.7
        write(axes, (corner, below), edge, fontsize=11, color=color)
        write(axes, (x + 18, 6.5), "ratio 1", fontsize=10.5, color=GRAY)
        title = (
            "advantage > 0: no gain above 1 + ε" if good else "advantage < 0: no gain below 1 − ε"
        )
        write(axes, (x + 18, 44), title, fontsize=11, fontweight="bold")
    write(
        axes,
        (50, 2.8),
        "across: new probability of a token / old one;  up: PPO's objective",
        fontsize=10.5,
        color=GRAY,
    )
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "task": task,
    "encoder-decoder": encoder_decoder,
    "few-shot-prompt": few_shot_prompt,
    "rouge": rouge,
    "lora-beside-w": lora_beside_w,
    "trained-and-stored": trained_and_stored,
    "experiment": experiment,
    "ppo-loop": ppo_loop,
    "clip": clip,
}


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG of 64 colors, the same bytes on every run."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    with rc_context({"font.family": "DejaVu Sans"}):
        figure.savefig(drawn, format="png", metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(64).save(packed, format="png", optimize=True)
    return packed.getvalue()


def draw_all(folder: Path = FOLDER) -> None:
    """Draw all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / f"{name}.png").write_bytes(png(draw()))


def attach(notebook: nbformat.NotebookNode, folder: Path = FOLDER) -> None:
    """Attach the pictures that the notebook's markdown cells show, and drop all others.

    Raises FileNotFoundError if a picture was not drawn.
    """
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        cell.pop("attachments", None)
        names = dict.fromkeys(ATTACHMENT.findall(cell.source))
        files = {f"{name}.png": (folder / f"{name}.png").read_bytes() for name in names}
        if files:
            cell.attachments = {
                name: {"image/png": base64.b64encode(data).decode()} for name, data in files.items()
            }


if __name__ == "__main__":
    draw_all()
    for name in NOTEBOOKS:
        path = ROOT / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        attach(notebook)
        nbformat.write(notebook, path)
