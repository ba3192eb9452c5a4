"""Training that goes on from a library's own checkpoint, beside training that never stopped.

``resumed.py LIBRARY FOLDER OPTIMIZER`` prints the largest difference of parameters.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

STEPS = 6  #: of which the first half comes before the checkpoint
SETTINGS: dict[str, Any] = {"topology": "butterfly", "density": 0.1}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))


def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
    if sys.argv[3] == "sgd":
        return torch.optim.SGD(module.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    return torch.optim.AdamW(module.parameters(), 0.01)


def data(steps: int = STEPS) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(steps * 2 * 8, 16, generator=generator)
    return TensorDataset(inputs, inputs[:, :4].argmax(1))


def with_accelerate(folder: Path) -> list[list[Tensor]]:
    from accelerate import Accelerator

    from dgc_topo.integrations.accelerate import compress

    accelerator = Accelerator(cpu=True)
    found = []
    for goes_on in (False, True):
        plain = network()
        optimizer = optimizer_of(plain)
        loader = DataLoader(data(), batch_size=8)
        model, optimizer, loader = accelerator.prepare(plain, optimizer, loader)
        compress(accelerator, model, optimizer, **SETTINGS)
        if goes_on:
            accelerator.load_state(str(folder))
        for number, (inputs, labels) in enumerate(loader):
            if number == STEPS // 2 and not goes_on:
                accelerator.save_state(str(folder))
            if goes_on and number < STEPS // 2:
                continue
            accelerator.backward(nn.functional.cross_entropy(model(inputs), labels))
            optimizer.step()
            optimizer.zero_grad()
        found.append([each.detach().clone() for each in plain.parameters()])
        accelerator.free_memory()
        accelerator._save_model_state_pre_hook.clear()
        accelerator._load_model_state_pre_hook.clear()
    return found


def with_lightning(folder: Path) -> list[list[Tensor]]:
    import lightning

    from dgc_topo.integrations.lightning import DGCStrategy

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(self)

    found = []
    half = str(folder / "half.ckpt")
    loader = DataLoader(data(STEPS // 2), batch_size=8)  # it resumes only at the end of an epoch
    for epochs, start in ((2, None), (1, None), (2, half)):
        trainer = lightning.Trainer(
            strategy=DGCStrategy(**SETTINGS),
            accelerator="cpu",
            devices=2,
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Module()
        trainer.fit(module, loader, ckpt_path=start)
        if epochs == 1:
            trainer.save_checkpoint(half)
        else:
            found.append([each.detach().clone() for each in module.parameters()])
    return found


class Texts(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return STEPS * 2 * 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        inputs, label = data()[index]
        return {"inputs": inputs, "labels": label}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.layers(inputs), labels)}


def with_transformers(folder: Path) -> list[list[Tensor]]:
    from transformers import Trainer, TrainingArguments

    from dgc_topo.integrations.transformers import DGCCallback

    found = []
    for start in (None, str(folder / f"checkpoint-{STEPS // 2}")):
        options = TrainingArguments(
            str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=8,
            optim={"sgd": "sgd", "adamw": "adamw_torch"}[sys.argv[3]],
            optim_args="momentum=0.9" if sys.argv[3] == "sgd" else None,
            learning_rate=0.1,
            weight_decay=0.01,
            use_cpu=True,
            save_steps=STEPS // 2,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            ddp_find_unused_parameters=False,
        )
        model = Classifier()
        trainer = Trainer(model, options, train_dataset=Texts())
        trainer.add_callback(DGCCallback(trainer, **SETTINGS))
        trainer.train(resume_from_checkpoint=start)
        found.append([each.detach().clone() for each in model.parameters()])
    return found


def main() -> None:
    library, folder = sys.argv[1], Path(sys.argv[2])
    uninterrupted, resumed = globals()[f"with_{library}"](folder)
    moved = distance(uninterrupted, [each.detach() for each in network().parameters()])
    print(f"moved {moved} differ {distance(uninterrupted, resumed)}")


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
