"""The Helm chart, by helm itself: what it renders is valid, and says what the service takes."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import yaml

from consumer import runtime
from consumer.config.settings import ServiceSettings, load_settings
from deploy.sizing import Load, size
from tests.deploy import rendered
from tests.deploy.schemas import KUBERNETES, locations, mistakes
from tests.deploy.tools import CHART, ROOT, passes, run

SECRETS = (
    "VIRNUCPRO_KAFKA_SASL_PASSWORD",
    "VIRNUCPRO_KAFKA_SSL_KEY_PASSWORD",
    "VIRNUCPRO_KAFKA_SSL_KEYSTORE_PASSWORD",
    "VIRNUCPRO_KAFKA_SSL_KEY_PEM",
    "VIRNUCPRO_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET",
    "VIRNUCPRO_KAFKA_SASL_OAUTHBEARER_CONFIG",
    "VIRNUCPRO_KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_PASSPHRASE",
    "VIRNUCPRO_SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO",
    "VIRNUCPRO_SCHEMA_REGISTRY_BEARER_AUTH_TOKEN",
    "VIRNUCPRO_SCHEMA_REGISTRY_BEARER_AUTH_CLIENT_SECRET",
    "VIRNUCPRO_SCHEMA_REGISTRY_SSL_KEY_PASSWORD",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
)
MINIMAL = ("--set", "kafka.bootstrapServers=kafka:9092")


@pytest.mark.parametrize("case", rendered.CASES)
def test_lint(case):
    passes("helm", "lint", "--strict", CHART, "--values", rendered.values_file(case))


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", rendered.CASES)
def test_manifests_are_valid_to_the_last_field(case, version, schemas):
    manifests = rendered.template(case)
    assert list(mistakes(manifests, version, schemas)) == []
    passes(
        "kubeconform",
        "-strict",
        "-summary",
        *("-kubernetes-version", f"{version}.0"),
        *locations(schemas),
        stdin=manifests,
    )


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("maxReplicaCount:", "maxReplicas:"), ("terminationGracePeriodSeconds:", "terminationGraceSeconds:")],
)
def test_the_check_of_manifests_would_see_a_misspelt_field(right, wrong, schemas):
    manifests = rendered.template("gpu").replace(right, wrong)
    (mistake,) = mistakes(manifests, "1.33", schemas)
    assert wrong.removesuffix(":") in mistake
    done = run(
        "kubeconform", "-strict", "-kubernetes-version", "1.33.0", *locations(schemas), stdin=manifests
    )
    assert done.returncode != 0
    assert wrong.removesuffix(":") in done.stdout


def test_every_kind_is_rendered_by_some_case():
    kinds = {kind for case in rendered.CASES for kind in rendered.objects(case)}
    assert kinds == {
        *("StatefulSet", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap"),
        *("PodMonitor", "PrometheusRule", "ScaledObject"),
    }


# ---- what the service takes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", rendered.CASES)
def test_the_service_takes_the_variables(case):
    variables = rendered.environment(case)
    settings = load_settings(
        {name: value for name, value in variables.items() if name.startswith("VIRNUCPRO_")}
    )
    assert settings.http_port == rendered.container(case)["ports"][0]["containerPort"]


def test_each_value_reaches_its_setting():
    variables = rendered.environment("gpu")
    settings = load_settings(
        {name: value for name, value in variables.items() if name.startswith("VIRNUCPRO_")}
    )
    assert settings.kafka_bootstrap_servers == "kafka-0.example.org:9093,kafka-1.example.org:9093"
    assert (settings.input_topic, settings.output_topic, settings.dlq_topic) == (
        "reads",
        "reads.predictions",
        "reads.dead",
    )
    assert (settings.group_id, settings.delivery) == ("virnucpro-prod", "exactly_once")
    assert (settings.model, settings.device) == ("/models/virnucpro-500", "cuda")
    assert settings.kafka["session.timeout.ms"] == "45000"
    assert settings.kafka["ssl.ca.location"] == "/etc/virnucpro/tls/ca.crt"
    # Helm reads numbers as floats and writes this one as 1e+06.
    assert (settings.token_budget, settings.divergence_sample) == (1_000_000, 0.01)


@pytest.mark.parametrize("on", [True, False])
def test_one_value_switches_the_attention_path(on):
    variables = rendered.environment("minimal", "--set", f"v1Attention={str(on).lower()}")
    assert load_settings({"VIRNUCPRO_V1_ATTENTION": variables["VIRNUCPRO_V1_ATTENTION"]}).v1_attention is on


@pytest.mark.parametrize("case", rendered.CASES)
def test_a_pod_is_given_the_time_that_a_drain_may_take(case):
    drain = float(rendered.environment(case)["VIRNUCPRO_DRAIN_TIMEOUT_S"])
    assert rendered.pod(case)["terminationGracePeriodSeconds"] > drain + runtime._WATCHDOG_S


@pytest.mark.parametrize(
    ("limit", "threads"), [("500m", "1"), ("1", "1"), ("2500m", "2"), ("2.5", "2"), ("16", "16")]
)
def test_there_are_as_many_threads_as_cores(limit, threads):
    variables = rendered.environment("minimal", "--set-string", f"resources.limits.cpu={limit}")
    assert variables["OMP_NUM_THREADS"] == threads


def test_without_a_limit_there_are_as_many_threads_as_cores_are_requested():
    assert rendered.environment("minimal")["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in rendered.environment("gpu")
    assert "OMP_NUM_THREADS" not in rendered.environment("minimal", "--set", "resources.requests.cpu=null")


def test_a_new_version_of_the_chart_alone_restarts_no_pod():
    labels = rendered.objects("gpu")["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert set(labels) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}


def test_the_start_may_take_as_long_as_the_value_says():
    probe = rendered.container("minimal", "--set", "startupSeconds=601")["startupProbe"]
    assert 601 <= probe["periodSeconds"] * probe["failureThreshold"] < 606


# ---- security, GPU, model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", rendered.CASES)
def test_no_container_may_do_more_than_it_needs(case):
    pod = rendered.pod(case)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_a_gpu_is_asked_for_and_its_taint_tolerated():
    pod, container = rendered.pod("gpu"), rendered.container("gpu")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert [each["key"] for each in pod["tolerations"]] == ["dedicated", "nvidia.com/gpu"]
    assert pod["runtimeClassName"] == "nvidia"
    assert "nvidia.com/gpu" not in rendered.container("minimal")["resources"]["limits"]


def test_an_image_is_named_by_its_digest():
    assert rendered.container("gpu")["image"].endswith("@sha256:" + "0" * 64)
    assert rendered.container("minimal")["image"] == "virnucpro-stream:0.1.0"


def test_a_model_comes_from_the_image_a_claim_or_an_init_container():
    def models(case: str) -> list[dict]:
        return [each for each in rendered.pod(case)["volumes"] if each["name"] == "models"]

    assert models("minimal") == []
    assert models("gpu")[0]["persistentVolumeClaim"] == {"claimName": "bundles", "readOnly": True}
    assert models("init-container")[0]["emptyDir"] == {"sizeLimit": "8Gi"}
    (first,) = rendered.pod("init-container")["initContainers"]
    assert {"name": "models", "mountPath": "/models"} in first["volumeMounts"]
    assert rendered.environment("init-container")["VIRNUCPRO_MODEL"] == "/models/virnucpro-300"


# ---- monitoring and scaling ------------------------------------------------------------------------------------


def test_rules_are_the_releases_own(tmp_path):
    spec = rendered.objects("gpu")["PrometheusRule"]["spec"]
    text = yaml.safe_dump(spec)
    (tmp_path / "rules.yaml").write_text(text)
    passes("promtool", "check", "rules", tmp_path / "rules.yaml")
    rules = [rule for group in spec["groups"] for rule in group["rules"]]
    plain = [
        rule
        for group in yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len(rules) == len(plain) - 1, "one is turned off"
    own = 'namespace="bio", job="test-virnucpro-stream"'
    assert "virnucpro.*" not in text
    assert all(own in rule["expr"] for rule in rules)
    assert f'sha256!="{"1" * 64}"' in text
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert alerts["VirnucproDown"]["annotations"]["runbook_url"] == (
        "https://runbooks.example.org/virnucpro-stream.md#virnucprodown"
    )
    assert "VirnucproSurplus" not in alerts
    assert alerts["VirnucproDeadLetters"]["for"] == "30m"
    assert alerts["VirnucproDeadLetters"]["labels"] == {"severity": "critical"}


def test_the_job_of_the_monitor_is_that_of_the_rules():
    (endpoint,) = rendered.objects("gpu")["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert {"targetLabel": "job", "replacement": "test-virnucpro-stream"} in endpoint["relabelings"]


def test_the_dashboard_is_the_file():
    (text,) = rendered.objects("gpu")["ConfigMap"]["data"].values()
    assert json.loads(text) == json.loads((CHART / "files/dashboard.json").read_text())


def test_scaling_survives_what_transactions_leave_behind():
    everything = rendered.objects("gpu")
    spec = everything["ScaledObject"]["spec"]
    (trigger,) = spec["triggers"]
    assert "replicas" not in everything["StatefulSet"]["spec"]
    assert spec["scaleTargetRef"] == {
        "kind": "StatefulSet",
        "name": everything["StatefulSet"]["metadata"]["name"],
    }
    assert int(trigger["metadata"]["activationLagThreshold"]) >= 12
    assert trigger["metadata"]["lagThreshold"] == "3000000"
    assert trigger["metadata"]["consumerGroup"] == rendered.environment("gpu")["VIRNUCPRO_GROUP_ID"]


def test_scaling_by_the_age_of_the_oldest_record():
    by_seconds = ("autoscaling.enabled=true", "autoscaling.trigger=prometheus")
    spec = rendered.objects("minimal", "--set", ",".join(by_seconds))["ScaledObject"]["spec"]
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["query"] == (
        'max(vnp_consumer_lag_seconds{namespace="bio", job="test-virnucpro-stream"})'
    )
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("Value", "60")


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((), "kafka.bootstrapServers is required"),
        ((*MINIMAL, "--set", "replicas=3"), "replicas"),
        ((*MINIMAL, "--set", "kafka.delivery=twice"), "delivery"),
        ((*MINIMAL, "--set-string", "v1Attention=yes"), "v1Attention"),
        ((*MINIMAL, "--set", "settings.VIRNUCPRO_TOKEN_BUGDET=1"), "VIRNUCPRO_TOKEN_BUGDET"),
        ((*MINIMAL, "--set", "settings.VIRNUCPRO_STATE_DIR=/data"), "VIRNUCPRO_STATE_DIR"),
        ((*MINIMAL, "--set", "nameOverride=UPPER_case"), "nameOverride"),
        ((*MINIMAL, "--set", "fullnameOverride=1st"), "fullnameOverride"),
        (("--set", "kafka.bootstrapServers=a:9092 b:9092"), "bootstrapServers"),
        (("--set", r"kafka.bootstrapServers=a:9092\,b:9093"), "add it to networkPolicy.kafkaPorts"),
        (("--set", "kafka.bootstrapServers=a,networkPolicy.kafkaPorts={9093}"), "has port 9092"),
        ((*MINIMAL, "--set", "settings.VIRNUCPRO_SCHEMA_REGISTRY_URL=http://r:8081"), "networkPolicy.egress"),
        ((*MINIMAL, "--set", "settings.OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318"), "networkPolicy.egress"),
        *(((*MINIMAL, "--set", f"settings.{name}=x"), name) for name in SECRETS),
        (
            (*MINIMAL, "--set", "settings.VIRNUCPRO_SCHEMA_REGISTRY_URL=http://me:word@r:8081"),
            "VIRNUCPRO_SCHEMA_REGISTRY_URL",
        ),
        ((*MINIMAL, "--set", r"kafka.options.sasl\.password=x"), "sasl.password"),
        (
            (*MINIMAL, "--set", "settings.VIRNUCPRO_MODEL=nano"),
            "settings.VIRNUCPRO_MODEL has a value of its own",
        ),
        ((*MINIMAL, "--set", "model.existingClaim=a,model.initContainer.image=b"), "set one of them"),
        ((*MINIMAL, "--set", "kafka.tls.existingSecret=a"), "not encrypted"),
        ((*MINIMAL, "--set", "autoscaling.enabled=true,autoscaling.maxReplicas=5"), "has 4 partitions"),
        ((*MINIMAL, "--set", "autoscaling.enabled=true,autoscaling.activationLagThreshold=1"), "at least 4"),
        ((*MINIMAL, "--set", "autoscaling.enabled=true,autoscaling.lagThreshold=4"), "far above 4"),
        ((*MINIMAL, "--set", "autoscaling.enabled=true,autoscaling.minReplicas=5"), "minReplicas is more"),
        (
            (
                *MINIMAL,
                "--set",
                "autoscaling.enabled=true,autoscaling.trigger=prometheus,autoscaling.minReplicas=0",
            ),
            "without a pod there is no lag",
        ),
        (
            (*MINIMAL, "--set", "prometheusRule.enabled=true,prometheusRule.overrides.VirnucproNone.for=1m"),
            "no alert of that name",
        ),
    ],
)
def test_contradictions_and_slips_are_refused(wrong, message):
    done = run("helm-or-renderer", "template", "test", CHART, "--kube-version", "1.33.0", *wrong)
    assert done.returncode != 0
    assert message in done.stderr


def test_the_settings_that_are_taken_are_those_of_the_service():
    schema = json.loads((CHART / "values.schema.json").read_text())
    ours = {f"VIRNUCPRO_{name.upper()}" for name in ServiceSettings.model_fields}
    # Two stand for the variables of their client; the others are made by the chart and the image.
    ours -= {"VIRNUCPRO_KAFKA", "VIRNUCPRO_SCHEMA_REGISTRY", "VIRNUCPRO_INSTANCE_ID", "VIRNUCPRO_STATE_DIR"}
    assert set(schema["definitions"]["setting"]["enum"]) == ours


@pytest.mark.parametrize("release", ["2024", "1e3", "true", "null"])
def test_a_release_may_have_a_name_that_yaml_takes_for_something_else(release):
    for kind, each in rendered.objects("minimal", "--set", "fullnameOverride=vnp", release=release).items():
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == release, kind


def test_where_pods_may_connect_to_is_not_looked_at_without_a_policy():
    found = rendered.environment(
        "minimal",
        *("--set", "networkPolicy.enabled=false,kafka.bootstrapServers=k:1234"),
        *("--set", "settings.VIRNUCPRO_TRACING=on,settings.OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318"),
    )
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://c:4318"
    assert load_settings({"VIRNUCPRO_TRACING": found["VIRNUCPRO_TRACING"]}).tracing


# ---- the guides ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records_per_s", [1, 20, 5000])
def test_what_the_calculator_gives_is_taken(records_per_s):
    found = size(Load(tokens_per_s=50_000, record_bases=150_000, records_per_s=records_per_s))
    values = {
        "enabled": "true",
        "maxReplicas": found.processes,
        "partitions": found.partitions,
        "lagThreshold": found.lag_threshold,
        "activationLagThreshold": found.activation_lag_threshold,
    }
    sets = [f"--set=autoscaling.{name}={value}" for name, value in values.items()]
    scaled = rendered.objects("minimal", *sets)["ScaledObject"]["spec"]
    assert scaled["maxReplicaCount"] == found.processes
    assert scaled["triggers"][0]["metadata"]["lagThreshold"] == str(found.lag_threshold)


def test_the_commands_of_the_guide_to_upgrades_render():
    guide = (ROOT / "docs/upgrade.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"helm (?:install|upgrade) \S+ deploy/helm/virnucpro-stream ([^`\n]+)", guide)
    assert len(commands) == 3
    for arguments in commands:
        sets = [word for word in shlex.split(arguments) if word != "--reuse-values"]
        passes("helm-or-renderer", "template", "virnucpro", CHART, "--kube-version=1.33.0", *MINIMAL, *sets)
