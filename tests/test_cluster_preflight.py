"""The preflight reports each failure of a node in one line, with its remedy."""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest
import ray

from cluster import preflight, reach
from cluster.findings import GIB, Node, node_failures, node_remarks
from cluster.node import PACKAGES, NodeFacts, collect_facts
from cluster.preflight import check_cluster
from mdsrec.config.loading import experiment_from

DRIVER = NodeFacts(
    versions={"python": "3.11.7", **dict.fromkeys(PACKAGES, "1.0")},
    missing=(),
    faiss=("faiss-cpu",),
    gpus=0,
    faiss_gpus=0,
    free={"/root": 10 * GIB, "/tmp": 10 * GIB},
    shared_memory=GIB,
    auth="token",
)


def failures(offered_gpus=0.0, root="", all_reduce="", **facts):
    """Return the failures of a node that differs from the driver in `facts`."""
    node = Node("n", "10.0.0.2", 1.0, offered_gpus, replace(DRIVER, **facts), "", root, all_reduce)
    lines = node_failures(node, DRIVER, "/root")
    assert all(line.startswith("n (10.0.0.2): ") and "\n" not in line for line in lines)
    return [line.removeprefix("n (10.0.0.2): ") for line in lines]


def test_a_node_like_the_driver_has_no_failure():
    assert failures() == []


def test_another_version_and_a_missing_package():
    assert failures(versions={**DRIVER.versions, "torch": "2.0", "python": "3.12.1"}) == [
        "python 3.12.1, the driver has 3.11.7: install the same on every node",
        "torch 2.0, the driver has 1.0: install the same on every node",
    ]
    error = "ModuleNotFoundError: No module named 'faiss'"
    assert failures(versions={**DRIVER.versions, "faiss": error}, missing=("faiss",)) == [
        f"faiss cannot be imported ({error}): install it there"
    ]


def test_gpus_offered_to_ray_must_be_visible_to_torch_and_faiss():
    assert failures(offered_gpus=2.0, gpus=2, faiss_gpus=2, faiss=("faiss-gpu",)) == []
    assert failures(offered_gpus=2.0, gpus=1) == [
        "offers 2 GPUs to Ray, torch sees 1: install a CUDA build of torch and its NVIDIA driver "
        "(CUDA 13 needs R580 or newer)",
    ]
    [both] = failures(faiss=("faiss-cpu", "faiss-gpu-cuvs"))
    assert both.startswith("faiss-cpu and faiss-gpu-cuvs are installed and share a folder")


def test_builds_of_one_version_are_the_same():
    cpu = replace(DRIVER, versions={**DRIVER.versions, "torch": "2.13.0+cpu"})
    node = Node("n", "10.0.0.2", 1.0, 0.0, replace(cpu, versions={**cpu.versions}))
    cuda = {**cpu.versions, "torch": "2.13.0+cu130"}
    assert node_failures(replace(node, facts=replace(cpu, versions=cuda)), cpu, "/root") == []


def test_a_cpu_build_of_faiss_and_slow_links_between_gpus_are_remarks():
    node = Node("n", "10.0.0.2", 1.0, 2.0, replace(DRIVER, gpus=2), nccl=1.26)
    assert node_failures(node, DRIVER, "/root") == []
    assert [line.removeprefix("n (10.0.0.2): ") for line in node_remarks(node)] == [
        "faiss sees no GPU: an ETL there searches on CPUs (training needs no faiss)",
        "NCCL sums 1.3 GB/s between the GPUs: NVLink has 100 or more and InfiniBand 20 "
        "(docs/cluster.md, GPUs)",
    ]
    with_faiss = replace(node, facts=replace(DRIVER, gpus=2, faiss_gpus=2))
    for fast in (None, 0.0, 300.0):
        assert node_remarks(replace(with_faiss, nccl=fast)) == []


def test_a_failure_of_nccl():
    node = Node("n", "10.0.0.2", 1.0, 2.0, replace(DRIVER, gpus=2), nccl="unhandled system error")
    [line] = node_failures(node, DRIVER, "/root")
    assert line.startswith(
        "n (10.0.0.2): no all-reduce between the GPUs by NCCL (unhandled system error): set NCCL_D"
    )


def test_the_bandwidth_of_an_all_reduce():
    """By gloo, as this code runs without GPUs too."""
    store, port = reach.open_store(2)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        ranks = [
            pool.submit(reach.measure_all_reduce, "127.0.0.1", port, rank, 2, 30.0, "gloo", 1 << 20)
            for rank in range(2)
        ]
        rates = [rank.result() for rank in ranks]
    assert store and all(isinstance(rate, float) and 0 < rate < 1000 for rate in rates), rates


