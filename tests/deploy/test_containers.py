"""Container files and manifests, read without a container engine: they parse, fit together, name what there is."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from deepserve.catalog.providers import load_providers
from deepserve.cli import main
from deepserve.config import Settings
from deepserve.configuration.configuration import load_configuration
from deepserve.configuration.declarations import settings_of
from deepserve.configuration.environment import read_environment
from deepserve.server.protocol import _ALWAYS_ANSWERED

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())  # Any: YAML
KUBERNETES = DEPLOY / "kubernetes"
PATHS = {path.decode() for path in _ALWAYS_ANSWERED}
USER_ID = 10001


def manifest(name: str) -> dict[str, Any]:  # Any: YAML
    (document,) = yaml.safe_load_all((KUBERNETES / f"{name}.yaml").read_text())
    assert isinstance(document, dict)
    return document


DEPLOYMENT = manifest("deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


# The image


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its arguments, continued lines joined."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in found]


KNOWN = {
    "FROM",
    "RUN",
    "WORKDIR",
    "COPY",
    "ENV",
    "USER",
    "VOLUME",
    "EXPOSE",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
}


def arguments(name: str) -> list[str]:
    return [text for instruction, text in instructions() if instruction == name]


def image_environment() -> dict[str, str]:
    """Of the image that runs: what is set behind the last FROM."""
    last = max(number for number, (name, _) in enumerate(instructions()) if name == "FROM")
    words = [word for name, text in instructions()[last:] if name == "ENV" for word in shlex.split(text)]
    return dict(word.split("=", 1) for word in words)


def test_the_image_is_made_of_instructions_that_there_are() -> None:
    assert {name for name, _ in instructions()} <= KNOWN
    assert arguments("FROM")[0].endswith("AS build")
    for text in arguments("RUN"):
        assert shlex.split(text), text
    for base in arguments("FROM"):
        assert ":" in base
        assert not base.split()[0].endswith("latest"), "a tag that moves"


def test_the_image_copies_what_is_there_and_what_the_build_may_see() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    shown = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied: set[str] = set()
    for text in arguments("COPY"):
        if not text.startswith("--from="):
            copied |= set(shlex.split(text)[:-1])
    assert copied == shown
    assert all((ROOT / name).exists() for name in copied)
    # What the build needs of the project, as its own description says.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied


def test_the_image_installs_extras_that_there_are() -> None:
    (install,) = re.findall(r'pip install --no-cache-dir "\.\[([a-z0-9,]+)\]"', " ".join(arguments("RUN")))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(install.split(",")) <= extras.keys()
    assert "postgres" in install


def test_the_image_runs_as_nobody_special_and_starts_the_server() -> None:
    assert arguments("USER") == [f"{USER_ID}:{USER_ID}"]
    assert f"--uid {USER_ID}" in " ".join(arguments("RUN"))
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(number for number, name in enumerate(names) if name in ("RUN", "COPY"))
    (entry,) = yaml.safe_load(arguments("ENTRYPOINT")[-1])
    (command,) = yaml.safe_load(arguments("CMD")[-1])
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entry in scripts
    assert isinstance(main, click.Group)
    assert command in main.list_commands(click.Context(main))


def test_the_image_keeps_its_state_in_its_volume_and_listens_where_it_says() -> None:
    environment = image_environment()
    settings = read_environment(environment).values
    assert arguments("VOLUME") == [str(settings["state_dir"])]
    assert arguments("EXPOSE") == [str(settings["port"])]
    assert settings["host"] == "0.0.0.0"


def test_the_images_health_is_asked_where_the_server_tells_it() -> None:
    (check,) = arguments("HEALTHCHECK")
    (program,) = re.findall(r"CMD (\[.*\])", check)
    python, dash_c, code = yaml.safe_load(program)
    assert (python, dash_c) == ("python", "-c")
    compile(code, "healthcheck", "exec")
    (port, path) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", code)[0]
    assert port == image_environment()["DEEPSERVE_PORT"]
    assert path in PATHS


# What is set


def settings_from(environment: Mapping[str, str], folder: Path) -> Settings:
    """As the server reads it, with the files of the container in a folder of the test."""
    found = {**image_environment(), **environment}
    moved = {}
    for name, value in found.items():
        if value.startswith("/"):
            place = folder / value.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if name == "DEEPSERVE_UPSTREAM_TOKENIZER":
                place.mkdir(exist_ok=True)
            elif name.endswith("_FILE"):
                place.write_text("0123456789abcdef0123456789abcdef\n")
                place.chmod(0o600)
            value = str(place)
        moved[name] = value
    # No file of whoever runs the tests has a say.
    configuration = load_configuration(environment=moved, directory=folder / "none")
    assert not configuration.notes
    return configuration.settings


def compose_environment() -> dict[str, str]:
    values = COMPOSE["services"]["gateway"]["environment"]
    assert all(isinstance(value, str) for value in values.values()), "YAML must not read a setting as a number"
    return {name: re.sub(r"\$\{\w+:\?[^}]*\}", "from-outside", value) for name, value in values.items()}


def kubernetes_environment() -> dict[str, str]:
    return {entry["name"]: entry.get("value", "from-a-secret") for entry in CONTAINER["env"]}


ENVIRONMENTS = {"compose": compose_environment(), "kubernetes": kubernetes_environment()}


@pytest.mark.parametrize("place", ENVIRONMENTS)
def test_every_variable_is_a_setting_or_somebody_elses(place: str) -> None:
    environment = ENVIRONMENTS[place]
    # Files and folders are in the container only.
    here = {name: value for name, value in environment.items() if not value.startswith("/")}
    read = read_environment(here)
    ours = [name for name in here if name.startswith("DEEPSERVE_")]
    known = {setting.variable for setting in settings_of()}
    assert {name for name in environment if name.startswith("DEEPSERVE_")} <= known
    assert len(read.values) == len(ours)
    assert read.strange == ()
    others = {name for name in environment if not name.startswith("DEEPSERVE_")}
    keys = {provider.key_variable for provider in load_providers().values()}
    assert others <= keys | {"PGPASSWORD"}


@pytest.mark.parametrize("place", ENVIRONMENTS)
def test_the_server_takes_what_is_set(place: str, tmp_path: Path) -> None:
    settings = settings_from(ENVIRONMENTS[place], tmp_path)
    assert settings.backend == "upstream"
    assert settings.database == "postgresql://deepserve@postgres/deepserve"
    assert settings.secret_file is not None
    assert settings.api_keys
    assert settings.host == "0.0.0.0"


# Compose


def test_compose_runs_two_gateways_behind_a_proxy_on_one_database() -> None:
    services = COMPOSE["services"]
    assert services.keys() == {"gateway", "proxy", "postgres"}
    gateway = services["gateway"]
    assert gateway["deploy"]["replicas"] == 2
    assert "ports" not in gateway
    assert gateway["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert "healthcheck" in services["postgres"]
    assert (DEPLOY / gateway["build"]["context"] / gateway["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    for port in services["proxy"]["ports"]:
        assert port.startswith("127.0.0.1:"), "keys travel without TLS"


def test_composes_names_belong_together() -> None:
    services = COMPOSE["services"]
    gateway = services["gateway"]
    assert set(gateway["secrets"]) == COMPOSE["secrets"].keys()
    named = {
        value.removeprefix("/run/secrets/")
        for value in gateway["environment"].values()
        if value.startswith("/run/secrets/")
    }
    assert named == set(gateway["secrets"])
    mounted = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert {name for name in mounted if not name.startswith(".")} == COMPOSE["volumes"].keys()
    assert gateway["volumes"] == [f"state:{image_environment()['DEEPSERVE_STATE_DIR']}"]
    postgres = services["postgres"]["environment"]
    assert gateway["environment"]["DEEPSERVE_DATABASE"] == (
        f"postgresql://{postgres['POSTGRES_USER']}@postgres/{postgres['POSTGRES_DB']}"
    )
    assert gateway["environment"]["PGPASSWORD"] == postgres["POSTGRES_PASSWORD"]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_gateways_are_given_the_time_to_finish_that_they_take() -> None:
    gateway = COMPOSE["services"]["gateway"]
    assert seconds(gateway["stop_grace_period"]) > float(gateway["environment"]["DEEPSERVE_SHUTDOWN_GRACE_S"])
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    grace_s = float(kubernetes_environment()["DEEPSERVE_SHUTDOWN_GRACE_S"])
    assert POD["terminationGracePeriodSeconds"] > pause + grace_s


def test_the_proxy_leads_to_the_gateways_and_holds_no_stream_back() -> None:
    text = (DEPLOY / "Caddyfile").read_text()
    assert text.count("{") == text.count("}")
    assert f"dynamic a gateway {image_environment()['DEEPSERVE_PORT']}" in text
    assert "flush_interval -1" in text
    (listens,) = re.findall(r"^:(\d+) \{", text, re.MULTILINE)
    assert COMPOSE["services"]["proxy"]["ports"][0].endswith(f":{listens}")
    assert "./Caddyfile:/etc/caddy/Caddyfile:ro" in COMPOSE["services"]["proxy"]["volumes"]


# Kubernetes


API_VERSIONS = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "PersistentVolumeClaim": "v1",
    "PodDisruptionBudget": "policy/v1",
    "Secret": "v1",
    "Kustomization": "kustomize.config.k8s.io/v1beta1",
}


def documents() -> Iterator[dict[str, Any]]:  # Any: YAML
    for path in sorted(KUBERNETES.glob("*.yaml")):
        yield manifest(path.stem)


def test_every_manifest_is_of_a_kind_and_version_that_there_is() -> None:
    found = {document["kind"]: document["apiVersion"] for document in documents()}
    assert found == API_VERSIONS


def test_all_manifests_are_applied_but_the_secrets_example() -> None:
    listed = set(manifest("kustomization")["resources"])
    there = {path.name for path in KUBERNETES.glob("*.yaml")}
    assert listed == there - {"kustomization.yaml", "secret.example.yaml"}
    (image,) = manifest("kustomization")["images"]
    assert image["name"] == CONTAINER["image"]
    assert image["newTag"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_labels_lead_everybody_to_the_gateways() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert manifest("service")["spec"]["selector"] == labels
    assert manifest("disruption")["spec"]["selector"]["matchLabels"] == labels
    assert 0 < manifest("disruption")["spec"]["minAvailable"] < DEPLOYMENT["spec"]["replicas"]


def test_ports_and_probes_are_the_servers() -> None:
    (port,) = CONTAINER["ports"]
    assert str(port["containerPort"]) == image_environment()["DEEPSERVE_PORT"]
    (service_port,) = manifest("service")["spec"]["ports"]
    assert service_port["targetPort"] == port["name"]
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert {probe["path"] for probe in probes.values()} <= PATHS
    assert (probes["readiness"]["path"], probes["liveness"]["path"]) == ("/ready", "/health")


def test_volumes_and_secrets_are_those_that_are_declared() -> None:
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == manifest("state")["metadata"]["name"]
    assert mounts["state"] == image_environment()["DEEPSERVE_STATE_DIR"]
    example = manifest("secret.example")
    secret = volumes["secrets"]["secret"]
    assert secret["secretName"] == example["metadata"]["name"]
    keys = {item["key"] for item in secret["items"]}
    used = {entry["valueFrom"]["secretKeyRef"]["key"] for entry in CONTAINER["env"] if "valueFrom" in entry} | keys
    assert used == example["stringData"].keys()
    assert set(example["stringData"].values()) == {"replace-me"}, "no secret is in the repository"
    files = {f"{mounts['secrets']}/{item['path']}" for item in secret["items"]}
    assert files == {value for name, value in kubernetes_environment().items() if name.endswith("_FILE")}


def test_the_pod_may_do_nothing_that_it_need_not() -> None:
    context, own = POD["securityContext"], CONTAINER["securityContext"]
    assert context["runAsNonRoot"] is True
    assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {USER_ID}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False
