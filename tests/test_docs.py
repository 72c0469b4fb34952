"""Every example of README.md and docs/ runs and prints what the page shows."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _examples() -> ModuleType:
    path = Path(__file__).with_name("docs_examples.py")
    spec = importlib.util.spec_from_file_location("docs_examples", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["docs_examples"] = module
    spec.loader.exec_module(module)
    return module


docs = _examples()
PAGES = [p for p in docs.pages() if p.exists() and any(True for _ in docs.examples(p))]
if not PAGES:
    pytest.skip("no pages here: the documentation is not part of a source distribution", allow_module_level=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_examples_of_a_page_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    for example in docs.examples(page):
        if docs.runnable(example):
            printed = docs.run(example, tmp_path)
            assert docs.agrees(example.shown, printed), f"{page.name}:{example.line}: {example.source}\n{printed}"


def test_dots_stand_for_any_lines() -> None:
    assert docs.agrees("a\n...\nd\n", "a\nb\nc\nd\n")
    assert not docs.agrees("a\n...\nd\n", "a\nb\nc\n")
    assert not docs.agrees("a\n", "a\nb\n")
