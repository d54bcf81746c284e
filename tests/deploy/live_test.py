"""The compose file's services as processes of this machine: its commands (addresses and folders replaced), its secrets
(each process sees the ones that compose gives it and no other), its healthchecks, and Debian's Prometheus with its scrape
jobs. They train the demo's first steps; then every expression of every rule, panel and autoscaler is evaluated: each
returns data, or stands below with the reason why there is none in such a run; and /metrics passes promtool.

    live_test.py BIN_FOLDER [--keep]
"""
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

from deploy_files import (DEPLOY, ROOT, Failures, compose, crescendo_services, load, load_all, make_certificates,
                          on_this_machine, rule_expressions, run)

STEPS = 4
WORKERS = 2
PATIENCE_SECONDS = 240
SETTLE_SECONDS = 30
# Panels that have no data in this run, and why.
EMPTY = {
    "cluster: GPU use": "exported where NVIDIA's library finds a GPU",
    "cluster: GPU memory": "exported where NVIDIA's library finds a GPU",
}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for(what, holds, processes):
    """Polls until holds() says true; fails when a process ends or patience does."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if holds():
            return True
        for name, process in processes.items():
            if process.poll() is not None:
                print(f"{name} ended with status {process.returncode} while waiting for {what}")
                return False
        time.sleep(0.3)
    print(f"waited {PATIENCE_SECONDS} s for {what}")
    return False


class Cluster:
    def __init__(self, bin_folder, folder):
        self.bin, self.folder = bin_folder, folder
        self.processes, self.probes, self.last_probe = {}, {}, ""
        names = ["coordinator", "learner", "reward"] + [f"rollout{i}" for i in range(WORKERS)]
        ports = free_ports(2 * len(names) + 1)
        self.ports = dict(zip(names, ports))
        self.metrics = dict(zip(names, ports[len(names):]))
        self.prometheus_port = ports[-1]
        self.all_secrets = make_certificates(bin_folder, folder / "certs")

    def argument(self, text, instance, component, secrets):
        """An argument of the compose file, with names and ports of this machine."""
        text = on_this_machine(text, secrets)
        text = text.replace("/var/lib/crescendo", str(self.folder / "run" / component))
        text = re.sub(r"^--coordinator\.page=.*", "--coordinator.page=127.0.0.1:0", text)
        match = re.fullmatch(r"--network\.(\w+)=[\w.]+:\d+", text)
        if not match:
            return re.sub(r"^[\w.]+:\d+$", f"127.0.0.1:{self.ports[instance]}", text)
        port = self.metrics[instance] if match[1] == "metrics" else \
            self.ports[instance if match[1] == component else match[1]]
        return f"--network.{match[1]}=127.0.0.1:{port}"

    def start(self, instance, component, service):
        secrets = self.folder / f"secrets-{instance}"
        secrets.mkdir()
        for name in service["secrets"]:
            shutil.copy(self.all_secrets / name, secrets / name)
        (self.folder / "run" / component).mkdir(parents=True, exist_ok=True)
        command = [self.argument(a, instance, component, secrets) for a in service["command"]]
        # Fewer and smaller steps than the recipe's, the same for all; and no worker leaves before it was looked at.
        command += ["--run.steps=100000", "--evaluation.every=2", "--evaluation.problems=32", "--stage.0.groups_per_step=16",
                    "--cost.core_hour_price=0.05"]
        log = open(self.folder / f"{instance}.log", "w")
        self.processes[instance] = subprocess.Popen(
            [self.bin / f"crescendo-{component}", *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        probe = [self.argument(a, instance, component, secrets) for a in service["healthcheck"]["test"][2:]]
        self.probes[instance] = [self.bin / "crescendo-probe", *probe]

    def healthy(self, instance):
        status, self.last_probe = run(*self.probes[instance])
        return status == 0

    def start_all(self, failures):
        services = {component: s for name, (component, s) in crescendo_services(compose()).items()
                    if s.get("profiles", ["cpu"]) == ["cpu"]}
        for component in ("coordinator", "reward", "learner"):
            self.start(component, component, services[component])
            ok = wait_for(f"{component} to be healthy", lambda c=component: self.healthy(c), self.processes)
            if not failures.check(ok, f"{component} never got healthy: {self.last_probe}"):
                return False
        for i in range(WORKERS):
            self.start(f"rollout{i}", "rollout", services["rollout"])
        return all(failures.check(wait_for("a worker", lambda n=i: self.healthy(f"rollout{n}"), self.processes),
                                  f"rollout{i} never got healthy: {self.last_probe}") for i in range(WORKERS))

    def start_prometheus(self):
        config = load(DEPLOY / "prometheus" / "prometheus.yml")
        config["global"].update(scrape_interval="1s", scrape_timeout="1s", evaluation_interval="1s")
        config["rule_files"] = [str(DEPLOY / "prometheus" / f) for f in config["rule_files"]]
        for job in config["scrape_configs"]:
            names = [n for n in self.metrics if n.rstrip("0123456789") == job["job_name"]]
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": [f"127.0.0.1:{self.metrics[n]}" for n in names]}]
        path = self.folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        log = open(self.folder / "prometheus.log", "w")
        self.processes["prometheus"] = subprocess.Popen(
            ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.folder}/tsdb",
             f"--web.listen-address=127.0.0.1:{self.prometheus_port}"], stdout=log, stderr=subprocess.STDOUT)

    def query(self, expression):
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]["result"], ""
        except urllib.error.HTTPError as error:
            return [], error.read().decode()[:300]
        except (urllib.error.URLError, OSError) as error:
            return [], str(error)

    def value(self, expression):
        result, _ = self.query(expression)
        return float(result[0]["value"][1]) if result else 0.0

    def stop(self, failures):
        for name in [f"rollout{i}" for i in range(WORKERS)] + ["learner", "reward", "coordinator", "prometheus"]:
            process = self.processes.get(name)
            if process is None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(timeout=60)
                failures.check(status == 0, f"{name} ended with status {status}")
            except subprocess.TimeoutExpired:
                process.kill()
                failures.check(False, f"{name} did not end within a minute of SIGTERM")


def panel_expressions():
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.stem}: {panel['title']}", target["expr"].replace("$__rate_interval", "30s")


def autoscaler_expressions():
    kubernetes = DEPLOY / "kubernetes"
    for path in sorted((kubernetes / "base").glob("*.yaml")):
        for document in load_all(path):
            if document["kind"] == "HorizontalPodAutoscaler":
                for metric in document["spec"]["metrics"]:
                    yield f"{path.name}: autoscaler", metric[metric["type"].lower()]["metric"]["name"]
    for trigger in load(kubernetes / "overlays" / "a100-keda" / "scaled-object.yaml")["spec"]["triggers"]:
        yield "scaled-object.yaml", trigger["metadata"]["query"]


def settled(cluster, expression, holds):
    """The answer, asked again for a while until it is as it shall be: what a scrape has not seen yet, it sees soon."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        result, error = cluster.query(expression)
        if error or holds(result) or time.monotonic() > end:
            return result, error
        time.sleep(0.5)


