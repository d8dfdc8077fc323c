"""What a training run needs, beside its averaged weights, to go on exactly: the tensors of ``resume.safetensors``, the
place of every process in its data, and how a new run begins with the weights of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_hands.errors import DataError
from edge_hands.quantization import checkpoint
from edge_hands.quantization.checkpoint import Meta
from edge_hands.quantization.data.pipeline import Position
from edge_hands.quantization.optimisers import Optimisers
from edge_hands.quantization.parallel import Processes
from edge_hands.quantization.recipe import Recipe

_MODEL, _OPTIMISER, _RANDOM = "model.", "optimiser.", "rng"
#: Settings that the checkpoint which a run begins with may have otherwise, and weights that it may lack.
_FREE, _ADDED = dict.fromkeys(("image_size", "stage_taps")), "neck.stages."


def begin_with(model: nn.Module, recipe: Recipe, start: str | Path) -> None:
    """The weights of the float checkpoint ``start`` into ``model``. Raises DataError where it is of another model.

    Its images may have had another size: no weight depends on that. And it may lack what begins as nothing (``Neck``).
    """
    meta = checkpoint.load_meta(start)
    theirs, ours = ({**overrides, **_FREE} for overrides in (meta.overrides, recipe.overrides))
    if (meta.model, theirs, meta.stage) != (recipe.model, ours, "float"):
        raise DataError(
            f"{start} holds a {meta.stage} {meta.model} {meta.overrides}; expected a float {recipe.model} "
            f"{recipe.overrides} to start from, in which {', '.join(_FREE)} may differ"
        )
    added = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(_ADDED)}
    checkpoint.restore(model, added | checkpoint.load_tensors(start, checkpoint.MODEL, meta.step), Path(start))


def tensors(model: nn.Module, optimisers: Optimisers) -> dict[str, Tensor]:
    """Weights, the optimisers' state and that of torch's random numbers, by name."""
    state = {f"{_MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {f"{_OPTIMISER}{entry}": tensor for entry, tensor in optimisers.state().items()}
    return state | {_RANDOM: torch.get_rng_state()}


def restore(folder: Path, recipe: Recipe, model: nn.Module, average: nn.Module, optimisers: Optimisers) -> Meta:
    """What ``tensors`` gave, and the averaged weights, from the checkpoint in ``folder``; returns its ``Meta``.

    Raises DataError where it is none or of another model.
    """
    meta = checkpoint.load_meta(folder)
    if (meta.model, meta.overrides) != (recipe.model, recipe.overrides):
        raise DataError(
            f"{folder} holds a {meta.model} {meta.overrides}, not a {recipe.model} {recipe.overrides}; "
            "use another --out"
        )
    checkpoint.restore(average, checkpoint.load_tensors(folder, checkpoint.MODEL, meta.step), folder)
    state = checkpoint.load_tensors(folder, checkpoint.RESUME, meta.step)
    checkpoint.restore(model, _of(_MODEL, state), folder / checkpoint.RESUME)
    optimisers.restore(_of(_OPTIMISER, state))
    torch.set_rng_state(state[_RANDOM])
    return meta


def _of(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def positions(place: Position, folders: int, processes: Processes) -> list[Position]:
    """The place of every process in its data, by rank, when ``place`` is this one's and the data is in ``folders``."""
    held = [*place.samples, *[0] * (folders - len(place.samples))]  # zeros where none is known
    found = processes.gather([place.epoch, place.index, *held])
    return [Position(epoch, index, tuple(filter(None, sizes))) for epoch, index, *sizes in found]


def position(stored: Sequence[Position], processes: Processes) -> Position:
    """Where this process goes on: in the next epoch when so many processes have not shared the data before."""
    same = len(stored) == processes.count
    return stored[processes.rank] if same else Position(max(place.epoch for place in stored) + 1)
