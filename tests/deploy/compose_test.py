"""docker-compose.yml holds to the compose specification's schema, names nothing that is not there, and every command
in it is one that the program takes.

    compose_test.py BIN_FOLDER
"""
import importlib.util
import json
import pathlib
import sys
import tempfile

import jsonschema

from deploy_files import (DEPLOY, ROOT, Failures, compose, crescendo_services, drain_seconds,
                          make_certificates, on_this_machine, run)

# Of images that are not ours: what their documentation names.
FOREIGN_VARIABLES = {"GF_SECURITY_ADMIN_PASSWORD__FILE", "GF_USERS_ALLOW_SIGN_UP", "GF_ANALYTICS_REPORTING_ENABLED"}
# Of the programs: the source that reads each.
OWN_VARIABLES = {"CRESCENDO_GPU_CLAIMS": "common/os/gpu_claim.cc"}


def check_schema(document, failures):
    package = pathlib.Path(importlib.util.find_spec("compose").submodule_search_locations[0])
    schema = json.loads((package / "config" / "compose_spec.json").read_text())
    # The project's name came to the specification after this schema.
    plain = {k: v for k, v in document.items() if k != "name"}
    for error in jsonschema.Draft7Validator(schema).iter_errors(plain):
        failures.check(False, f"schema: {'/'.join(map(str, error.absolute_path))}: {error.message[:300]}")
    failures.check(True, "")
    # The schema is alive: it refuses what is wrong.
    broken = json.loads(json.dumps(plain))
    broken["services"]["reward"]["reed_only"] = True
    failures.check(not jsonschema.Draft7Validator(schema).is_valid(broken), "the schema takes an unknown key")


def check_variables(variables, failures):
    example = {}
    for line in (DEPLOY / "compose" / ".env.example").read_text().splitlines():
        if line and not line.startswith("#"):
            name, value = line.split("=", 1)
            example[name] = {value}
    failures.check(example == variables, f".env.example and the file differ: {example} {variables}")


def check_references(document, failures):
    services, here = document["services"], DEPLOY / "compose"
    made_by_certs = {"ca.pem"} | {f"{role}.{end}" for role in ("coordinator", "learner", "reward", "rollout", "operator")
                                  for end in ("pem", "key", "token")}
    for name in document["secrets"]:
        failures.check(name in made_by_certs | {"grafana-password"}, f"secret {name} is made by nobody")
        failures.check(any(name in s.get("secrets", []) for s in services.values()), f"secret {name} is not used")
    for name, service in services.items():
        failures.check(service.get("read_only") is True, f"{name}: the root file system is not read-only")
        failures.check(service.get("cap_drop") == ["ALL"], f"{name}: capabilities")
        failures.check("healthcheck" in service, f"{name}: no healthcheck")
        for secret in service.get("secrets", []):
            failures.check(secret in document["secrets"], f"{name}: secret {secret} is not defined")
        for other, how in (service.get("depends_on") or {}).items():
            failures.check("healthcheck" in services.get(other, {}), f"{name}: depends on {other}")
            failures.check(how == {"condition": "service_healthy"}, f"{name}: {other} {how}")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if not source.startswith("."):
                failures.check(source in document["volumes"], f"{name}: volume {source} is not defined")
            elif "models" not in source and "shared" not in source:
                failures.check((here / source).exists(), f"{name}: {source} is not there")
        for variable in service.get("environment", {}):
            source = OWN_VARIABLES.get(variable)
            failures.check(variable in FOREIGN_VARIABLES or source and f'getenv("{variable}")' in (ROOT / source).read_text(),
                           f"{name}: variable {variable}")
        # Replicas share a machine's GPUs out among themselves: with a count, Docker gives each the same ones.
        for device in service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", []):
            claims = service["environment"]["CRESCENDO_GPU_CLAIMS"]
            failures.check(device["count"] == "all" and f"gpus:{claims}" in service["volumes"], f"{name}: {device}")


def check_commands(document, bin_folder, failures):
    with tempfile.TemporaryDirectory() as folder:
        make_certificates(bin_folder, pathlib.Path(folder) / "all")
        for name, (component, service) in crescendo_services(document).items():
            program = bin_folder / f"crescendo-{component}"
            entry = service.get("entrypoint", [f"crescendo-{component}"])
            failures.check(entry[0] == f"crescendo-{component}", f"{name}: entry point {entry}")
            command = [on_this_machine(a, f"{folder}/all") for a in entry[1:] + service["command"]]
            status, out = run(program, *command, "--dry-run")
            # The arguments were taken when all that it misses is a GPU, and it is a service that asks for one.
            on_gpu = "deploy" in service
            failures.check(on_gpu == (f"--{component}.device=cuda" in entry), f"{name}: device {entry}")
            misses = on_gpu and status == 2 and f"{component}.device" in out.splitlines()[-1]
            failures.check(status == 0 or misses, f"{name}: {' '.join(command)} --dry-run: {out}")
            # The check is alive: a key that is not there is refused.
            status, out = run(program, *command, "--network.addres=x", "--dry-run")
            failures.check(status == 2, f"{name}: an unknown key is taken")
            failures.check(service["image"].startswith(f"crescendo/{name}:") and service["build"]["target"] == name,
                           f"{name}: image {service['image']}, target {service['build']['target']}")
            probe = service["healthcheck"]["test"]
            failures.check(probe[:3] == ["CMD", "crescendo-probe", component], f"{name}: {probe}")
            address = "127.0.0.1:1"
            status, out = run(bin_folder / "crescendo-probe", component, address,
                              *[on_this_machine(a, f"{folder}/all") for a in probe[4:]])
            failures.check(status == 1 and address in out, f"{name}: probe of a port without a service: {status} {out}")
            flags = dict(a[2:].split("=", 1) for a in service["command"])
            ports = {flags[f"network.{component}"].split(":")[1], probe[3].split(":")[1]}
            failures.check(len(ports) == 1, f"{name}: listens and is probed on {ports}")
            open_ports = {a.rsplit(":", 1)[1] for a in flags.values() if a.startswith("0.0.0.0:")}
            for published in service.get("ports", []):
                failures.check(published.startswith("127.0.0.1:") and published.rsplit(":", 1)[1] in open_ports,
                               f"{name}: publishes {published}, open are {open_ports}")
            if component == "rollout":
                drain = drain_seconds(flags, DEPLOY / "recipes" / pathlib.Path(flags["config"]).name)
                grace = float(service["stop_grace_period"].rstrip("s"))
                failures.check(grace >= drain + 10, f"{name}: {grace} s of grace for a drain of {drain} s")
            for peer in ("coordinator", "learner", "reward"):
                listens = [a for n, (c, s) in crescendo_services(document).items() if c == peer
                           for a in s["command"] if a.startswith(f"--network.{peer}=")]
                if f"network.{peer}" in flags:
                    failures.check(flags[f"network.{peer}"].split(":")[1] == listens[0].split(":")[1],
                                   f"{name}: {peer} is sought where it does not listen")


def main():
    failures, variables = Failures(), {}
    document = compose(variables)
    check_schema(document, failures)
    check_variables(variables, failures)
    check_references(document, failures)
    check_commands(document, pathlib.Path(sys.argv[1]), failures)
    failures.end("compose")


main()
