"""Heat maps are read as sharply as brings the joints nearest."""

import copy

import pytest

torch = pytest.importorskip("torch")

from edge_hands import models  # noqa: E402
from edge_hands.quantization.sharpen import FACTORS, sharpen  # noqa: E402


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = models.create("test_dfmamba").eval()
    with torch.no_grad():
        made.head.maps.weight.mul_(40)  # maps with peaks, as after training
    return made


def batch_for(model, factor: float) -> dict[str, torch.Tensor]:
    """Images whose joints lie where the model sees them when its maps are read ``factor`` times as sharply."""
    size = model.config.image_size
    image = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    sharp = copy.deepcopy(model)
    with torch.no_grad():
        sharp.head.maps.weight[:21] *= factor
        sharp.head.maps.bias[:21] *= factor
        found = sharp.features(image)
    uv = found["uv"].clone()
    uv[3] = 9.0  # no hand there: must not count
    return {"image": image, "uv": uv, "z": found["z"], "present": torch.tensor([1.0, 1.0, 1.0, 0.0])}


@pytest.mark.parametrize("factor", [FACTORS[0], 1.0, FACTORS[-1]])
def test_the_best_factor_is_found_and_folded_in(model, factor):
    batch = batch_for(model, factor)
    assert sharpen(model, [batch, batch]) == factor
    with torch.no_grad():
        found = model.features(batch["image"])["uv"]
    torch.testing.assert_close(found[:3], batch["uv"][:3], atol=1e-4, rtol=0)
    assert sharpen(model, [batch_for(model, 1.0)]) == 1.0


def test_depth_and_confidence_maps_stay(model):
    before = model.head.maps.weight.detach().clone()
    sharpen(model, [batch_for(model, 1.5)])
    torch.testing.assert_close(model.head.maps.weight[21:], before[21:], rtol=0, atol=0)
    torch.testing.assert_close(model.head.maps.weight[:21], 1.5 * before[:21], rtol=0, atol=0)


def test_a_detector_and_batches_without_hands_change_nothing(model):
    detector = models.create("test_detector")
    assert sharpen(detector, iter(())) == 1.0
    batch = batch_for(model, 2.0)
    assert sharpen(model, [{**batch, "present": torch.zeros(4)}]) == 1.0
