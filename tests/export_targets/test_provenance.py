"""What our exporters change in torch while they work."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch.fx.traceback import NodeSource  # noqa: E402

from edge_hands.export_targets import provenance  # noqa: E402


@pytest.fixture
def source():
    graph = torch.fx.Graph()
    return NodeSource(graph.placeholder("image"), "a pass")


def test_a_history_is_shared_inside_and_copied_after(source):
    with provenance.shared():
        assert copy.deepcopy([source])[0] is source
        with provenance.shared():
            assert copy.deepcopy(source) is source
        assert copy.deepcopy(source) is source
    twin = copy.deepcopy(source)
    assert twin is not source and twin.to_dict() == source.to_dict()


def test_an_error_ends_it(source):
    with pytest.raises(ValueError), provenance.shared():
        raise ValueError
    assert copy.deepcopy(source) is not source
