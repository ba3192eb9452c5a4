"""A tiny GPT-2 in Hugging Face's Trainer: torchrun --nproc-per-node 2 plain.py.

The model is made from scratch; nothing is downloaded.
"""

import argparse
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from dgc_topo.integrations.transformers import DGCCallback

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
steps = parser.parse_args().steps


class Texts(Dataset):
    """Texts in which each letter follows from the one before."""

    def __len__(self) -> int:
        """Return the number of texts."""
        return 1024

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return a text."""
        text = (index + 3 * torch.arange(12)) % 32
        return {"input_ids": text, "labels": text}


torch.manual_seed(0)
sizes = {"vocab_size": 32, "n_positions": 12, "n_embd": 32, "n_layer": 2, "n_head": 2}
with tempfile.TemporaryDirectory() as folder:
    options = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        ddp_find_unused_parameters=False,
    )
    trainer = Trainer(
        GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)),
        options,
        train_dataset=Texts(),
    )
    trainer.add_callback(DGCCallback(trainer, "butterfly", density=0.05, warm_up_steps=50))
    trainer.train()
    loss = trainer.evaluate(Texts())["eval_loss"]
if trainer.is_world_process_zero():
    print(f"loss {loss:.4f}")
