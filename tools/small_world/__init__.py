"""The small world's generator, training and card.

`build` and `card` make the files in `utils/offline` from `generator`, `scenarios` and `mixture`. A
harder world is in the making: `world`, `tables`, `speech`, `corpus`, `vocabulary`, `tasks`,
`training`, `reader`, `reading`, `measure`, `decoder`, `insults`, `judge_texts`, `judges` and
`heated`. None of the files in `utils/offline` comes from these modules yet.
"""
