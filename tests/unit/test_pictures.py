"""The labs' pictures are cards of a fixed width, and a notebook holds those that it shows."""

import base64
import io

import nbformat
import pytest
from PIL import Image

from tools import pictures


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_picture_is_a_white_card_of_readable_width(name):
    data = pictures.png(pictures.PICTURES[name]())
    image = Image.open(io.BytesIO(data)).convert("RGB")
    assert 640 <= image.width <= 900 and len(data) < 60_000
    assert image.getpixel((10, 10)) == (255, 255, 255)
    assert image.getpixel((0, image.height // 2)) != (255, 255, 255)  # the border


def test_same_picture_has_the_same_bytes():
    assert pictures.png(pictures.rouge()) == pictures.png(pictures.rouge())


def test_notebook_gets_the_pictures_that_it_shows_and_loses_all_others(tmp_path):
    (tmp_path / "rouge.png").write_bytes(b"picture")
    shown = nbformat.v4.new_markdown_cell("![matched words](attachment:rouge.png)")
    other = nbformat.v4.new_markdown_cell("no picture", attachments={"old.png": {}})
    pictures.attach(nbformat.v4.new_notebook(cells=[shown, other]), tmp_path)
    attached = shown.attachments["rouge.png"]["image/png"]
    assert base64.b64decode(attached) == b"picture"
    assert "attachments" not in other


def test_missing_picture_is_an_error(tmp_path):
    cell = nbformat.v4.new_markdown_cell("![matched words](attachment:rouge.png)")
    with pytest.raises(FileNotFoundError):
        pictures.attach(nbformat.v4.new_notebook(cells=[cell]), tmp_path)
