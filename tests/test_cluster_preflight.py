"""Each thing that is wrong with a node is a line of its own, with its remedy."""

from dataclasses import replace

import pytest

from cluster import reach
from cluster.findings import GIB, Node, failures_of
from cluster.node import PACKAGES, Facts, facts
from cluster.preflight import look
from mdsrec.config.loading import experiment_from

DRIVER = Facts(
    versions={"python": "3.11.7", **dict.fromkeys(PACKAGES, "1.0")},
    missing=(),
    faiss=("faiss-cpu",),
    gpus=0,
    faiss_gpus=0,
    free={"/root": 10 * GIB, "/tmp": 10 * GIB},
    shared_memory=GIB,
    auth="token",
)


def found(lent=0.0, root="", collective="", **other):
    node = Node("n", "10.0.0.2", 1.0, lent, replace(DRIVER, **other), "", root, collective)
    lines = failures_of(node, DRIVER, "/root")
    assert all(line.startswith("n (10.0.0.2): ") and "\n" not in line for line in lines)
    return [line.removeprefix("n (10.0.0.2): ") for line in lines]


def test_a_node_like_the_driver_has_no_failure():
    assert found() == []


def test_another_version_and_a_missing_package():
    assert found(versions={**DRIVER.versions, "torch": "2.0", "python": "3.12.1"}) == [
        "python 3.12.1, the driver has 3.11.7: install the same on every node",
        "torch 2.0, the driver has 1.0: install the same on every node",
    ]
    why = "ModuleNotFoundError: No module named 'faiss'"
    assert found(versions={**DRIVER.versions, "faiss": why}, missing=("faiss",)) == [
        f"faiss cannot be imported ({why}): install it there"
    ]


def test_gpus_that_are_lent_are_seen_by_torch_and_by_faiss():
    assert found(lent=2.0, gpus=2, faiss_gpus=2, faiss=("faiss-gpu",)) == []
    assert found(lent=2.0, gpus=1) == [
        "lends 2 GPUs, torch sees 1: check driver and CUDA build of torch",
        "faiss sees no GPU: install faiss-gpu in place of faiss-cpu",
    ]
    [both] = found(faiss=("faiss-cpu", "faiss-gpu"))
    assert both.startswith("faiss-cpu and faiss-gpu are both installed")


def test_too_little_room_and_shared_memory():
    assert found(free={"/root": GIB // 2, "/tmp": 2 * GIB}, shared_memory=64 << 20) == [
        "0.5 GiB free at /root: make room for 1 GiB",
        "/dev/shm has 64 MiB: give the container 512 MiB or more (--shm-size)",
    ]


def test_a_private_root_and_a_node_that_others_do_not_reach():
    assert [line.split(":")[0] for line in found(root="cannot be used", collective="late")] == [
        "root /root cannot be used",
        "no all-reduce with the other nodes (late)",
    ]


def test_another_mode_of_authentication():
    assert found(auth="disabled") == [
        "RAY_AUTH_MODE is disabled, the driver's is token: set the same"
    ]


def test_a_node_that_does_not_answer_is_one_line():
    [line] = failures_of(Node("n", "10.0.0.2", 1.0, 0.0, silence="too late"), DRIVER, "/root")
    assert line == "n (10.0.0.2): did not answer: too late: see its log, or take it out"


def test_a_root_is_shared_if_each_reads_what_the_other_wrote(tmp_path):
    shared = reach.SharedRoot(str(tmp_path / "root"))
    shared.say()
    assert shared.answer("node") == "" == shared.unheard("node")
    assert shared.unheard("other") == "does not show what the node wrote there"
    shared.forget()
    assert list((tmp_path / "root").iterdir()) == []
    assert shared.answer("node") == "does not hold what the driver wrote there"
    (tmp_path / "file").write_text("")
    assert reach.SharedRoot(str(tmp_path / "file")).answer("node").startswith("cannot be used: ")


def test_facts_of_this_machine():
    seen = facts("s3://bucket/root")
    assert seen.missing == () and seen.versions.keys() == {"python", *PACKAGES}
    assert list(seen.free) == ["/tmp"] and seen.free["/tmp"] > 0 < seen.shared_memory


@pytest.mark.slow
@pytest.mark.ray
def test_a_machine_alone_is_its_own_cluster(tmp_path):
    experiment = experiment_from(
        {
            "name": "a",
            "root": str(tmp_path / "root"),
            "input": {"edition": "2018", "reviews": ["x.json"]},
            "train": {"num_workers": 1000},
        },
        source="test",
    )
    seen = look(experiment)
    assert len(seen.nodes) == 1 and seen.table().splitlines()[-1].endswith("yes")
    assert [line for line in seen.failures if "train.num_workers" in line] == list(seen.failures)
    assert list((tmp_path / "root").iterdir()) == []
