"""What our exporters change in torch while they work."""

import copy
import inspect

import pytest

torch = pytest.importorskip("torch")

from torch import fx  # noqa: E402
from torch.fx.traceback import NodeSource  # noqa: E402

from edge_hands.export_targets.quick_passes import needed_passes, quick_passes, remembered_results  # noqa: E402


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


class _Layers(torch.nn.Module):
    """Two convolutions, several operators twice with the same shapes, one that is a composition, a softmax."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(4, 4, 3, 3, generator=generator))

    def forward(self, x):
        for _ in range(2):
            x = torch.relu(torch.conv2d(x, self.weight, padding=1)) + torch.square(x)
        return torch.cat([part.softmax(1) for part in x.split(2, 1)] * 3, 1).flatten(1) * 2.0


def _exported():
    return torch.export.export(_Layers(), (torch.ones(1, 4, 8, 8),))


def test_a_decomposition_of_nothing_gives_the_program_itself():
    twice = {torch.ops.aten.square.default: lambda x: x * x}
    with quick_passes():
        program = _exported().run_decompositions(twice)  # of square, flatten and split
        names = {str(node.target) for node in program.graph.nodes}
        assert "aten.square.default" not in names and "aten.flatten.using_ints" not in names
        assert program.run_decompositions(twice) is program and program.run_decompositions({}) is program
        again = program.run_decompositions({torch.ops.aten.relu.default: lambda x: x.clamp_min(0)})
        assert again is not program and "aten.relu.default" not in {str(node.target) for node in again.graph.nodes}
        whole = program.run_decompositions()  # by torch's own table, which has convolutions
        assert "aten.convolution.default" in {str(node.target) for node in whole.graph.nodes}
    assert program.run_decompositions({}) is not program


def test_a_program_fresh_from_export_changes_its_dialect():
    """Core ML takes none that is still for training, though decompositions would change no operator of it."""
    with quick_passes():
        program = torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
        assert program.dialect == "TRAINING" and program.run_decompositions({}).dialect != "TRAINING"


class _Writes(torch.nn.Module):
    def forward(self, x):
        y = torch.zeros(2)
        y.add_(x)
        return y


def test_a_program_that_writes_into_tensors_is_decomposed():
    with quick_passes():
        program = torch.export.export(_Writes(), (torch.ones(2),))
        assert "aten.add_.Tensor" in {str(node.target) for node in program.graph.nodes}
        assert "aten.add_.Tensor" not in {str(node.target) for node in program.run_decompositions({}).graph.nodes}


def _lowered(program) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer


def test_executorch_writes_the_same_bytes():
    """Also of tensors that want gradients, as a program says which do."""
    pytest.importorskip("executorch")
    from executorch.backends.xnnpack import _passes
    from executorch.exir import pass_base

    plain = _lowered(_exported())
    with quick_passes(), remembered_results(), needed_passes():
        chosen, compute = _passes.XNNPACKPassManager(_exported()), pass_base._ExportPassBase._fx
        runs = [_lowered(_exported()), _lowered(_exported())]
    assert runs == [plain, plain]
    assert pass_base._ExportPassBase._fx is not compute
    assert len(_passes.XNNPACKPassManager(_exported()).passes) > len(chosen.passes)


def test_litert_writes_the_same_bytes():
    pytest.importorskip("litert_torch")
    from edge_hands.export_targets import litert

    arguments = (_Layers().eval(), {"x": torch.ones(1, 4, 8, 8)}, False, "portable")
    assert litert.convert_module(*arguments) == litert.convert_module.__wrapped__(*arguments)


def test_what_a_pass_looks_for_is_in_its_pattern():
    pytest.importorskip("executorch")
    from executorch.backends.xnnpack._passes import XNNPACKPassManager
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa

    from edge_hands.export_targets.quick_passes import _LOOKS_FOR

    names = {kind.__name__ for kind in XNNPACKPassManager(_exported()).passes}
    assert set(_LOOKS_FOR) <= names
    patterns = {"ConvertToUpsampleBilinear2d": bilinear_2d.get_graphs_dict(), "ConvertToSDPAPass": sdpa.get_graphs()}
    for name, graphs in patterns.items():
        for graph in graphs:
            assert any(_LOOKS_FOR[name] in str(node.target) for node in graph.graph.nodes)