def test_a_rank_whose_peer_does_not_come_says_so():
    _store, port = reach.open_store(2)
    found = reach.measure_all_reduce("127.0.0.1", port, 0, 2, 1.0, "gloo", 1 << 10)
    assert isinstance(found, str) and "\n" not in found and found


@pytest.mark.slow
@pytest.mark.ray
def test_every_gpu_that_is_free_takes_part_in_an_all_reduce(monkeypatch, caplog):
    monkeypatch.setattr(preflight, "GPU_BACKEND", "gloo")
    monkeypatch.setattr(preflight, "GPU_SUM_BYTES", 1 << 20)
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False)
    try:
        [key] = preflight._alive_nodes()
        for number, gpus in enumerate([2, 1]):  # torch sees both, then one of the two
            node = replace(preflight._alive_nodes()[key], facts=replace(DRIVER, gpus=gpus))
            [found] = preflight._with_nccl({key: node}).values()
            assert found.nccl is None if number else 0 < found.nccl < 1000
        held = ray.remote(num_gpus=1)(_Holder).remote()
        ray.get(held.__ray_ready__.remote())
        node = replace(node, facts=replace(DRIVER, gpus=2))
        while ray.available_resources().get("GPU", 0) > 1:
            time.sleep(0.1)
        assert preflight._with_nccl({key: node}) == {key: node}
        messages = [record.message for record in caplog.records if record.name == "cluster"]
        assert messages == ["NCCL is not checked: of 2 GPUs only 1 are free"]
    finally:
        ray.shutdown()


class _Holder:
    """An actor of another job."""


def test_too_little_disk_space_and_shared_memory():
    assert failures(free={"/root": GIB // 2, "/tmp": 2 * GIB}, shared_memory=64 << 20) == [
        "0.5 GiB free at /root: make room for 1 GiB",
        "/dev/shm has 64 MiB: give the container 512 MiB or more (--shm-size)",
    ]


def test_an_unusable_root_and_a_failed_all_reduce():
    assert [line.split(":")[0] for line in failures(root="cannot be used", all_reduce="late")] == [
        "root /root cannot be used",
        "no all-reduce with the other nodes (late)",
    ]


def test_another_mode_of_authentication():
    assert failures(auth="disabled") == [
        "RAY_AUTH_MODE is disabled, the driver's is token: use the same"
    ]


def test_a_node_that_does_not_answer_is_one_line():
    [line] = node_failures(Node("n", "10.0.0.2", 1.0, 0.0, no_answer="too late"), DRIVER, "/root")
    assert line == "n (10.0.0.2): did not answer: too late: see its log, or remove the node"


def test_a_root_is_shared_if_driver_and_node_read_each_others_marker(tmp_path):
    shared = reach.SharedRoot(str(tmp_path / "root"))
    shared.write_marker()
    assert shared.check_from_node("node") == "" == shared.check_from_driver("node")
    assert (
        shared.check_from_driver("other") == "does not show the driver the file that the node wrote"
    )
    shared.delete()
    assert list((tmp_path / "root").iterdir()) == []
    assert shared.check_from_node("node") == "does not contain the file that the driver wrote"
    (tmp_path / "file").write_text("")
    not_a_folder = reach.SharedRoot(str(tmp_path / "file"))
    assert not_a_folder.check_from_node("node").startswith("cannot be used: ")


def test_facts_of_this_machine():
    facts = collect_facts("s3://bucket/root")
    assert facts.missing == () and facts.versions.keys() == {"python", *PACKAGES}
    assert list(facts.free) == ["/tmp"] and facts.free["/tmp"] > 0 < facts.shared_memory


@pytest.mark.slow
@pytest.mark.ray
def test_the_preflight_of_a_single_machine(tmp_path):
    experiment = experiment_from(
        {
            "name": "a",
            "root": str(tmp_path / "root"),
            "input": {"edition": "2018", "reviews": ["x.json"]},
            "train": {"num_workers": 1000},
        },
        source="test",
    )
    found = check_cluster(experiment)
    assert len(found.nodes) == 1 and found.table().splitlines()[-1].endswith("yes      -")
    assert [line for line in found.failures if "train.num_workers" in line] == list(found.failures)
    assert list((tmp_path / "root").iterdir()) == []
