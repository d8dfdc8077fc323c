"""Two processes over gloo, by torchrun: disjoint samples, one update, one writer, resumption; scans for GPUs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_hands.errors import DataError  # noqa: E402
from edge_hands.kernels import torch_cuda, torch_ops  # noqa: E402
from edge_hands.quantization import checkpoint  # noqa: E402
from edge_hands.quantization.data.shards import Pool  # noqa: E402
from edge_hands.quantization.parallel import Processes  # noqa: E402
from edge_hands.quantization.progress import Window  # noqa: E402
from edge_hands.quantization.recipe import Recipe  # noqa: E402
from edge_hands.quantization.train import Run  # noqa: E402

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SETTINGS = dict(
    model="test_dfmamba", batch=16, samples=32, threads=1, bf16=False, validate_count=8, log_every=1, warmup=2
)


def torchrun(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([*TORCHRUN, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def two(crop_shards, tmp_path_factory):
    """What both processes of a run of two steps saw and learnt, and its folder."""
    out = tmp_path_factory.mktemp("two")
    (out / "recipe.json").write_text(json.dumps({**SETTINGS, "data": [str(crop_shards)]}))
    done = torchrun(Path(__file__).with_name("parallel_worker.py"), out / "recipe.json", out)
    assert done.returncode == 0, done.stderr[-3000:]
    return [dict(np.load(out / f"rank{rank}.npz")) for rank in (0, 1)], out


def test_the_processes_see_disjoint_samples(two, crop_shards):
    (first, second), _ = two
    whole = Pool(crop_shards, "train", "crop")
    keys = sorted(whole.image(index).astype(np.int64).sum() for index in range(len(whole)))
    assert sorted([*first["samples"], *second["samples"]]) == keys and len(set(keys)) == 96
    assert len(first["samples"]) == len(second["samples"]) == 48
    assert first["batch.image"].shape == (2, 8, 64, 64, 3)
    assert (first["batch.image"] != second["batch.image"]).any()


def test_the_processes_make_one_update(two, crop_shards, tmp_path):
    """Both end with the same weights: those of one process whose two threads had their parts of the batches."""
    (first, second), _ = two
    names = [name for name in first if name.startswith(("model.", "average."))]
    names = [name for name in names if not name.startswith("average.head.maps")]  # those the first one sharpened
    assert len(names) > 100
    for name in names:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)

    run = Run(Recipe.from_dict({**SETTINGS, "data": [crop_shards], "threads": 2}), tmp_path, False, None)
    try:
        began = {name: parameter.detach().numpy().copy() for name, parameter in run.model.named_parameters()}
        parts = [name for name in first if name.startswith("batch.")]
        for step in range(2):
            batch = {n.removeprefix("batch."): np.concatenate([first[n][step], second[n][step]]) for n in parts}
            run._train_step(batch, Window())
            run.seconds = 0.0
        moved = 0
        for name, parameter in run.model.named_parameters():
            np.testing.assert_allclose(first[f"model.{name}"], parameter.detach().numpy(), atol=2e-5, err_msg=name)
            moved += bool((first[f"model.{name}"] != began[name]).any())
        assert moved > 50
    finally:
        run.close()


def test_the_first_process_alone_writes(two):
    _, out = two
    meta = checkpoint.load_meta(out)
    assert (meta.step, meta.samples, meta.resume["finished"]) == (2, 32, True)
    assert meta.resume["positions"] == [{"epoch": 0, "index": 2, "samples": [48]}] * 2
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events].count("start") == [e["event"] for e in events].count("end") == 1
    assert events[0]["processes"] == 2 and [e["step"] for e in events if e["event"] == "step"] == [1, 2]


def test_the_command_resumes_under_torchrun_and_alone(two, crop_shards, tmp_path):
    _, out = two
    arguments = ["-m", "edge_hands", "train", "--resume", "--out", out, "--data", crop_shards, "--threads", 1]
    settings = ["--model", "test_dfmamba", "--batch", 16, "--config", tmp_path / "c.toml"]
    (tmp_path / "c.toml").write_text("validate_count = 8\nbf16 = false\nlog_every = 1\n")
    done = torchrun(*arguments, *settings, "--samples", 64)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("checkpoint in") == 1
    meta = checkpoint.load_meta(out)
    assert (meta.step, meta.resume["positions"]) == (4, [{"epoch": 0, "index": 4, "samples": [48]}] * 2)
    done = subprocess.run([sys.executable, *map(str, [*arguments, *settings, "--samples", 96])], capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    meta = checkpoint.load_meta(out)  # dealt out to one process, so a new epoch
    assert (meta.step, meta.resume["positions"]) == (6, [{"epoch": 1, "index": 2, "samples": [96]}])


def test_a_batch_that_cannot_be_shared_is_named(crop_shards, tmp_path):
    processes = Processes(cuda=False)
    processes.count = 3
    with pytest.raises(DataError, match="batch of 16 cannot be shared by 3 processes"):
        Run(Recipe.from_dict({**SETTINGS, "data": [crop_shards]}), tmp_path, False, None, None, processes)


@pytest.mark.parametrize("deform", [False, True])
def test_the_scans_of_a_gpu_are_those_of_the_kernels(deform):
    """On CPU tensors: what a GPU is given, against the native kernels."""
    torch.manual_seed(0)
    batch, height, width, channels, states, groups = 2, 4, 5, 8, 3, 2
    length = height * width
    x, delta = torch.randn(2, batch, length, channels)
    b, c = torch.randn(2, batch, length, states)
    rest = (delta, -torch.rand(channels, states), b, c, torch.randn(channels))
    sampling = (torch.randn(batch, length, groups * 18), torch.randn(batch, length, groups * 9)) if deform else ()
    tensors, sizes = (x, *sampling, *rest), (height, width, 9) if deform else ()
    name = "deformable_scan" if deform else "selective_scan"
    found = getattr(torch_cuda, name)(*tensors, *sizes)
    torch.testing.assert_close(found, getattr(torch_ops, name)(*tensors, *sizes), rtol=1e-4, atol=1e-5)
    grad = torch.randn_like(found)
    gradients = [getattr(module, f"{name}_backward")(grad, *tensors, *sizes) for module in (torch_cuda, torch_ops)]
    for own, native in zip(*gradients, strict=True):
        torch.testing.assert_close(own, native, rtol=1e-3, atol=1e-4)
