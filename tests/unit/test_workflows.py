"""The workflows on GitHub have no more rights than they need, and run only pinned code."""

import re

import pytest

from utils.lab.notebooks import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_by_hash_and_rights_are_listed(file):
    text = file.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", text)
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)
    assert re.search(r"^permissions:( \{\}|\n  contents: read)$", text, re.MULTILINE)
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    assert "pull_request_target" not in text and "secrets." not in text


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_no_text_from_outside_reaches_a_shell(file):
    for line in file.read_text(encoding="utf-8").splitlines():
        assert not ("run:" in line and "${{" in line), line
