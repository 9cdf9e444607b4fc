"""Muon: its steps against the singular value decomposition that they stand for, and which weights it is for."""

from copy import deepcopy

import pytest
import torch

from training.muon import Muon, MuonAndAdamW, inner, orthogonal


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_step_is_the_nearest_orthogonal_matrix(shape):
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    found = u.T @ orthogonal(u @ torch.diag(s.clamp(min=0.3)) @ v).float() @ v.T
    assert found.diagonal().min() > 0.6 and found.diagonal().max() < 1.3
    assert (found - found.diagonal().diag()).abs().max() < 0.1, "same directions"
    assert not orthogonal(torch.zeros(shape)).any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolution_steps_as_its_matrix(layout):
    weight, grad = torch.randn(8, 6, 3, 3), torch.randn(8, 6, 3, 3)
    conv = torch.nn.Parameter(weight.clone().contiguous(memory_format=layout))
    matrix = torch.nn.Parameter(weight.permute(0, 2, 3, 1).reshape(8, -1).clone())
    conv.grad, matrix.grad = grad, grad.permute(0, 2, 3, 1).reshape(8, -1)
    for p in (conv, matrix):
        Muon([p], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(conv.permute(0, 2, 3, 1).reshape(8, -1), matrix)
    moved = (matrix - 0.95 * weight.permute(0, 2, 3, 1).reshape(8, -1)).square().mean().sqrt()
    assert 0.8 < moved / (0.1 * 0.2) < 1.2, "as far as AdamW usually goes"


def learner():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(5, 4), "layer": torch.nn.Linear(4, 4), "conv_out": torch.nn.Conv2d(1, 1, 3)}
    )
    return model, torch.nn.Linear(4, 2)


def test_each_weight_is_learnt_once():
    model, head = learner()
    assert [id(p) for p in inner(model)] == [id(model["layer"].weight)]
    model["conv_out"].requires_grad_(False)
    optimizer = MuonAndAdamW(model, head, lr=0.1)
    learnt = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(learnt) == sorted(id(p) for part in (model, head) for p in part.parameters() if p.requires_grad)


def test_goes_on_as_if_it_had_not_stopped():
    def steps(optimizer, model, head, n):
        for _ in range(n):
            optimizer.zero_grad()
            x = model["layer"](model["embed"](torch.arange(5)))
            (head(x).square().sum() + model["conv_out"](x[None]).square().sum() - x.sum()).backward()
            optimizer.step()

    model, head = learner()
    optimizer = MuonAndAdamW(model, head, lr=0.1)
    steps(optimizer, model, head, 3)
    again, other = learner()
    again.load_state_dict(model.state_dict())
    other.load_state_dict(head.state_dict())
    resumed = MuonAndAdamW(again, other, lr=0.1)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    steps(optimizer, model, head, 2)
    steps(resumed, again, other, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
