"""Writing and reading of sets by all processes of a training together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from dgc_topo.files import WriteError
from dgc_topo.tables.keys import at_key
from dgc_topo.training.checkpoints.errors import CheckpointError, UnsavedError
from dgc_topo.training.checkpoints.file import read_file, write_file
from dgc_topo.training.checkpoints.manifest import (
    KEPT,
    MANIFEST,
    FileNote,
    Manifest,
    complete_numbers,
    folder_of,
    read_manifest,
    remove_others,
    set_numbers,
    write_manifest,
)
from dgc_topo.training.checkpoints.together import Gather, on_all


class _Outcome(BaseModel):
    """Report of a process after its part: the note about its file, or the reason of a failure."""

    rank: int
    file: FileNote | None = None
    error: str = ""


class _Offer(BaseModel):
    """The complete sets that a process sees, newest first, and the number of its last one.

    Attributes:
        sound: Those of them that this process has not found broken.
    """

    last: int
    complete: tuple[int, ...] = ()
    sound: tuple[int, ...] = ()


#: Manifests of the sets that this process could not read: path, inode and time of change, because a
#: folder may be emptied, and its numbers begin anew.
_BROKEN: set[tuple[Path, int, int]] = set()
#: Number and mark of the newest set in a folder when this process, as the first, last used it.
_SEEN: dict[Path, tuple[int, set[tuple[Path, int, int]]]] = {}


class Loaded(NamedTuple):
    """A set that was read.

    Attributes:
        manifest: Its manifest.
        contents: Contents of the files that this process asked for, in the order of ranks.
        refused: Newer sets that could not be read, and why.
    """

    manifest: Manifest
    contents: list[Any]
    refused: tuple[str, ...]


class Sets:
    """The sets in one folder.

    All methods are collective: every process calls them in the same order.

    Args:
        folder: Folder of the sets; made when it is first written to.
        gather: Collective that gathers the values of all processes.
        ranks: Ranks of this process; the process of rank 0 decides what counts.
    """

    def __init__(self, folder: Path, gather: Gather, ranks: Sequence[int]) -> None:
        self.folder = folder
        self._gather, self._ranks = gather, tuple(ranks)
        self._rank, self._is_first = ranks[0], 0 in ranks
        self._last: int | None = None

    def check_own(self) -> None:
        """Refuse to write where another run has written since this process did.

        The two would remove each other's sets, and whoever goes on later would mix them up.

        Raises:
            UnsavedError: on every process, naming the other run's set.
        """
        with on_all(self._gather, self._rank, "saving", UnsavedError):
            own, there = _SEEN.get(self.folder.absolute()), complete_numbers(self.folder)
            if own and there and there[0] >= own[0] and _mark_of(self.folder, there[0]) != own[1]:
                raise UnsavedError(
                    f"{folder_of(self.folder, there[0])}: another run has saved this since set "
                    f"{own[0]} of the run here, expected a folder of its own for each"
                )

    def write(
        self, content: Any, *, step: int, world_size: int, settings: Mapping[str, Any]
    ) -> None:
        """Write a set of which *content* (see `plain`) is this process's part.

        Only the newest two sets stay, of those that were not found broken.

        Raises:
            UnsavedError: on every process, naming rank, path and the bytes needed, if one cannot
                write; the sets before are as they were.
        """
        number = self._next_number()
        place = folder_of(self.folder, number)
        outcomes = self._gather(_Outcome, [self._write_own(place, content)], "saving")
        self._refuse(outcomes, step, [number])
        files = tuple(each.file for each in outcomes if each.file is not None)
        manifest = Manifest(step=step, world_size=world_size, files=files, settings=dict(settings))
        self._refuse(self._complete(number, manifest), step, [number])
        self._note_seen(number)
        kept = self._offers()[0].sound[:KEPT]
        remove_others(self.folder, kept, [_name_of(self._rank)], is_first=self._is_first)

    def read(
        self,
        check: Callable[[Manifest], None],
        wanted: Callable[[Manifest], Iterable[int]],
        check_content: Callable[[Any], None],
    ) -> Loaded | None:
        """Return the newest set that every process can read; None if there is no complete set.

        Args:
            check: Raises if a set is not for this training; then all processes do.
            wanted: Function that returns the ranks whose state this process needs.
            check_content: Raises a CheckpointError if a file's content lacks a part.

        Raises:
            CheckpointError: if there are sets, but none of them can be read.
        """
        refused: list[str] = []
        complete = self._offers()[0].complete
        for number in complete:
            manifest, why = self._manifest(number)
            if manifest is not None:
                with on_all(self._gather, self._rank, "comparing a checkpoint"):
                    check(manifest)
                contents, why = self._contents(number, manifest, wanted(manifest), check_content)
                if not why:
                    self._note_seen(complete[0])
                    return Loaded(manifest, contents, tuple(refused))
            refused.append(why)
            _BROKEN.update(_mark_of(self.folder, number))
        if refused:
            raise CheckpointError("; ".join(refused))
        return None

    def _note_seen(self, number: int) -> None:
        if self._is_first:
            _SEEN[self.folder.absolute()] = number, _mark_of(self.folder, number)

    def _offers(self) -> list[_Offer]:
        with on_all(self._gather, self._rank, "looking for checkpoints"):
            numbers = set_numbers(self.folder)
            complete = complete_numbers(self.folder) if self._is_first else []
        own = _Offer(
            last=numbers[-1] if numbers else 0,
            complete=tuple(complete),
            sound=tuple(n for n in complete if not _mark_of(self.folder, n) & _BROKEN),
        )
        offers = self._gather(_Offer, [own], "looking for checkpoints")
        self._last = max(offer.last for offer in offers)
        return offers

    def _next_number(self) -> int:
        if self._last is None:
            self._offers()
        assert self._last is not None
        self._last += 1
        return self._last

    def _write_own(self, place: Path, content: Any) -> _Outcome:
        path = place / _name_of(self._rank)
        try:
            place.mkdir(parents=True, exist_ok=True)
            written = write_file(path, content)
        except WriteError as error:
            return _Outcome(rank=self._rank, error=str(error))
        except OSError as error:
            return _Outcome(rank=self._rank, error=f"{place}: cannot be made: {error.strerror}")
        note = FileNote(
            name=path.name,
            ranks=self._ranks,
            num_bytes=written.num_bytes,
            checksum=written.checksum,
        )
        return _Outcome(rank=self._rank, file=note)

    def _complete(self, number: int, manifest: Manifest) -> list[_Outcome]:
        own = _Outcome(rank=self._rank)
        if self._is_first:
            try:
                write_manifest(self.folder, number, manifest)
            except OSError as error:
                own = _Outcome(rank=self._rank, error=str(error))
        return self._gather(_Outcome, [own], "saving")

    def _refuse(self, outcomes: Sequence[_Outcome], step: int, numbers: Sequence[int]) -> None:
        """Raise if a process could not write; the files of the set are removed then."""
        errors = [f"rank {each.rank}: {each.error}" for each in outcomes if each.error]
        if not errors:
            return
        kept = set(set_numbers(self.folder)) - set(numbers)
        remove_others(self.folder, kept, [_name_of(self._rank)], is_first=self._is_first)
        raise UnsavedError(
            f"the checkpoint after step {step} is not saved, those before it are as they were; "
            + "; ".join(errors)
        )

    def _manifest(self, number: int) -> tuple[Manifest | None, str]:
        """Return the manifest that the first process reads, or why it cannot."""
        own: list[str] = []
        why = ""
        if self._is_first:
            try:
                own = [read_manifest(self.folder, number).model_dump_json()]
            except CheckpointError as error:
                why = str(error)
        texts = self._gather(str, own or ([why] if why else []), "reading a manifest")
        if texts[0].startswith("{"):
            return Manifest.model_validate_json(texts[0]), ""
        return None, texts[0]

    def _contents(
        self,
        number: int,
        manifest: Manifest,
        wanted: Iterable[int],
        check_content: Callable[[Any], None],
    ) -> tuple[list[Any], str]:
        """Return the contents of the files of *wanted* ranks, or why one process cannot read."""
        files = list(dict.fromkeys(manifest.file_of(rank) for rank in wanted))
        place, contents, own = folder_of(self.folder, number), [], ""
        try:
            for file in files:
                content = read_file(place / file.name, file.checksum)
                with at_key(str(place / file.name)):
                    check_content(content)
                contents.append(content)
        except ValueError as error:
            own = f"rank {self._rank}: {error}"
        errors = [text for text in self._gather(str, [own], "reading checkpoints") if text]
        return contents, "; ".join(errors)


def _mark_of(folder: Path, number: int) -> set[tuple[Path, int, int]]:
    """Return what tells the manifest of a set from others; nothing if it is gone."""
    path = (folder_of(folder, number) / MANIFEST).absolute()
    try:
        found = path.stat()
    except OSError:
        return set()
    return {(path, found.st_ino, found.st_mtime_ns)}


def _name_of(rank: int) -> str:
    return f"process-{rank}.pt"
