"""What our exporters change in torch while they work."""

import copy
import inspect

import pytest

torch = pytest.importorskip("torch")

from torch import fx  # noqa: E402
from torch.fx.traceback import NodeSource  # noqa: E402

from edge_hands.export_targets.quick_passes import quick_passes  # noqa: E402


@pytest.fixture
def source():
    graph = fx.Graph()
    return NodeSource(graph.placeholder("image"), "a pass")


def test_a_history_is_shared_inside_and_copied_after(source):
    with quick_passes():
        assert copy.deepcopy([source])[0] is source
        with quick_passes():
            assert copy.deepcopy(source) is source
        assert copy.deepcopy(source) is source
    twin = copy.deepcopy(source)
    assert twin is not source and twin.to_dict() == source.to_dict()


def test_an_error_ends_it(source):
    with pytest.raises(ValueError), quick_passes():
        raise ValueError
    assert copy.deepcopy(source) is not source
    assert "_code" in vars(_module())


class _Twice(torch.nn.Module):
    def forward(self, x):
        return x + x


def _module() -> fx.GraphModule:
    return fx.symbolic_trace(_Twice())


def _to_products(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.target = torch.mul
    module.recompile()


def test_a_graph_is_compiled_when_it_is_called():
    with quick_passes():
        module = _module()
        assert "_code" not in vars(module)
        assert module(torch.tensor(3.0)) == 6.0
        assert "_code" in vars(module)
        _to_products(module)
        assert "_code" not in vars(module)
        assert module(torch.tensor(3.0)) == 9.0


def test_a_graph_is_compiled_when_it_is_read():
    with quick_passes():
        module = _module()
        _to_products(module)
    assert "mul" in module.code
    assert list(inspect.signature(module.forward).parameters) == ["x"]


def test_what_was_put_off_inside_is_done_outside():
    with quick_passes():
        module, twin = _module(), copy.deepcopy(_module())
    assert module(torch.tensor(3.0)) == twin(torch.tensor(3.0)) == 6.0
    assert copy.deepcopy(module)(torch.tensor(2.0)) == 4.0


def test_hooks_run_once():
    calls = []
    with quick_passes():
        module = _module()
        module.register_forward_hook(lambda *_: calls.append(1))
        module(torch.tensor(1.0))
    assert calls == [1]


def test_an_exported_program_keeps_the_names_of_its_inputs():
    with quick_passes():
        graph = torch.export.export(_Twice(), (torch.ones(2),)).module()
        graph.graph.eliminate_dead_code()
        graph.recompile()
        again = torch.export.export(graph, (torch.ones(2),))
    assert [spec.arg.name for spec in again.graph_signature.input_specs] == ["x"]
