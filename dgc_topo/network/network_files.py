"""Reading of network files: this package's own, calibrated ones, and SimGrid's platforms."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.fabrics import Fabric, find_fabric, like_fabric, load_fabric
from dgc_topo.network.kinds import Calibrated, NetworkFile
from dgc_topo.network.network import Network
from dgc_topo.network.simgrid import read_simgrid
from dgc_topo.network.tables import NetworkTable
from dgc_topo.tables.explain import explain_all
from dgc_topo.tables.keys import at_key


def load_calibrated(source: str | Path) -> CalibratedNetwork:
    """Return a calibrated network from its own file, or from a table that names that file.

    Raises:
        ValueError: naming the file and the key, if it is another kind of network.
    """
    found = _calibrated(str(source))
    if found is None:
        raise ValueError(f"{source}: expected a network file as 'dgc-topo calibrate' writes it")
    return found


def calibration_in(source: str) -> CalibratedNetwork | None:
    """Return the calibrated network that *source* names, a text for `load_cluster`, or None.

    Raises:
        ValueError: if it names a file that cannot be read.
    """
    return _calibrated(source) if names_file(source) else None


def _calibrated(source: str) -> CalibratedNetwork | None:
    found = read_file(source, "")
    if isinstance(found, Calibrated):
        with at_key(source):
            return found.load()
    return found if isinstance(found, CalibratedNetwork) else None


def names_file(source: str) -> bool:
    """Return True if *source*, a text for `load_cluster`, names a file."""
    return find_fabric(source) is None and _split(source) is not None


def file_of(source: str) -> str:
    """Return the path in *source*, a text for which `names_file` is True."""
    parts = _split(source)
    assert parts is not None
    return parts[0]


def names_others(path: Path) -> bool:
    """Return True if a network file says that a network is in another file."""
    if path.suffix.lower() != ".toml":
        return False
    tables = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    return any("file" in table for table in (tables, *tables.get("networks", ())))


def read_file(
    source: str, folder: str | Path
) -> Network | Fabric | CalibratedNetwork | NetworkTable:
    """Return the network that a file describes.

    Raises:
        ValueError: naming the file and what is wrong.
    """
    parts = _split(source)
    if parts is None:
        files = "FILE.toml", "FILE.toml:NAME", "FILE.xml"
        raise ValueError(
            f"network {source!r}: unknown, expected one of {like_fabric(source, *files)}"
        )
    path, name = Path(folder) / parts[0], parts[1]
    is_xml = path.suffix.lower() == ".xml"
    if is_xml and name:
        raise ValueError(f"{path}: a SimGrid platform is one network, expected no name ({name!r})")
    try:
        if is_xml:
            return read_simgrid(path)
        tables = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not TOML ({error}), expected a network file") from error
    if name and find_fabric(name) is not None:  # which a scenario may name beside its own
        return load_fabric(name)
    if "parameters" in tables and not name:
        return CalibratedNetwork.load(path)
    return _find_table(tables, path, name)


def _find_table(tables: dict[str, Any], path: Path, name: str) -> NetworkTable:
    """Return the network called *name* in a file, or its only one."""
    is_one, is_scenario = "kind" in tables and "networks" not in tables, "topologies" in tables
    if is_one:
        own = re.sub(r"[^\w.-]", "-", path.name).lstrip(".-")
        tables = {"networks": [{"name": own} | tables]}
    elif "networks" not in tables:
        raise ValueError(
            f"{path}: no network, expected kind = ... for one, [[networks]] for several, or what "
            "'dgc-topo calibrate' writes"
        )
    elif is_scenario:  # which has other keys as well
        tables = {key: tables[key] for key in ("networks", "folder") if key in tables}
    start = path.parent / str(tables.pop("folder", "") if is_scenario else "")
    try:
        context = {"folder": start, "file": str(path)}
        networks = NetworkFile.model_validate(tables, context=context).networks
    except ValidationError as error:
        lines = explain_all(error, NetworkFile)
        if is_one:
            lines = (re.sub(r"^networks\.0(\.|: )?", "", line) for line in lines)
        raise ValueError("\n".join(f"{path}: {line}" for line in lines)) from error
    fitting = [network for network in networks if name in {"", network.name}]
    if len(fitting) != 1:
        listed = ", ".join(network.name for network in networks)
        wrong = f"network {name!r}: unknown" if name else "has several networks"
        raise ValueError(f"{path}: {wrong}, expected one of [[networks]] ({listed}) after FILE:")
    return fitting[0]


def _split(source: str) -> tuple[str, str] | None:
    """Return the file and the name of the network in it, or None if *source* names no file."""
    found = re.fullmatch(r"(.+\.(?:toml|xml))(?::([^:/\\]+))?", source, re.IGNORECASE | re.DOTALL)
    return None if found is None else (found[1], found[2] or "")
