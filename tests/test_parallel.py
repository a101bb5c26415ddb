"""Several processes train one model as one process does, and end together however they end."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from lab.assembly.build import build
from lab.data.standardize import Standardize
from lab.data.streamed import Streamed
from lab.distributed import collectives, replicas, shards
from lab.execution.rank import AgreedStop
from lab.models.resnet_cifar import ResNet
from lab.train.loop import train
from lab.train.scoring import evaluate
from lab.train.state import restore_snapshot, take_snapshot
from tests.processes import TIMEOUT, finish
from tests.project import SHORT as MISHAPS
from tests.project import Project, bits, frozen, last_step, read, wait_for

SHORT = ("data=digits", "model=mlp", "steps=7", "log_every=1")
DEEP = "model._target_=tests.test_parallel.Deep"
# each in one process and in two; a batch of 33 is 16 and 17 examples
REPLICAS = {
    "mixed, clipped and in parts": (
        *("augment=mixup", "data.batch_size=33", "hardware.micro_batch=8", "max_norm=0.5", "optimizer=sgd"),
        *("optimizer.lr=0.1", "optimizer.momentum=0.9", "regularize=ema"),
    ),
    "climbing": ("data.batch_size=33", "regularize=sam", "optimizer=sgd", "optimizer.lr=0.1"),
    "thawing": ("finetune_strategy=gradual", "finetune_strategy.epochs_per_block=0.1", DEEP, "data.batch_size=33"),
    "averaging": ("regularize=swa", "regularize.start=0.3", "regularize.every=1", "data.batch_size=32"),
    "reading each its own": (
        *("data._target_=tests.test_parallel.Read", "data.batch_size=33", "monitor=val/cross_entropy", "mode=min"),
        *("hardware.micro_batch=9", "max_norm=1"),
    ),
    "pulled": ("finetune_strategy=l2_sp", "finetune_strategy.alpha=0.1", "finetune_strategy.beta=0.01"),
    "with parts that no forward pass uses": ("optimizer=adamw", "model._target_=tests.test_parallel.Unused"),
}
SHARDS = {
    "mixed, clipped and in parts": ("augment=mixup", "data.batch_size=32", "hardware.micro_batch=8", "max_norm=0.5"),
    "the head alone": ("finetune_strategy=linear_probe", "data.batch_size=32"),
    "checkpointed, watched": (
        *("hardware.activation_checkpointing=true", "data.batch_size=32", DEEP),
        "regularize=early_stop",
    ),
    "adapters": ("finetune_strategy=lora", "finetune_strategy.rank=2", "data.batch_size=32"),
}


class Read(Streamed):
    """The digits, read one by one.  read: how many training examples were."""

    def __init__(self, batch_size: int, seed: int, val_share: float, test_share: float, **_: Any):
        digits: Any = load_digits()
        images = torch.from_numpy(digits.images).byte().unsqueeze(1)
        every = list(zip(images, digits.target, strict=True))
        self.read = 0
        parts = {"train": Counted(self, every[:600]), "val": every[600:700], "test": every[700:800]}
        super().__init__(**parts, batch_size=batch_size, seed=seed, workers=0, prepare=Standardize((0.02,), (0.02,)))


class Counted(list):
    def __init__(self, owner: Read, examples: list[Any]):
        super().__init__(examples)
        self.owner = owner

    def __getitem__(self, index: Any) -> Any:
        self.owner.read += 1
        return super().__getitem__(index)


class Unused(nn.Module):
    def __init__(self, shape: list[int], num_classes: int, **_: Any):
        super().__init__()
        self.used, self.unused = nn.Linear(64, num_classes), nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.flatten(1))


class Deep(nn.Module):
    def __init__(self, shape: list[int], num_classes: int, **_: Any):
        super().__init__()
        layers = [nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.Tanh()) for _ in range(3)]
        self.stack, self.head = nn.Sequential(*layers), nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(x.flatten(1)))


def compose_config(*overrides: str) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from lab.config.hydra_setup import register_with_hydra

    register_with_hydra()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("train", [*SHORT, *overrides])
    found: Any = OmegaConf.to_container(config, resolve=True)
    return found


def train_and_collect(config: dict[str, Any]) -> dict[str, Any]:
    """Losses, norms, scores and the final state; `alike`: whether all ranks have the same weights."""
    run = build(config)
    steps = [(float(step.loss), None if step.norm is None else float(step.norm), step.examples) for step in train(run)]
    scores = evaluate(run)
    mine = {name: shards.local_tensor(tensor) for name, tensor in run.model.state_dict().items()}
    everyone = collectives.all_gather(mine)
    sharded = shards.is_sharded(run.model)
    alike = all(torch.equal(one[name], mine[name]) for one in everyone for name in mine if not sharded)
    found = {"steps": steps, "scores": dict(scores), "state": take_snapshot(run), "alike": alike, "sharded": sharded}
    restored = build(config)
    restore_snapshot(restored, collectives.broadcast(found["state"]))
    found["read"] = getattr(run.data, "read", None)
    return {**found, "again": take_snapshot(restored)}


def run_rank(rank: int, folder: Path, configs: dict[str, dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {name: train_and_collect(config) for name, config in configs.items()}
    found["stopped"] = collectives.all_gather(stop_together(rank))
    if rank == 0:
        torch.save(found, folder / "found.pt")
    collectives.leave_process_group()


def stop_together(rank: int) -> tuple[int, str | None]:
    """After which step, and why, where one process is asked to stop while both take steps as fast as they can."""
    pulse = AgreedStop()
    if rank == 1:
        threading.Timer(0.3, pulse.stop, ["enough"]).start()
    until = time.monotonic() + 20
    return next((n, pulse.reason) for n in itertools.count(1) if pulse(n) or time.monotonic() > until)


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Any]]:
    two = ("hardware.device=cpu", "hardware.processes=2")
    return {
        **{f"ddp {name}": compose_config("hardware=ddp", *two, *given) for name, given in REPLICAS.items()},
        **{f"fsdp {name}": compose_config("hardware=fsdp", *two, *given) for name, given in SHARDS.items()},
        # Muon's own arithmetic is in bfloat16: another order of additions shows in the third digit
        "fsdp orthogonalised": compose_config("hardware=fsdp", *two, "optimizer=muon", "data.batch_size=33"),
        "ddp normalised": compose_config("hardware=ddp", *two, "model=resnet20", "data.batch_size=33"),
    }


@pytest.fixture(scope="module")
def in_two(cases, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What each case comes to in two processes: started once for all of them."""
    folder = tmp_path_factory.mktemp("two")
    start_processes(run_rank, (folder, cases), nprocs=2)
    return torch.load(folder / "found.pt")


