"""The installed package is one name, and no folder of the user's stands in for a part of it."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILT_IN = sorted(file.stem for file in (ROOT / "topologies").glob("[a-z]*.py"))
LOAD_ALL = """
from dgc_topo.topology import known_topologies, load_topology
for name in known_topologies():
    builder = load_topology(name).builder
    print(builder.__module__, builder.__code__.co_filename)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the names in a wheel of this checkout, and the folder where it is unpacked."""
    wheels = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel")
    place = tmp_path_factory.mktemp("wheel")
    (built,) = wheels.WheelBuilder(str(ROOT)).build(directory=str(place), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        archive.extractall(place / "installed")
        return archive.namelist(), place / "installed"


def load_all_from(folder, *paths):
    """Return what loads as the topologies where *folder*, and *paths*, come first."""
    before = "".join(f"sys.path.insert(0, {str(path)!r})\n" for path in paths)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{before}{LOAD_ALL}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split(" ", 1) for line in done.stdout.splitlines()]


@pytest.fixture
def own_topologies(tmp_path):
    """Return a folder in which somebody keeps a package of that name."""
    (tmp_path / "topologies").mkdir()
    (tmp_path / "topologies" / "__init__.py").write_text("raise SystemExit('not mine')\n")
    return tmp_path


def test_every_file_of_topologies_is_offered_under_the_one_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = project["entry-points"]["dgc_topo.topologies"].values()
    assert sorted(offered) == [f"dgc_topo.topologies.{stem}:schedule" for stem in BUILT_IN]


def test_a_wheel_brings_one_name_and_all_that_it_needs(wheel):
    names, _ = wheel
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dgc_topo"}
    inside = {name.removeprefix("dgc_topo/topologies/") for name in names if "topologies/" in name}
    assert inside == {"__init__.py", *(f"{stem}.py" for stem in BUILT_IN)}
    assert "dgc_topo/topologies.py" not in names  # the module would hide the folder
    assert "dgc_topo/report/report.html.j2" in names
    files = [file for kind in ("*.toml", "*.py") for file in (ROOT / "scenarios").glob(kind)]
    scenarios = {f"dgc_topo/scenarios/{file.name}" for file in files}
    assert scenarios == {name for name in names if name.startswith("dgc_topo/scenarios/")}


def test_the_wheel_finds_its_own_scenarios_by_name(wheel, tmp_path):
    _, installed = wheel
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from dgc_topo.experiments.shipped import scenario_path\n"
        "print(scenario_path('quickstart'))"
    )
    (tmp_path / "scenarios").mkdir()  # somebody's own
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(installed / "dgc_topo" / "scenarios" / "quickstart.toml")


def test_the_wheel_loads_its_own_topologies(wheel, own_topologies):
    _, installed = wheel
    loaded = load_all_from(own_topologies, installed)
    assert sorted(module for module, _ in loaded) == [f"dgc_topo.topologies.{s}" for s in BUILT_IN]
    assert all(file.startswith(str(installed)) for _, file in loaded)


def test_a_checkout_loads_its_own_topologies(own_topologies):
    loaded = load_all_from(own_topologies, ROOT)
    assert {Path(file).parent for _, file in loaded} == {ROOT / "topologies"}
