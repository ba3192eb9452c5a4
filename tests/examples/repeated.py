"""Trainings that do more than once what libraries allow; ``repeated.py LIBRARY FOLDER``.

Each prints a line for what holds.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.examples.resumed import SETTINGS, Classifier, Texts, data, network

STEPS = 4


def tell(what: str, holds: bool) -> None:
    print(f"{what}: {holds}\n", end="", flush=True)  # one write: ranks share the output


def is_same_on_all(module: nn.Module) -> bool:
    flat = torch.cat([each.detach().float().flatten() for each in module.parameters()])
    first = flat.clone()
    dist.broadcast(first, 0)
    return bool(first.equal(flat)) and bool(flat.isfinite().all())


def residuals(optimizer: Any) -> list[Tensor]:
    compressor = optimizer.state_dict()["dgc_topo"]["compressor"]
    return [each.clone() for each in compressor["residual"].values()]


def with_accelerate(folder: Path) -> None:
    """Two models, accumulation, clipping, bf16, evaluation, and another training afterwards."""
    from accelerate import Accelerator

    from dgc_topo.integrations.accelerate import compress

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16")
    for round_ in range(2):
        networks = [network(), network()]
        optimizers: list[Any] = [
            torch.optim.SGD(networks[0].parameters(), 0.1, momentum=0.9),
            torch.optim.AdamW(networks[1].parameters(), 0.01),
        ]
        schedules = [torch.optim.lr_scheduler.StepLR(each, 2) for each in optimizers]
        prepared = accelerator.prepare(
            *networks, *optimizers, *schedules, DataLoader(data(2 * STEPS), batch_size=8)
        )
        models, optimizers, schedules = prepared[:2], list(prepared[2:4]), prepared[4:6]
        for model, optimizer in zip(models, optimizers, strict=True):
            compress(accelerator, model, optimizer, **SETTINGS)
        for inputs, labels in prepared[6]:
            with accelerator.accumulate(*models):
                for model, optimizer, schedule in zip(models, optimizers, schedules, strict=True):
                    accelerator.backward(nn.functional.cross_entropy(model(inputs), labels))
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                    model.eval()
                    with torch.no_grad():
                        model(inputs)
                    model.train()
        steps = [each.optimizer.steps for each in optimizers]
        tell(f"steps {round_}", steps == [STEPS] * 2)
        tell(f"same on all {round_}", all(map(is_same_on_all, networks)))
        accelerator.save_state(str(folder / f"{round_}"))
        before = [residuals(each) for each in optimizers]
        for each in optimizers:
            each.optimizer.load_state_dict(fresh(each.optimizer))
        accelerator.load_state(str(folder / f"{round_}"))
        after = [residuals(each) for each in optimizers]
        tell(f"restored {round_}", same(before, after))
        accelerator.free_memory()


def fresh(optimizer: Any) -> dict[str, Any]:
    """Return its snapshot without what has not been sent."""
    state: dict[str, Any] = optimizer.state_dict()
    for each in state["dgc_topo"]["compressor"]["residual"].values():
        each.zero_()
    optimizer.own = state
    return state


def same(one: list[list[Tensor]], other: list[list[Tensor]]) -> bool:
    """Return True if several optimizers' residuals are equal, and none has only zeros."""
    return all(
        any(bool(each.any()) for each in before)
        and all(a.equal(b) for a, b in zip(before, after, strict=True))
        for before, after in zip(one, other, strict=True)
    )


def with_lightning(folder: Path) -> None:
    """Accumulation, clipping, bf16, validation; then another fit, and one from a link."""
    import lightning

    from dgc_topo.integrations.lightning import DGCStrategy

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

        def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
            self.layers(batch[0])

        def configure_optimizers(self) -> Any:
            made = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
            return [made], [torch.optim.lr_scheduler.StepLR(made, 1)]

    def trainer_of(epochs: int) -> Any:
        return lightning.Trainer(
            strategy=DGCStrategy(**SETTINGS),
            accelerator="cpu",
            devices=2,
            max_epochs=epochs,
            accumulate_grad_batches=2,
            gradient_clip_val=1.0,
            precision="bf16-mixed",
            val_check_interval=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    loader = DataLoader(data(2 * STEPS), batch_size=8)
    module, trainer = Module(), trainer_of(1)
    trainer.fit(module, loader, loader)
    tell("steps", trainer.strategy._attachment.optimizer.steps == STEPS)
    tell("same on all", is_same_on_all(module))
    half = folder / "half.ckpt"
    trainer.save_checkpoint(str(half))
    waiting = residuals(trainer.strategy._attachment.optimizer)
    if trainer.is_global_zero:
        (folder / "last.ckpt").symlink_to(half)
    trainer.strategy.barrier()
    trainer.validate(module, loader, ckpt_path=str(half), verbose=False)
    trainer = trainer_of(2)
    seen: list[list[Tensor]] = []
    module = Module()
    module.on_train_start = lambda: seen.append(  # type: ignore[method-assign]
        residuals(trainer.strategy._attachment.optimizer)
    )
    trainer.fit(module, loader, loader, ckpt_path=str(folder / "last.ckpt"))
    tell("went on from a link", same([waiting], seen))
    tell("steps after a link", trainer.strategy._attachment.optimizer.steps == 2 * STEPS)
    trainer.fit_loop.epoch_progress.reset()
    trainer.fit_loop.max_epochs = 1
    trainer.fit(module, loader, loader)
    tell("a new fit begins anew", not any(bool(each.any()) for each in seen[-1]))
    tell("same at the end", is_same_on_all(module))


def with_transformers(folder: Path) -> None:
    """Accumulation, bf16, evaluation, and training that is called again, also from a checkpoint."""
    from transformers import Trainer, TrainingArguments

    from dgc_topo.integrations.transformers import DGCCallback

    options = TrainingArguments(
        str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        bf16=True,
        use_cpu=True,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        ddp_find_unused_parameters=False,
    )
    model = Classifier()
    trainer = Trainer(model, options, train_dataset=Texts(), eval_dataset=Texts())
    callback = DGCCallback(trainer, **SETTINGS)
    trainer.add_callback(callback)
    for number, start in enumerate((None, None, True)):
        options.max_steps = STEPS if start is None else STEPS + 2
        trainer.train(resume_from_checkpoint=start)
        tell(f"same on all {number}", is_same_on_all(model))
    attached = callback._attachment
    tell("steps", attached is not None and attached.optimizer.steps == 2 * STEPS + 2)
    files = sorted(path.name for path in (folder / f"checkpoint-{STEPS + 2}").glob("dgc-topo-*"))
    tell("files", files == ["dgc-topo-0.pt", "dgc-topo-1.pt"])


if __name__ == "__main__":
    globals()[f"with_{sys.argv[1]}"](Path(sys.argv[2]))
