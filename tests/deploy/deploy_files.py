"""What the tests of deploy/ share: reading its files, and running the programs that they name."""
import os
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SERVICES = ("coordinator", "learner", "reward", "rollout")


class Failures:
    """Collects what is wrong, so that one run tells all of it."""

    def __init__(self):
        self.lines = []
        self.checks = 0

    def check(self, holds, message):
        self.checks += 1
        if not holds:
            self.lines.append(message)
        return holds

    def end(self, what):
        for line in self.lines:
            print("FAILED:", line)
        print(f"{what}: {self.checks} checks, {len(self.lines)} failed")
        sys.exit(1 if self.lines or not self.checks else 0)


def load(path):
    return yaml.safe_load(path.read_text())


def load_all(path):
    return [d for d in yaml.safe_load_all(path.read_text()) if d is not None]


def interpolate(value, variables):
    """${NAME:-default} as compose replaces it; notes each name with its default in `variables`."""
    def one(match):
        name, default = match[1], match[2]
        variables.setdefault(name, set()).add(default)
        return os.environ.get(name) or default
    if isinstance(value, str):
        return re.sub(r"\$\{([A-Z_]+):-([^}]*)\}", one, value)
    if isinstance(value, list):
        return [interpolate(v, variables) for v in value]
    if isinstance(value, dict):
        return {k: interpolate(v, variables) for k, v in value.items()}
    return value


def compose(variables=None):
    """deploy/compose/docker-compose.yml with anchors and variables resolved."""
    return interpolate(load(DEPLOY / "compose" / "docker-compose.yml"), {} if variables is None else variables)


def crescendo_services(document):
    """The services that run programs of this tree, as name: (component, definition)."""
    found = {}
    for name, service in document["services"].items():
        component = name.removesuffix("-cpu")
        if component in SERVICES:
            found[name] = (component, service)
    return found


def run(*command, timeout=300):
    """Exit status and output of a program."""
    done = subprocess.run([str(c) for c in command], cwd=ROOT, text=True, timeout=timeout,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout


def on_this_machine(argument, secrets):
    """An argument of a container with the container's paths replaced by those of the checkout."""
    argument = argument.replace("/crescendo/deploy/recipes", str(DEPLOY / "recipes"))
    return re.sub(r"=/run/secrets(/crescendo)?$", f"={secrets}", argument)


def make_certificates(bin_folder, folder):
    status, out = run(bin_folder / "crescendo", "certs", folder)
    assert status == 0, out
    return folder


def drain_seconds(flags, recipe):
    """rollout.drain as the worker gets it: from its arguments, its recipe, or the default."""
    in_recipe = re.search(r'^drain = "(.*)s"', recipe.read_text(), re.M)
    if "rollout.drain" in flags:
        return float(flags["rollout.drain"].rstrip("s"))
    return float(in_recipe[1]) if in_recipe else 30.0


def rule_expressions():
    """(where, expression) of every recording and alerting rule."""
    found = []
    for name in ("recording.yml", "alerts.yml"):
        for group in load(DEPLOY / "prometheus" / "rules" / name)["groups"]:
            for rule in group["rules"]:
                found.append((rule.get("record") or rule.get("alert"), rule["expr"]))
    return found
