"""deploy/kubernetes: every overlay merges, each object holds to Kubernetes's schema (strict) or, where it is of a custom
kind, to the keys that its documentation names; and commands, ports, probes and names agree with each other and with the
programs.

    kubernetes_test.py BIN_FOLDER
"""
import pathlib
import re
import shutil
import sys
import tempfile

import kubernetes_validate
import yaml

import kustomize
from deploy_files import DEPLOY, Failures, SERVICES, drain_seconds, make_certificates, on_this_machine, run

KUBERNETES = DEPLOY / "kubernetes"
VERSION = "1.32"
OVERLAYS = ("overlays/cpu-demo", "overlays/a100", "overlays/a100-keda")
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
# Custom kinds: the keys of spec, a value None for any. "+" marks what must be there.
CUSTOM = {
    "ScaledObject": {"+scaleTargetRef": {"+name": None}, "minReplicaCount": None, "maxReplicaCount": None,
                     "pollingInterval": None, "cooldownPeriod": None,
                     "+triggers": [{"+type": None, "+metadata": {"+serverAddress": None, "+query": None, "+threshold": None}}]},
    "ServiceMonitor": {"jobLabel": None, "+selector": {"matchLabels": None, "matchExpressions": None},
                       "+endpoints": [{"+port": None, "interval": None, "scrapeTimeout": None}]},
    "PrometheusRule": {"+groups": [{"+name": None, "+rules": [{"record": None, "alert": None, "+expr": None, "for": None,
                                                               "labels": None, "annotations": None}]}]},
}


def check_shape(value, shape, where, failures):
    if shape is None:
        return
    if isinstance(shape, list):
        if failures.check(isinstance(value, list) and value, f"{where}: expected a list"):
            for i, item in enumerate(value):
                check_shape(item, shape[0], f"{where}[{i}]", failures)
        return
    if not failures.check(isinstance(value, dict), f"{where}: expected keys"):
        return
    known = {k.lstrip("+"): v for k, v in shape.items()}
    for key in value:
        failures.check(key in known, f"{where}: unknown key {key}")
    for key in shape:
        failures.check(not key.startswith("+") or key[1:] in value, f"{where}: {key[1:]} is missing")
    for key in value:
        check_shape(value[key], known.get(key), f"{where}.{key}", failures)


def check_schemas(where, documents, failures):
    for document in documents:
        what = f"{where}: {document['kind']} {document['metadata']['name']}"
        if document["kind"] in CUSTOM:
            check_shape(document["spec"], CUSTOM[document["kind"]], what, failures)
            continue
        try:
            kubernetes_validate.validate(document, VERSION, strict=True)
            failures.check(True, "")
        except Exception as error:  # whatever the validator says is a failure
            failures.check(False, f"{what}: {str(error)[:500]}")


def workloads(documents):
    return {d["metadata"]["labels"][COMPONENT]: d for d in documents
            if d["kind"] in ("StatefulSet", "Deployment", "Job")}


def substitute(argument, environment):
    return re.sub(r"\$\(([A-Z_]+)\)", lambda m: environment[m[1]], argument)


def environment_of(container, documents):
    environment = {"POD_IP": "127.0.0.1", "RANK": "0"}
    for source in container.get("envFrom", []):
        for d in documents:
            if d["kind"] == "ConfigMap" and d["metadata"]["name"] == source["configMapRef"]["name"]:
                environment.update(d["data"])
    environment.update({e["name"]: e["value"] for e in container.get("env", []) if "value" in e})
    return environment


