"""The page on the trainer shows its options as they are."""

from tools.publish import DOCS, options_table


def test_every_option_of_the_trainer_is_on_its_page_with_its_present_default():
    assert options_table() in (DOCS / "trainer.md").read_text(encoding="utf-8")
