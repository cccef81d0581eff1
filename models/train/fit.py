"""The training loop of every stage: schedule, averaging, log, and resuming after an interruption.

Knows nothing of what the model is or where batches come from. A stage is a number of steps, and nothing in it
depends on the time: interrupted and resumed, or slowed down by others, it gives the same weights.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Stage:
    """What one stage does: `loss` of a step, learning rates by parameter group, steps, and where to log."""

    name: str
    loss: Callable[[int], Tensor]
    groups: list[dict[str, Any]]
    steps: int
    folder: Path
    check: Callable[[], dict[str, float]]
    save_every: int = 100


_WARM_UP = 0.02
_AVERAGED_FROM = 0.7
_AVERAGE_EVERY = 5
_LOG_EVERY = 20
_CHECKS = 10


def run(model: nn.Module, stage: Stage) -> nn.Module:
    """Train `model` in place and return it with the mean of the weights of the last 30 %.

    A stage that is done is read back; one that was interrupted resumes from its last saved state.
    """
    state = _State(model, stage)
    if state.finished:
        return model
    started, losses = time.process_time() - state.seconds, []
    with (stage.folder / f"{stage.name}.jsonl").open("a", encoding="utf-8") as log:
        while state.step < stage.steps:
            _set_rate(state.optimizer, state.step / stage.steps)
            loss = stage.loss(state.step)
            state.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            state.optimizer.step()
            losses.append(loss.item())
            state.after_step(time.process_time() - started)
            if state.step % _LOG_EVERY == 0:
                row = {"step": state.step, "seconds": round(state.seconds, 1)}
                row["loss"] = round(sum(losses) / len(losses), 4)
                losses = []
                if state.due():
                    row |= {k: round(v, 4) for k, v in stage.check().items()}
                log.write(json.dumps(row) + "\n")
                log.flush()
        state.finish()
        log.write(json.dumps({"step": state.step, "averaged": stage.check()}) + "\n")
    return model


def _set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Linear warm-up, then half a cosine down to a twentieth."""
    factor = min(1.0, max(share, 1e-4) / _WARM_UP) * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class _State:
    """Weights, optimizer, running mean and counters of a stage, and their file."""

    def __init__(self, model: nn.Module, stage: Stage) -> None:
        self.model, self.path = model, stage.folder / f"{stage.name}.pt"
        self.steps, self.save_every = stage.steps, stage.save_every
        for group in stage.groups:
            group["peak"] = group["lr"]
        self.optimizer = torch.optim.Adam(stage.groups, fused=True)
        self.trained = [p for group in stage.groups for p in group["params"]]
        self.mean: list[Tensor] = []
        self.step, self.averaged, self.seconds, self.checked = 0, 0, 0.0, -1
        self.finished = False
        if self.path.exists():
            self._read()

    def after_step(self, seconds: float) -> None:
        """Count the step and the processor's seconds, average, and save now and then."""
        self.step, self.seconds = self.step + 1, seconds
        if self.step > _AVERAGED_FROM * self.steps and self.step % _AVERAGE_EVERY == 0:
            self._average()
        if self.step % self.save_every == 0:
            self._write()

    def due(self) -> bool:
        """Whether the next of the ten checks has come."""
        if _CHECKS * self.step // self.steps <= self.checked:
            return False
        self.checked = _CHECKS * self.step // self.steps
        return True

    def finish(self) -> None:
        """Put the mean in place of the last weights, and save."""
        if self.mean:
            with torch.no_grad():
                for parameter, mean in zip(self.trained, self.mean, strict=True):
                    parameter.copy_(mean)
        self.finished = True
        self._write()

    def _average(self) -> None:
        self.averaged += 1
        with torch.no_grad():
            if not self.mean:
                self.mean = [p.detach().clone() for p in self.trained]
            for mean, parameter in zip(self.mean, self.trained, strict=True):
                mean.lerp_(parameter, 1.0 / self.averaged)

    def _write(self) -> None:
        state = {"model": self.model.state_dict(), "step": self.step, "seconds": self.seconds}
        state |= {"finished": self.finished, "averaged": self.averaged, "checked": self.checked}
        if not self.finished:
            state |= {"optimizer": self.optimizer.state_dict(), "mean": self.mean}
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)

    def _read(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.step, self.seconds, self.finished = state["step"], state["seconds"], state["finished"]
        self.averaged, self.checked = state["averaged"], state["checked"]
        if not self.finished:
            self.optimizer.load_state_dict(state["optimizer"])
            self.mean = state["mean"]