def check_workload(where, component, workload, documents, bin_folder, secrets, failures):
    where = f"{where}: {component}"
    pod = workload["spec"]["template"]["spec"]
    container, = pod["containers"]
    environment = environment_of(container, documents)
    arguments = [substitute(a, environment) for a in container["args"]]
    local = [on_this_machine(a, secrets) for a in arguments]
    status, out = run(bin_folder / f"crescendo-{component}", *local, "--dry-run")
    # The arguments were taken when all that it misses is the model or the data set, which no checkout has.
    misses = status == 2 and ("models/" in out or "shared/data" in out)
    failures.check(status == 0 or misses, f"{where}: {' '.join(local)} --dry-run: {out}")
    flags = dict(a[2:].split("=", 1) for a in arguments)
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    failures.check(flags[f"network.{component}"].endswith(f":{ports['grpc']}"), f"{where}: port grpc {ports}")
    failures.check(flags["network.metrics"].endswith(f":{ports['metrics']}"), f"{where}: port metrics {ports}")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        command = [substitute(a, environment) for a in container[probe]["exec"]["command"]]
        failures.check(command[:2] == ["crescendo-probe", component], f"{where}: {probe} {command}")
        failures.check(command[2].endswith(f":{ports['grpc']}"), f"{where}: {probe} asks {command[2]}")
        status, out = run(bin_folder / "crescendo-probe", component, "127.0.0.1:1",
                          *[on_this_machine(a, secrets) for a in command[3:]])
        failures.check(status == 1 and "127.0.0.1:1" in out, f"{where}: {probe}: {status} {out}")
    drain = drain_seconds(flags, DEPLOY / "recipes" / pathlib.Path(environment["RECIPE"]).name) if component == "rollout" else 0.0
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    failures.check(pod["terminationGracePeriodSeconds"] >= pause + drain + 10,
                   f"{where}: {pod['terminationGracePeriodSeconds']} s of grace for {pause} + {drain} s")
    context = container["securityContext"]
    failures.check(context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"] and
                   pod["securityContext"]["runAsNonRoot"], f"{where}: security context")
    volumes = {v["name"] for v in pod["volumes"]} | {c["metadata"]["name"]
                                                     for c in workload["spec"].get("volumeClaimTemplates", [])}
    failures.check({m["name"] for m in container["volumeMounts"]} == volumes, f"{where}: volumes {volumes}")
    claims = {d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"} | {"crescendo-data"}
    for volume in pod["volumes"]:
        claim = volume.get("persistentVolumeClaim")
        failures.check(claim is None or claim["claimName"] in claims, f"{where}: claim of {volume}")
    failures.check("requests" in container["resources"] and "memory" in container["resources"]["limits"],
                   f"{where}: resources")


def check_names(where, documents, failures):
    """Services reach pods, and addresses, autoscalers, budgets and policies name what is there."""
    loads = workloads(documents)
    failures.check(set(loads) == set(SERVICES), f"{where}: workloads {set(loads)}")
    services = {d["metadata"]["name"]: d for d in documents if d["kind"] == "Service"}
    for name, service in services.items():
        selector = {k: v for k, v in service["spec"]["selector"].items() if not k.startswith("batch.")}
        reached = [c for c, w in loads.items() if selector.items() <= w["spec"]["template"]["metadata"]["labels"].items()]
        if not failures.check(len(reached) == 1, f"{where}: service {name} selects {reached}"):
            continue
        container, = loads[reached[0]]["spec"]["template"]["spec"]["containers"]
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        for port in service["spec"]["ports"]:
            failures.check(ports.get(port["targetPort"]) == port["port"], f"{where}: service {name} port {port}")
    for component, workload in loads.items():
        container, = workload["spec"]["template"]["spec"]["containers"]
        for argument in container["args"]:
            match = re.fullmatch(r"--network\.\w+=(crescendo-[a-z-]+):(\d+)", argument)
            if match:
                ports = [p["port"] for p in services.get(match[1], {"spec": {"ports": []}})["spec"]["ports"]]
                failures.check(int(match[2]) in ports, f"{where}: {component} {argument}")
        rendezvous = {e["name"]: e.get("value") for e in container.get("env", [])}
        if component == "learner":
            job = workload["spec"]
            host, domain = rendezvous["MASTER_ADDR"].split(".")
            failures.check(host == workload["metadata"]["name"] + "-0" and domain in services and
                           domain == job["template"]["spec"]["subdomain"], f"{where}: rendezvous {rendezvous}")
            size = [d for d in documents if d["kind"] == "ConfigMap"][0]["data"]["WORLD_SIZE"]
            budget = [d for d in documents if d["kind"] == "PodDisruptionBudget" and d["metadata"]["name"] == "crescendo-learner"]
            failures.check(job["completions"] == job["parallelism"] == int(size) == budget[0]["spec"]["minAvailable"],
                           f"{where}: ranks {job['completions']} {size}")
            failures.check(int(rendezvous["MASTER_PORT"]) in [p["containerPort"] for p in container["ports"]],
                           f"{where}: rendezvous port")
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for d in [d for d in documents if d["kind"] == kind]:
            target = d["spec"]["scaleTargetRef"]["name"]
            failures.check(target in [w["metadata"]["name"] for w in loads.values()], f"{where}: {kind} scales {target}")
    for component in SERVICES:
        for kind in ("PodDisruptionBudget", "NetworkPolicy"):
            failures.check(any(d["kind"] == kind and d["metadata"]["name"] == f"crescendo-{component}" for d in documents),
                           f"{where}: no {kind} of {component}")


def check_policies(where, documents, failures):
    """A policy lets in on ports that the pod has, and lets out what its arguments call."""
    loads = workloads(documents)
    ports = {c: [p["containerPort"] for p in w["spec"]["template"]["spec"]["containers"][0]["ports"]]
             for c, w in loads.items()}
    for policy in [d for d in documents if d["kind"] == "NetworkPolicy"]:
        component = policy["spec"]["podSelector"]["matchLabels"][COMPONENT]
        for rule in policy["spec"]["ingress"]:
            for port in rule.get("ports", []):
                failures.check(port["port"] in ports[component], f"{where}: policy of {component} port {port}")
        out = {}
        for rule in policy["spec"]["egress"]:
            for peer in rule["to"]:
                out[peer["podSelector"]["matchLabels"].get(COMPONENT)] = [p["port"] for p in rule.get("ports", [])]
        called = {"coordinator": [], "learner": ["coordinator"], "reward": [],
                  "rollout": ["coordinator", "learner", "reward", "rollout"]}[component]
        for peer in called:
            failures.check(ports[peer][0] in out.get(peer, []), f"{where}: {component} may not call {peer}")


def check_against_kubectl(where, documents, folder, failures):
    """Where kubectl is there, it merges to the same."""
    if shutil.which("kubectl") is None:
        return
    status, out = run("kubectl", "kustomize", folder)
    if not failures.check(status == 0, f"{where}: kubectl kustomize: {out[:500]}"):
        return
    key = lambda d: (d["kind"], d["metadata"]["name"])
    theirs = sorted((d for d in yaml.safe_load_all(out) if d), key=key)
    failures.check(sorted(documents, key=key) == theirs, f"{where}: kubectl merges to something else")


def main():
    failures = Failures()
    bin_folder = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        secrets = make_certificates(bin_folder, pathlib.Path(folder) / "all")
        for overlay in OVERLAYS:
            documents = kustomize.build(KUBERNETES / overlay)
            check_schemas(overlay, documents, failures)
            check_names(overlay, documents, failures)
            check_policies(overlay, documents, failures)
            check_against_kubectl(overlay, documents, KUBERNETES / overlay, failures)
            for component, workload in workloads(documents).items():
                check_workload(overlay, component, workload, documents, bin_folder, secrets, failures)
    monitoring = kustomize.build(KUBERNETES / "components/monitoring")
    check_schemas("monitoring", monitoring, failures)
    # The schema is alive: it refuses what is wrong.
    broken = kustomize.build(KUBERNETES / "overlays/cpu-demo")
    job = [d for d in broken if d["kind"] == "Job"][0]
    job["spec"]["completion"] = 3
    refused = Failures()
    check_schemas("broken", [job], refused)
    failures.check(refused.lines, "the validator takes an unknown key")
    failures.end("kubernetes")


main()
