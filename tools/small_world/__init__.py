"""The small world: what it says, how its models are trained and measured, and its card.

`build` makes the files in `utils/offline`, and `card` measures them. Below these:

- the world: `tables` (its words), `world` (facts and summaries), `speech` (dialogues), `corpus`
- the T5 and the decoder-only model: `vocabulary`, `tasks`, `training`, `reader`, `decoder`,
  `measure`
- heated dialogues and their judges: `insults`, `heated`, `judge_texts`, `judges`
- Lab 3's table of KL prices: `sweep`
"""
