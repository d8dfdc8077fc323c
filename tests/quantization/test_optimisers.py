"""Muon and AdamW behind one face: who gets which parameter, what a step does, and that its state survives."""

import copy

import pytest
import torch

from edge_hands import models
from edge_hands.quantization.optimisers import Muon, Optimisers


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.create("test_dfmamba")


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(memory_format=torch.preserve_format)


def test_every_parameter_that_can_change_does(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    give_gradients(model, 1)
    Optimisers(model, 0.1, 0.01).step(1e-2)
    assert all((p != before[name]).any() for name, p in model.named_parameters())


def test_matrices_move_by_orthogonal_steps_and_the_rest_by_adamw(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    give_gradients(model, 1)
    Optimisers(model, 0.1, 0.0).step(1e-2)
    moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    kernel = moved["head.refine.0.weight"].flatten(1)
    values = torch.linalg.svdvals(kernel) / (1e-2 * 0.2 * max(kernel.shape) ** 0.5)
    assert values.min() > 0.5 and values.max() < 1.4  # five Newton-Schulz steps come so near to one
    output = moved["head.maps.weight"]  # AdamW's first step is the learning rate, whatever the gradient
    torch.testing.assert_close(output.abs(), torch.full_like(output, 1e-2), rtol=1e-3, atol=0)
    sampling = [step for name, step in moved.items() if "offset" in name.split(".")]
    assert sampling and all(step.abs().max() < 1.01e-3 for step in sampling)


def test_adamw_alone_moves_every_weight_by_its_learning_rate(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    give_gradients(model, 1)
    Optimisers(model, 1.0, 0.0, muon=False).step(1e-2)
    for name, p in model.named_parameters():
        step = (p.detach() - before[name]).abs()
        torch.testing.assert_close(step, torch.full_like(step, 1e-2), rtol=5e-2, atol=0, msg=name)


def test_a_restored_optimiser_goes_on_as_if_nothing_had_happened(model):
    first = Optimisers(model, 0.1, 0.01)
    give_gradients(model, 1)
    first.step(1e-2)
    twin, state = copy.deepcopy(model), {name: tensor.clone() for name, tensor in first.state().items()}
    second = Optimisers(twin, 0.1, 0.01)
    second.restore(state)
    for pair in ((model, first), (twin, second)):
        give_gradients(pair[0], 2)
        pair[1].step(1e-2)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_steps_as_torch_s_does_but_for_its_bfloat16(model):
    give_gradients(model, 1)
    kernel = model.head.refine[0].weight
    ours, theirs = (torch.nn.Parameter(kernel.detach().flatten(1).clone()) for _ in range(2))
    start, grad = ours.detach().clone(), kernel.grad.flatten(1)
    optimisers = (
        Muon([dict(params=[ours])], 0.01),
        torch.optim.Muon([theirs], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for optimiser, parameter in zip(optimisers, (ours, theirs)):
            optimiser.param_groups[0]["lr"] = 1e-2
            parameter.grad = grad.clone()
            optimiser.step()
    moved = torch.stack([(p.detach() - start).flatten() for p in (ours, theirs)])
    assert torch.corrcoef(moved)[0, 1] > 0.999
    assert moved[0].norm() / moved[1].norm() == pytest.approx(1, abs=0.01)
