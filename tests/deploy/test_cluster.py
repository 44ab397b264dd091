"""The chart on a real kube-apiserver: validated by the server, installed, upgraded, rolled back."""

from __future__ import annotations

import json

import pytest

from tests.deploy import rendered
from tests.deploy.tools import CHART


def attention(api_server, name: str = "vnp-virnucpro-stream") -> str:
    pods = json.loads(api_server.kubectl("get", "statefulset", name, "-o", "json"))
    (container,) = pods["spec"]["template"]["spec"]["containers"]
    return next(each["value"] for each in container["env"] if each["name"] == "VIRNUCPRO_V1_ATTENTION")


@pytest.mark.parametrize("case", rendered.CASES)
def test_the_server_takes_it_and_nothing_is_passed_over(api_server, case):
    manifests = rendered.template(case, namespace="default")
    api_server.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", stdin=manifests)


def test_made_and_changed_without_helm(api_server):
    """What other values alter can be altered in place. Helm takes longer to build than the server."""

    def apply(*arguments: str) -> None:
        manifests = rendered.template("gpu", *arguments, release="plain", namespace="default")
        api_server.kubectl("apply", "--validate=strict", "--filename", "-", stdin=manifests)

    apply()
    apply(
        "--set", "v1Attention=true,model.name=other,kafka.groupId=g,kafka.inputTopic=other,startupSeconds=60"
    )
    assert attention(api_server, "plain-virnucpro-stream") == "true"
    apply("--set", "autoscaling.enabled=false,gpu.enabled=false,networkPolicy.scrapers=null")
    assert attention(api_server, "plain-virnucpro-stream") == "false"
    api_server.kubectl(
        "delete", "--filename", "-", stdin=rendered.template("gpu", release="plain", namespace="default")
    )


def test_installed_upgraded_and_rolled_back(api_server):
    chart, values = str(CHART), ("--values", str(rendered.values_file("gpu")))
    api_server.helm("install", "vnp", chart, *values)
    assert attention(api_server) == "false"
    made = api_server.kubectl(
        "get", "-o", "name", "statefulsets,services,podmonitors,prometheusrules,scaledobjects"
    )
    assert len([name for name in made.split() if "vnp" in name]) == 5
    # Nothing that cannot be changed in place is changed.
    api_server.helm(
        "upgrade", "vnp", chart, *values, "--set", "v1Attention=true,model.name=other,kafka.groupId=g"
    )
    assert attention(api_server) == "true"
    api_server.helm("rollback", "vnp", "1")
    assert attention(api_server) == "false"
    api_server.helm("uninstall", "vnp")
    left = api_server.kubectl("get", "-o", "name", "statefulsets,services,configmaps,networkpolicies,pdb")
    assert "vnp" not in left


def test_an_upgrade_with_nothing_changed_changes_nothing(api_server):
    chart, values = str(CHART), ("--values", str(rendered.values_file("minimal")))
    api_server.helm("install", "same", chart, *values)

    def generation() -> str:
        return api_server.kubectl(
            "get", "statefulset", "same-virnucpro-stream", "-o", "jsonpath={.metadata.generation}"
        )

    before = generation()
    api_server.helm("upgrade", "same", chart, *values)
    assert generation() == before
    api_server.helm("uninstall", "same")