@pytest.mark.slow
@pytest.mark.parametrize("case", [*(f"ddp {name}" for name in REPLICAS), *(f"fsdp {name}" for name in SHARDS)])
def test_two_processes_come_to_what_one_does(case, cases, in_two):
    config, found = cases[case], in_two[case]
    alone = train_and_collect({**config, "hardware": {**config["hardware"], "parallel": "none", "processes": None}})
    assert found["alike"]
    if found["read"]:
        assert alone["read"] == 7 * 33
        assert found["read"] == 7 * 16
    assert found["sharded"] is case.startswith("fsdp")
    for (loss, norm, examples), (ours, our_norm, our_examples) in zip(alone["steps"], found["steps"], strict=True):
        assert ours == pytest.approx(loss, rel=1e-5)
        assert our_norm == (None if norm is None else pytest.approx(norm, rel=1e-5))
        assert our_examples == examples
    model = found["state"]["model"]
    assert list(model) == list(alone["state"]["model"])
    for name, tensor in alone["state"]["model"].items():
        torch.testing.assert_close(model[name], tensor, rtol=1e-6, atol=1e-6)
    assert found["scores"] == pytest.approx(alone["scores"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [*(f"ddp {name}" for name in REPLICAS), *(f"fsdp {name}" for name in [*SHARDS, "orthogonalised"])]
)
def test_what_two_processes_save_they_go_on_from(case, in_two):
    assert frozen(in_two[case]["again"]) == frozen(in_two[case]["state"])
    assert len(in_two[case]["state"]["generators_of_others"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fsdp orthogonalised", *(f"fsdp {name}" for name in SHARDS)])
def test_the_checkpoint_of_shards_is_one_that_a_single_process_goes_on_from(case, cases, in_two):
    config = cases[case]
    run = build({**config, "hardware": {**config["hardware"], "parallel": "none", "processes": None}})
    restore_snapshot(run, in_two[case]["state"])
    assert dict(evaluate(run)) == pytest.approx(in_two[case]["scores"], rel=1e-5)
    assert frozen(take_snapshot(run)["optimizer"]) == frozen(in_two[case]["state"]["optimizer"])
    next(train(run, after=6))


@pytest.mark.slow
def test_all_stop_after_the_same_step_when_one_is_asked_to(in_two):
    (ours, why), theirs = in_two["stopped"]
    assert (ours, why) == theirs
    assert why == "enough"


@pytest.mark.slow
def test_replicas_score_with_the_running_statistics_of_the_first(cases, in_two):
    found = in_two["ddp normalised"]
    assert found["alike"]  # the buffers too, once they have been scored with
    assert found["state"]["model"]["bn1.running_mean"].any()


def test_batch_normalisations_on_cuda_are_those_that_take_statistics_of_all_processes():
    timm = pytest.importorskip("timm")
    for model in (ResNet(1, [1, 8, 8], 10), timm.create_model("efficientnet_b0", num_classes=10)):
        keys, count = list(model.state_dict()), count_normalisations(model, nn.modules.batchnorm._BatchNorm)
        replicas.convert_sync_batchnorm(model)
        assert list(model.state_dict()) == keys
        assert count_normalisations(model, nn.SyncBatchNorm) == count > 0


def count_normalisations(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


# as commands

TWO = ("hardware=ddp", "hardware.device=cpu", "hardware.processes=2")
SLOW = "data.pause=0.05"


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Iterator[Project]:
    """A sweep of jobs of two processes each: one to which nothing happens, and others."""
    made = Project(tmp_path_factory.mktemp("swept") / "project")
    jobs = ("data.mishap=none,error,hang", "step_timeout=3", "hydra.launcher.workers=1")
    done = made.lab("train", "-m", MISHAPS, *TWO, *jobs)
    assert done.code == 1, done.err
    yield made
    made.end()


@pytest.mark.slow
def test_a_sweep_of_jobs_of_two_processes_each_is_done_in_warm_workers(swept):
    states = swept.states("mishap")
    assert {mishap: status["state"] for mishap, status in states.items()} == {
        "none": "done",
        "error": "failed",
        "hang": "failed",
    }
    assert "a mishap of the run's own" in states["error"]["error"]
    assert not states["error"]["outside"]
    assert "hung: a step did not end in 3 s" in states["hang"]["error"]
    assert states["hang"]["outside"]
    for run in swept.runs():
        manifest = read(run / "manifest.json")
        assert manifest["processes"] == 2
        assert (run / "error.txt").exists() is ("none" not in states or read(run / "status.json")["state"] != "done")
    (run,) = [run for run in swept.runs() if read(run / "status.json")["state"] == "done"]
    assert read(run / "results.json")["hardware/examples_per_s"] > 0


def rank_pids(launcher: int) -> list[int]:
    """The processes that train, the one that writes first."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            command = (place / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if parent == launcher and "spawn_main" in command:
            found.append(int(place.name))
    return sorted(found)


def are_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
def test_however_its_processes_are_stopped_the_same_command_comes_to_the_same_bits(project, swept):
    command = ("train", MISHAPS, *TWO, SLOW)

    process = project.start(*command)
    (run,) = project.await_steps(2)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert stopped.code == 75, stopped.err
    assert "SIGTERM after step" in stopped.err
    assert read(run / "status.json")["state"] == "interrupted"
    reached = last_step(run)

    process = project.start(*command)
    project.await_steps(reached + 2)
    both = rank_pids(process.pid)
    assert read(run / "status.json")["pid"] in both
    (other,) = set(both) - {read(run / "status.json")["pid"]}
    os.kill(other, signal.SIGKILL)
    died = finish(process)
    assert died.code == 1, died.err
    assert are_gone(both)
    status = read(run / "status.json")
    assert status["state"] == "failed"
    assert "rank 1: its process was killed by SIGKILL" in status["error"]
    assert status["error"].partition(";")[0] in died.err

    process = project.start(*command)
    project.await_steps(max(reached, last_step(run)) + 1)
    both = rank_pids(process.pid)
    process.kill()
    process.communicate(timeout=TIMEOUT)
    wait_for(lambda: are_gone(both))

    project.new = True  # as users start ranks
    done = project.lab(*command)
    assert done.code == 0, done.err
    manifest = read(run / "manifest.json")
    assert manifest["exact"], manifest["inexact"]
    assert len(manifest["segments"]) == 4
    (whole,) = [other for other in swept.runs() if read(other / "status.json")["state"] == "done"]
    assert bits(run) == bits(whole)
    project.new = False
    assert project.lab("eval", str(run)).code == 0


@pytest.mark.slow
def test_what_is_wrong_with_a_config_is_said_once_and_nothing_is_left_behind(project):
    both = [project.start("train", MISHAPS, *TWO, *wrong) for wrong in (["monitor=val/nothing"], ["data.batch_size=1"])]
    for process, said in zip(both, ("no score 'val/nothing'", "a batch of 1 for 2 processes"), strict=True):
        refused = finish(process)
        assert refused.code == 2, refused.err
        assert refused.err.count(said) == 1
        assert "Traceback" not in refused.err
    assert not list(project.root.glob("outputs/*"))


@pytest.mark.slow
def test_a_check_and_a_plan_are_one_process(lab, tmp_path):
    for verb in ("check", "plan"):
        for option in ("ddp", "fsdp"):
            done = lab(
                verb, f"hardware={option}", "hardware.device=cpu", "hardware.processes=2", "hardware.micro_batch=8"
            )
            assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["hardware.processes=2"], "hardware=ddp or hardware=fsdp"),
        (["hardware=ddp", "hardware.processes=0"], "not a positive number"),
        (["hardware=ddp", "hardware.parallel=dp"], "none, ddp, fsdp"),
        (["hardware=ddp", "hardware.device=cpu", "hardware.processes=2", "oom=shrink"], "oom=fail"),
        (["hardware=fsdp", "hardware.device=cpu", "hardware.processes=2", "hardware.precision=fp16"], "precision=bf16"),
        (["hardware=fsdp", "hardware.device=cpu", "hardware.processes=2", "hardware.compile=true"], "hardware=ddp"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_started(lab, given, said):
    refused = lab("train", "hardware=cpu", *given) if not given[0].startswith("hardware=") else lab("train", *given)
    assert refused.code == 2
    assert said in refused.err


@pytest.mark.parametrize(
    "given",
    [
        ["regularize=ema"],
        ["regularize=sam"],
        ["finetune_strategy=gradual"],
        ["finetune_strategy=l2_sp", "finetune_strategy.alpha=1", "finetune_strategy.beta=1"],
    ],
)
def test_what_needs_whole_weights_is_refused_under_fsdp_by_a_check_already(lab, given):
    refused = lab("check", "hardware=fsdp", "hardware.device=cpu", "hardware.processes=2", *given)
    assert refused.code == 2
    assert "hardware=ddp" in refused.err