def check_expressions(cluster, failures):
    rules = {name for name, _ in rule_expressions()}
    for where, expression in list(rule_expressions()) + list(panel_expressions()) + list(autoscaler_expressions()):
        if where in EMPTY:
            _, error = cluster.query(expression)
        elif where in rules and where.startswith("Crescendo"):
            result, error = settled(cluster, expression, lambda r: not r)
            failures.check(not result, f"{where} fires in a healthy run: {result[:2]}")
        else:
            result, error = settled(cluster, expression, bool)
            failures.check(result, f"{where}: no data: {expression}")
        failures.check(not error, f"{where}: {expression}: {error}")
    # What alerts compare must be there, or they could never fire.
    names = set()
    for _, expression in rule_expressions():
        names |= set(re.findall(r"\bcrescendo_[a-z0-9_]+", expression))
    for name in sorted(names - {"crescendo_"}):  # that is of a regular expression
        failures.check(settled(cluster, name, bool)[0], f"a rule names {name}, which no service has")


def check_metrics(cluster, failures):
    for instance, port in cluster.metrics.items():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        done = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        failures.check(done.returncode == 0, f"promtool check metrics, {instance}: {done.stdout}")


def main():
    failures, bin_folder = Failures(), pathlib.Path(sys.argv[1]).resolve()
    if shutil.which("prometheus") is None:
        print("skipped: no Prometheus; deploy/setup --tests installs it")
        sys.exit(77)
    status, out = run(sys.executable, DEPLOY / "grafana" / "make-dashboards", "--check")
    failures.check(status == 0, out)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="crescendo-live-"))
    cluster = Cluster(bin_folder, folder)
    try:
        if cluster.start_all(failures):
            cluster.start_prometheus()
            done = wait_for(f"{STEPS} steps more and an evaluation", lambda: (
                cluster.value("increase(crescendo_learner_steps_total[5m])") >= STEPS and
                cluster.value("crescendo_coordinator_evaluations_total") > 0 and
                cluster.value("crescendo:undecided:ratio30m or vector(-1)") >= 0), cluster.processes)
            if failures.check(done, "the run does not move"):
                check_expressions(cluster, failures)
                check_metrics(cluster, failures)
    finally:
        cluster.stop(failures)
        if failures.lines:
            print("\n".join(failures.lines))  # before the logs, which may be cut
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-12:]))
        if "--keep" not in sys.argv:
            shutil.rmtree(folder, ignore_errors=True)
    failures.end("live")


main()
