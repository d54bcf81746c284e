"""Prometheus's files: promtool takes them, the rules' unit tests pass, and every alert has its section in the runbook."""
import sys

from deploy_files import DEPLOY, Failures, load, run

failures = Failures()
prometheus = DEPLOY / "prometheus"
rules = prometheus / "rules"
for command in (("check", "config", prometheus / "prometheus.yml"),
                ("check", "rules", rules / "recording.yml", rules / "alerts.yml"),
                ("test", "rules", rules / "tests.yml")):
    status, out = run("promtool", *command)
    failures.check(status == 0, f"promtool {command[0]} {command[1]}: {out}")

alerts = [r for g in load(rules / "alerts.yml")["groups"] for r in g["rules"]]
sections = {line[4:] for line in (prometheus / "README.md").read_text().splitlines() if line.startswith("### ")}
failures.check(sections == {a["alert"] for a in alerts},
               f"runbook and alerts differ: {sections ^ {a['alert'] for a in alerts}}")
tested = {t["name"] for t in load(rules / "tests.yml")["tests"]}
for alert in alerts:
    name = alert["alert"]
    failures.check(name in tested, f"{name}: no unit test")
    failures.check(alert["labels"]["severity"] in ("critical", "warning", "info"), f"{name}: severity")
    failures.check(alert["annotations"].get("runbook") == f"deploy/prometheus/README.md: {name}", f"{name}: runbook")

status, out = run(sys.executable, DEPLOY / "kubernetes/components/monitoring/make-prometheus-rule", "--check")
failures.check(status == 0, out)
failures.end("prometheus")
