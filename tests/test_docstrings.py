"""Docstrings say what a thing is, or what to do with it; names are not used twice."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "dgc_topo").rglob("*.py"), *(ROOT / "topologies").glob("*.py")])
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
RIDDLES = re.compile(r"(What|Whether|Who|Whose|How|When|Where|Which|Why|As)\b")


def public(tree: ast.Module) -> Iterator[tuple[str, Documented]]:
    yield "the module", tree
    todo: list[tuple[str, Documented]] = [("", tree)]
    while todo:
        prefix, node = todo.pop()
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if child.name.startswith("_") and not child.name.startswith("__"):
                continue
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                todo.append((f"{prefix}{child.name}.", child))


def test_public_docstrings_name_a_thing_or_an_action():
    riddles = []
    for path in FILES:
        for name, node in public(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node)
            if text and RIDDLES.match(text):
                riddles.append(f"{path.relative_to(ROOT)}: {name}: {text.splitlines()[0]}")
    assert not riddles, "\n".join(riddles)


def test_fields_of_dataclasses_are_described_where_help_shows_them():
    silent = []
    for path in FILES:
        for name, node in public(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef) or not any(
                "dataclass" in ast.unparse(each) for each in node.decorator_list
            ):
                continue
            text = ast.get_docstring(node) or ""
            for each in node.body:
                if isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(
                    each.annotation
                ):
                    field = ast.unparse(each.target)
                    if not field.startswith("_") and not re.search(rf"\b{field}\b", text):
                        silent.append(f"{path.relative_to(ROOT)}: {name}.{field}")
    assert not silent, "\n".join(silent)


def test_no_file_name_is_used_three_times():
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 2] == []


def test_no_two_public_classes_have_one_name():
    classes = Counter(
        node.name
        for path in FILES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_files_can_be_seen_at_once():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > 360} == {}
