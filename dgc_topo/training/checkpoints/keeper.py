"""The `Keeper` of one training: it saves checkpoints when they are due, and goes on from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from dgc_topo.records.quality import ModelFiles
from dgc_topo.training.checkpoints.forms import check_training, same_form
from dgc_topo.training.checkpoints.keeping import Keeping, check_settings, settings_of
from dgc_topo.training.checkpoints.manifest import Manifest
from dgc_topo.training.checkpoints.models import model_files, save_model
from dgc_topo.training.checkpoints.resizing import resize
from dgc_topo.training.checkpoints.sets import Loaded, Sets
from dgc_topo.training.checkpoints.state import (
    Progress,
    progress_in,
    ranks_in,
    restore,
    state_of,
)
from dgc_topo.training.checkpoints.step_records import StepRecords
from dgc_topo.training.job import Job
from dgc_topo.training.rank import TrainingRank
from dgc_topo.training.steps import Strategy
from dgc_topo.training.world import World


class Keeper:
    """Keeper of the state of one training, for the ranks in this process.

    Args:
        job: The training.
        world: All ranks.
        ranks: Those in this process.
        strategy: Their strategy.
        keeping: Where the state is kept; None keeps nothing.
    """

    def __init__(
        self,
        job: Job,
        world: World,
        ranks: Sequence[TrainingRank],
        strategy: Strategy,
        keeping: Keeping | None,
    ) -> None:
        self._job, self._world, self._ranks, self._strategy = job, world, ranks, strategy
        self._keeping = keeping
        self._every: int | Literal["epoch", "never"] = job.train.checkpoint_every
        self._sets: Sets | None = None
        if keeping is not None and not job.train.emulates:
            folder = keeping.checkpoints_of(job)
            self._sets = Sets(folder, world.gather, world.ranks)
            self._records = StepRecords(folder)

    def resume(self, progress: Progress) -> tuple[Progress, tuple[str, ...]]:
        """Go on with the newest complete checkpoint, if that is wanted and there is one.

        Returns:
            The progress of the checkpoint, else the one that is given; and why newer checkpoints,
            or records of steps, are of no use.

        Raises:
            CheckpointError: if settings differ, or every checkpoint is broken.
        """
        if self._keeping is None or self._sets is None or not self._keeping.resume:
            return progress, ()
        loaded = self._sets.read(self._check, self._wanted, check_training)
        if loaded is None:
            return progress, ()
        with same_form(self._sets.folder):
            found, refused = self._restore(loaded, progress.steps_per_epoch)
        found.resumed_at.append(found.step)
        return found, refused

    def _restore(self, loaded: Loaded, steps_per_epoch: int) -> tuple[Progress, tuple[str, ...]]:
        """Put back what was saved; see `resume`."""
        refused = loaded.refused
        self._strategy.prepare_to_resume(self._ranks[0])
        if loaded.manifest.world_size == self._world.world_size:
            restore(loaded.contents, self._ranks, self._strategy)
            found = progress_in(loaded.contents[0])
            refused += self._restore_records(loaded.contents, found)
        else:
            found = resize(self._job, loaded.contents, self._ranks, self._strategy, steps_per_epoch)
        return found, refused

    def step_done(self, progress: Progress) -> None:
        """Save after a step in the middle of an epoch, if it is due."""
        if isinstance(self._every, int) and progress.step % self._every == 0:
            self._save(progress)

    def epoch_done(self, progress: Progress) -> None:
        """Save after an epoch and its evaluation, if it is due; the last epoch always is."""
        is_last = progress.step == progress.steps_per_epoch * self._job.train.epochs
        if self._every == "epoch" or is_last:
            self._save(progress)
        else:
            self.step_done(progress)

    def evaluated(self, progress: Progress, model: nn.Module, *, rises: bool) -> None:
        """Keep the model of the last evaluation, and of the best one.

        Args:
            progress: With all evaluations so far.
            model: The model that was evaluated.
            rises: True if a higher value is better.

        Raises:
            WriteError: if the disk refuses.
        """
        if self._keeping is not None and 0 in self._world.ranks:
            save_model(self._keeping, self._job, model, progress.points, rises=rises)

    def model_files(self, progress: Progress) -> ModelFiles | None:
        """Return the names of the models' files; None if there are none."""
        if self._keeping is None:
            return None
        return model_files(self._keeping, self._job, progress.points)

    def _restore_records(
        self, contents: Sequence[Mapping[str, Any]], progress: Progress
    ) -> tuple[str, ...]:
        """Put back the records that all ranks have, and return why some have lost the first."""
        saved = ranks_in(contents)
        own = [self._records.restore(saved[rank.rank]["records"], rank) for rank in self._ranks]
        what = "reading the records of steps"
        reasons = {why for why in self._world.gather(str, own, what) if why}
        if reasons:
            lengths = self._world.gather(int, [len(rank.records) for rank in self._ranks], what)
            self._records.shorten(self._ranks, min(lengths))
            progress.first_recorded = progress.step - min(lengths)
        return tuple(sorted(reasons))

    def _wanted(self, manifest: Manifest) -> Sequence[int]:
        """Return the ranks whose state this process needs: all, if there were others."""
        if manifest.world_size == self._world.world_size:
            return self._world.ranks
        return range(manifest.world_size)

    def _check(self, manifest: Manifest) -> None:
        assert self._sets is not None
        check_settings(self._job, manifest, self._sets.folder)

    def _save(self, progress: Progress) -> None:
        if self._sets is None or self._every == "never":
            return
        self._world.note("saving a checkpoint")
        self._sets.write(
            state_of(self._ranks, self._strategy, progress, self._records),
            step=progress.step,
            world_size=self._world.world_size,
            settings=settings_of(self._job),
        )
