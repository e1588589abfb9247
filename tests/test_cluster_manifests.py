"""Kubernetes manifests, the EC2 file and the image: schemas, versions, security, commands."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr as autoscaling_of,
)
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

import mdsrec
from mdsrec.config.loading import load_experiment

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
FOLDER = CLUSTER / "kubernetes"
MANIFESTS = sorted(path.name for path in FOLDER.glob("*.yaml"))
WITH_SCHEMA = ["raycluster.yaml", "rayjob.yaml", "sparkapplication.yaml", "podmonitor.yaml"]
EXPERIMENT = "/etc/mdsrec/experiment.toml"
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
)


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def document(name: str) -> Any:
    (one,) = documents(name)
    return one


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in nested mappings and lists."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from mappings(inner)


def strict(schema: Any) -> Any:
    """Return a CRD's schema as a JSON Schema that refuses unknown fields, as an API server does."""
    if isinstance(schema, list):
        return [strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: strict(inner) for key, inner in schema.items() if key != "properties"}
    if isinstance(schema.get("properties"), dict):
        found["properties"] = {name: strict(s) for name, s in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    return found


def schema_of(manifest: dict[str, Any]) -> Any:
    """Return the published schema of a manifest's kind.

    MDSREC_CRDS names a folder of CRD files, as `kubectl get crd NAME -o yaml` prints them and the
    operators' charts contain them.
    """
    folder = os.environ.get("MDSREC_CRDS")
    if not folder:
        pytest.skip("MDSREC_CRDS names no folder of CRD files")
    group, version = manifest["apiVersion"].split("/")
    for path in Path(folder).glob("*.yaml"):
        crd = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        if (crd["group"], crd["names"]["kind"]) == (group, manifest["kind"]):
            (schema,) = [v["schema"] for v in crd["versions"] if v["name"] == version]
            return strict(schema["openAPIV3Schema"])
    pytest.fail(f"{folder} has no CRD of {manifest['kind']}")


@pytest.mark.parametrize("name", WITH_SCHEMA)
def test_a_manifest_follows_its_published_schema(name: str) -> None:
    manifest = document(name)
    schema = schema_of(manifest)
    jsonschema.validate(manifest, schema)
    inner = manifest["spec"].get(
        "headGroupSpec", manifest["spec"]
    )  # a nested slip must be found, too
    inner["conatiner"] = {}
    with pytest.raises(jsonschema.ValidationError, match="conatiner"):
        jsonschema.validate(manifest, schema)


def test_the_cluster_of_the_rayjob_equals_the_ray_cluster() -> None:
    assert document("rayjob.yaml")["spec"]["rayClusterSpec"] == document("raycluster.yaml")["spec"]


def test_a_pod_takes_all_gpus_of_a_node_and_the_head_takes_none() -> None:
    config = autoscaling_of(document("raycluster.yaml"))
    validate_config(config)
    gpu = config["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, 2)
    assert gpu["resources"] == {"CPU": 64, "memory": 512 * 2**30, "GPU": 8}
    head = config["available_node_types"]["headgroup"]["resources"]
    assert (head["CPU"], head["GPU"]) == (0, 0)


def test_ray_up_accepts_the_ec2_file() -> None:
    content = yaml.safe_load((CLUSTER / "ray-aws.yaml").read_text())
    config = prepare_config(content)
    validate_config(config)
    assert config["available_node_types"]["gpu"]["resources"] == {"CPU": 192, "GPU": 8}
    assert config["available_node_types"]["head"]["resources"]["GPU"] == 0
    with pytest.raises(jsonschema.ValidationError, match="dokcer"):
        validate_config({**config, "dokcer": {}})


@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_starts_on_ec2_with_the_token_and_its_dashboard_on_loopback(role: str) -> None:
    config = yaml.safe_load((CLUSTER / "ray-aws.yaml").read_text())
    words = shlex.split(config[f"{role}_start_ray_commands"][-1])
    assert words[0] == "RAY_AUTH_MODE=token"
    begin = words.index("ray")
    assert words[begin + 1] == "start"
    options = start.make_context("start", words[begin + 2 :]).params  # raises on an unknown option
    assert options["head"] == (role == "head")
    assert options["dashboard_host"] in ("127.0.0.1", "localhost")
    assert "/home/ray/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("name", [*MANIFESTS, "../ray-aws.yaml"])
def test_images_and_versions_match_the_constraints(name: str) -> None:
    for content in documents(name):
        for found in mappings(content):
            if "image" in found:
                assert re.fullmatch(
                    rf"registry\.example\.com/mdsrec:{re.escape(mdsrec.__version__)}-(cpu|gpu)",
                    found["image"],
                )
            assert found.get("rayVersion", PINS["ray"]) == PINS["ray"]
            assert found.get("sparkVersion", PINS["pyspark"]) == PINS["pyspark"]


def test_the_s3a_package_has_the_version_of_sparks_hadoop() -> None:
    pyspark = pytest.importorskip("pyspark")
    (jar,) = Path(pyspark.__file__).parent.glob("jars/hadoop-client-api-*.jar")
    version = jar.stem.removeprefix("hadoop-client-api-")
    packages = document("sparkapplication.yaml")["spec"]["deps"]["packages"]
    assert packages == [f"org.apache.hadoop:hadoop-aws:{version}"]


@pytest.mark.parametrize("name", [*MANIFESTS, "../ray-aws.yaml"])
def test_no_manifest_contains_a_secret(name: str) -> None:
    assert not re.search(r"AKIA[0-9A-Z]{16}|://[^/\s]*:[^/\s]*@", (FOLDER / name).read_text())
    for content in documents(name):
        assert content.get("kind") != "Secret"
        for found in mappings(content):
            named = str(found.get("name", "")).upper()
            if any(word in named for word in ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY")):
                assert "value" not in found


def pods() -> list[tuple[str, Any]]:
    """Return (file, pod template) of every pod; Spark's driver and executor in the same form."""
    found = [
        (name, inner)
        for name in MANIFESTS
        for content in documents(name)
        for inner in mappings(content)
        if "containers" in inner
    ]
    spark = document("sparkapplication.yaml")["spec"]
    for role in (spark["driver"], spark["executor"]):
        container = {key: role[key] for key in ("securityContext",)}
        pod = {"securityContext": role["podSecurityContext"], "containers": [container]}
        found.append(("sparkapplication.yaml", pod))
    return found


def test_every_pod_follows_the_restricted_pod_security_standard() -> None:
    assert len(pods()) == 2 + 3 + 2
    for name, pod in pods():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] == 1000, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False, name
            assert confined["capabilities"] == {"drop": ["ALL"]}, name
    ray = document("raycluster.yaml")["spec"]
    assert ray["autoscalerOptions"]["securityContext"]["runAsNonRoot"]
    labels = documents("namespace.yaml")[0]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_ray_container_has_probes_limits_and_shared_memory() -> None:
    ray = document("raycluster.yaml")["spec"]
    for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert set(mounts.values()) == set(volumes)


def test_ray_takes_its_token_from_a_secret() -> None:
    options = document("raycluster.yaml")["spec"]["authOptions"]
    assert options == {"mode": "token", "secretName": "mdsrec-ray-token"}


def test_the_jobs_run_the_deployed_experiment() -> None:
    kustomization = document("kustomization.yaml")
    (generated,) = kustomization["configMapGenerator"]
    assert generated == {"name": "mdsrec-experiment", "files": ["experiment.toml"]}
    words = shlex.split(document("rayjob.yaml")["spec"]["entrypoint"])
    assert words == ["python", "-m", "cluster", "run", EXPERIMENT]
    spark = document("sparkapplication.yaml")["spec"]
    program = Path(spark["mainApplicationFile"].removeprefix("local:///opt/mdsrec/"))
    assert (ROOT / program).is_file()
    assert spark["arguments"] == [EXPERIMENT]
    assert (
        spark["sparkConf"]["spark.ui.enabled"] == "true"
    )  # its annotations name the port of this page
    etl = load_experiment(FOLDER / "experiment.toml")
    gpu = document("raycluster.yaml")["spec"]["workerGroupSpecs"][0]
    gpus = gpu["maxReplicas"] * 8
    assert etl.train.num_workers <= gpus and (etl.eval.num_workers or 0) <= gpus
    for name in ("raycluster.yaml", "sparkapplication.yaml"):
        mounted = [m for m in mappings(document(name)) if m.get("mountPath") == "/etc/mdsrec"]
        sources = [v for v in mappings(document(name)) if "configMap" in v]
        assert [m["name"] for m in mounted] == [v["name"] for v in sources] == ["experiment"]
        assert sources[0]["configMap"] == {"name": generated["name"]}


def test_kustomize_lists_files_that_exist() -> None:
    assert all((FOLDER / name).is_file() for name in document("kustomization.yaml")["resources"])


def instructions() -> list[tuple[str, str]]:
    """Return (name, arguments) of the Dockerfile's instructions, continued lines joined."""
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    split = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return [(name, rest) for name, rest in split]


def test_base_images_are_pinned_to_the_same_versions() -> None:
    images = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert images[0] == f"docker.io/apache/spark:{PINS['pyspark']}"
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-bookworm", images[1])
    assert images[2:] == ["base", "base"]
    home = next(rest for name, rest in instructions() if name == "ENV" and "SPARK_HOME" in rest)
    assert "/python3.11/" in home


def test_both_targets_install_with_the_constraints_and_do_not_run_as_root() -> None:
    stages = "".join(f"\n{name} {rest}" for name, rest in instructions()).split("\nFROM ")
    for target, stage in (("cpu", stages[-2]), ("gpu", stages[-1])):
        assert f"AS {target}" in stage and "USER 1000" in stage
        assert f'--constraint constraints.txt ".[{target},demo]"' in stage
    installs = [rest for _, rest in instructions() if "pip install" in rest]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in install for install in installs)
    assert not re.search("https?://", (CLUSTER / "Dockerfile").read_text())


def test_only_a_container_that_is_given_gpus_sees_them() -> None:
    """An image that names them gives a head on a GPU node all of them."""
    gpu = instructions()[-1 - [name for name, _ in instructions()][::-1].index("FROM") :]
    variables = " ".join(rest for name, rest in gpu if name == "ENV")
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True" in variables
    assert "NVIDIA_VISIBLE_DEVICES" not in variables
    docker = yaml.safe_load((CLUSTER / "ray-aws.yaml").read_text())["docker"]
    assert docker["worker_run_options"] == ["--env=NVIDIA_VISIBLE_DEVICES=all"]


def test_torch_may_come_from_an_index_of_its_own() -> None:
    """What it needs does not: PyTorch's index has other versions than the constraints."""
    command = ["make", "--dry-run", "--always-make", ".venv/ready"]
    plain = subprocess.check_output(command, cwd=ROOT, text=True)
    given = subprocess.check_output([*command, "TORCH_INDEX=ADDRESS"], cwd=ROOT, text=True)
    [torch] = [line for line in given.splitlines() if line.endswith(" torch")]
    assert '--no-deps --index-url "ADDRESS" torch' in torch and "-c constraints.txt" in torch
    assert plain == given.replace('--index-url "ADDRESS"', "")
    [installed] = [rest for _, rest in instructions() if rest.endswith(" torch")]
    assert re.search(r'--no-deps +\$\{TORCH_INDEX:\+--index-url "\$TORCH_INDEX"\} torch', installed)


def test_the_image_contains_every_package_and_only_listed_files() -> None:
    first, *others = (CLUSTER / "Dockerfile.dockerignore").read_text().split()
    assert first == "*"
    included = {line.removeprefix("!") for line in others if line.startswith("!")}
    packages = {path.parent.name for path in ROOT.glob("*/__main__.py")} - {"benchmarks"}
    assert packages | {"mdsrec", "configs", "constraints.txt", "pyproject.toml"} <= included
    assert all((ROOT / name).exists() for name in included)
    assert not included & {"data", "artifacts", "shared", ".git", ".venv"}
