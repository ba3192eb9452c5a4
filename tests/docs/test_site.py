"""The site is built without a warning, and its generated pages say what is true."""

import inspect
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dgc_topo as dt
from dgc_topo.network import Fabric
from tests.docs.pages import ROOT
from tools.docs.gathering import gather, places
from tools.docs.links import Links
from tools.docs.markdown import for_python_markdown
from tools.docs.reference import MADE_BY, groups

pytestmark = pytest.mark.filterwarnings("default")  # of the notebook machinery, not ours

TOPOLOGY = re.compile(r"<!-- topology: ([\w-]+) \| (.+) -->")


@pytest.fixture(scope="module")
def files():
    for needed in ("nbconvert", "zensical"):
        pytest.importorskip(needed, reason="the extra 'docs' has it")
    return gather()


def test_the_builder_finds_no_broken_link_or_anchor(files, tmp_path):
    for name, content in files.items():
        file = tmp_path / "build" / "pages" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for name in ("dgc_topo", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    site = tmp_path / "build" / "site"
    training = (site / "reference" / "training.html").read_text(encoding="utf-8")
    assert 'id="dgc_topo.workers.launching.launch"' in training
    assert "<blockquote>" not in training  # ">>>" of an example
    assert "<table>" in (site / "scenarios.html").read_text(encoding="utf-8")
    assert not re.search(r"^\|.*\|$", training, re.MULTILINE)


def test_every_page_can_be_reached(files):
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    known = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", text, re.MULTILINE)
    assert len(known) == len(set(known))
    assert set(known) <= files.keys()
    pages = {name for name in files if name.endswith(".md")}
    assert {n for n in pages - set(known) if not n.startswith(("results/", "source/"))} == set()


def test_every_topology_and_rule_has_a_page(files):
    assert {f"topologies/{name}.md" for name in dt.known_topologies()} <= files.keys()
    assert {f"averaging/{name}.md" for name in dt.known_averagings()} <= files.keys()
    for name in dt.known_topologies():
        assert f"topologies/{name}.svg" in files
        assert f"[`{name}`]({name}.md)" in files["topologies/index.md"].decode()
    assert "| `every` | `50` | ≥ 1, ≤ 1,000,000 | H: steps" in files["averaging/diloco.md"].decode()
    assert "<!-- " not in files["topologies/ring.md"].decode()


FORMULAS = {
    found[1]: found[2]
    for path in (ROOT / "docs" / "topologies").glob("*.md")
    if (found := TOPOLOGY.search(path.read_text()))
}


@pytest.mark.parametrize("name", dt.known_topologies())
@pytest.mark.parametrize("n", [4, 8, 16])
def test_the_time_that_a_page_says_is_the_simulated_one(name, n):
    fabric = Fabric("equal", 125e6, 50e-6, "a star")
    names = {"n": n, "S": 10e6, "B": 125e6, "a": 50e-6, "log2": math.log2, "ceil": math.ceil}
    said = eval(FORMULAS[name], names)
    assert dt.simulate(name, fabric, 10e6, world_size=n).time_s == pytest.approx(said, rel=1e-6)


def test_the_reference_has_every_public_name_once():
    names = [name for _, group in groups() for name in group]
    assert sorted(names) == sorted(dt.__all__)


def test_every_public_class_has_an_example_or_is_made_in_one():
    classes = {name for name in dt.__all__ if inspect.isclass(getattr(dt, name))}
    code = re.compile(r">>> |::\n\n {4}")
    shown = {name for name in classes if code.search(inspect.getdoc(getattr(dt, name)) or "")}
    assert classes - shown <= MADE_BY.keys() <= classes
    assert all(">>> " in str(inspect.getdoc(getattr(dt, maker))) for maker in MADE_BY.values())


def test_links_follow_pages_and_sources_become_pages():
    links = Links(ROOT, places())
    text = "[a](../hook.md#how-fast) [b](../../LICENSE) `[c](x.md)`\n```\n[d](nowhere.md)\n```\n"
    moved = links.moved(text.replace("`[c](x.md)`", ""), "docs/guides/x.md", "guides/x.md")
    assert "(../hook.md#how-fast)" in moved
    assert "(../source/LICENSE.md)" in moved
    assert "(nowhere.md)" in moved
    assert "Apache" in links.sources()["source/LICENSE.md"]
    with pytest.raises(ValueError, match=r"docs/x.md: a link leads to docs/nowhere.md, expected"):
        links.moved("[d](nowhere.md)", "docs/x.md", "x.md")


def test_lists_and_tables_get_the_empty_line_that_they_need():
    text = "one\n- two\n  three\n  - four\nfive\n| a |\n| - |\n```\nsix\n- seven\n```\n"
    expected = "one\n\n- two\n  three\n    - four\nfive\n\n| a |\n| - |\n\n```\nsix\n- seven\n```\n"
    assert for_python_markdown(text) == expected


def test_pages_are_made_of_what_the_library_says(files):
    assert (
        inspect.getdoc(type(dt.load_averaging("diloco"))) in files["averaging/diloco.md"].decode()
    )
    assert "Each rank sends 2(n-1)/n of the buffer" in files["topologies/ring.md"].decode()
    cli = files["reference/cli.md"].decode()
    assert "`dgc-topo lab doctor`" in cli
    assert Path("notebooks/quickstart_files") in {Path(name).parent for name in files}
