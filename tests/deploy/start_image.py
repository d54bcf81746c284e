"""Starts a service from an image's root file system, as compose would: its command, environment, secrets and mounts,
user 65532, the root read-only, in namespaces of its own. Healthy by its own healthcheck, stopped by SIGTERM with status 0.

    start_image.py BIN_FOLDER SERVICE ROOT IMAGE_JSON WORK_FOLDER
"""
import json
import os
import pathlib
import shlex
import subprocess
import sys

from deploy_files import DEPLOY, Failures, compose, make_certificates

IMAGE_BYTES_MAX = 150 * 1000 * 1000
USER = 65532

SCRIPT = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
chroot=$(command -v chroot)
ip link set lo up
root={root}
mount --bind $root $root
{mounts}
mount -t proc proc $root/proc
mount -t tmpfs tmpfs $root/tmp
mount -o remount,bind,ro $root
run() {{ exec env -i {environment} "$chroot" --userspec={user}:{user} $root "$@"; }}
run {command} 2>{log} &
service=$!
healthy=1
for i in $(seq 100); do
  if (run {probe}) 2>>{log}; then healthy=0; break; fi
  kill -0 $service 2>/dev/null || break
  sleep 0.2
done
# Not the root, not a mount that is read-only.
cat /proc/$service/status | grep -E '^(Uid|CapEff)' >{status}
kill -TERM $service
code=0
wait $service || code=$?
echo "healthy=$healthy exit=$code"
"""


def config_of(image_json):
    image = json.loads(pathlib.Path(image_json).read_text())
    return image["Docker"]["config"]


def mounts_of(service, secrets, run_folder):
    lines = []
    for volume in service["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith("."):
            source = (DEPLOY / "compose" / source).resolve()
        else:
            source = run_folder
        if not pathlib.Path(source).exists():
            continue
        lines.append(f"mount --bind {shlex.quote(str(source))} $root{target}")
    lines.append("mount -t tmpfs tmpfs $root/run/secrets")
    for secret in service["secrets"]:
        lines.append(f"cp {shlex.quote(str(secrets / secret))} $root/run/secrets/ && chown {USER} $root/run/secrets/{secret}")
    return "\n".join(lines)


def main():
    bin_folder, name, root, image_json, work = sys.argv[1:]
    work, failures = pathlib.Path(work), Failures()
    config, service = config_of(image_json), compose()["services"][name]
    size = int(subprocess.check_output(["du", "-sb", root], text=True).split()[0])
    print(f"{name}: {size / 1e6:.1f} MB")
    failures.check(size <= IMAGE_BYTES_MAX, f"{size} bytes, at most {IMAGE_BYTES_MAX}")
    failures.check(config["User"] == f"{USER}:{USER}" and service["user"] == config["User"], f"user {config['User']}")
    failures.check("Healthcheck" in config, "no healthcheck in the image")
    failures.check(not (pathlib.Path(root) / "bin/sh").exists(), "there is a shell in it")
    failures.check(not list(pathlib.Path(root).rglob("libtorch*")), "there is LibTorch in it")
    state = os.stat(pathlib.Path(root) / config["WorkingDir"].lstrip("/"))
    failures.check(state.st_uid == USER, f"a new volume's folder would be of user {state.st_uid}")
    secrets = work / "certs"
    if not secrets.exists():
        make_certificates(pathlib.Path(bin_folder), secrets)
    run_folder = work / f"{name}-run"
    run_folder.mkdir()
    os.chown(run_folder, USER, USER)
    program = shlex.join(["/usr/local/bin/" + config["Entrypoint"][0], *service["command"]])
    probe = service["healthcheck"]["test"][1:]
    script = SCRIPT.format(
        root=shlex.quote(root), mounts=mounts_of(service, secrets, run_folder), user=USER,
        environment=shlex.join(config["Env"]), command=program, probe=shlex.join(["/usr/local/bin/" + probe[0], *probe[1:]]),
        log=shlex.quote(str(work / f"{name}.log")), status=shlex.quote(str(work / f"{name}.status")))
    done = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "bash", "-c", script], text=True, timeout=300,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    log = (work / f"{name}.log").read_text()
    failures.check("healthy=0 exit=0" in done.stdout, f"{done.stdout}\n{log}")
    status = (work / f"{name}.status").read_text() if (work / f"{name}.status").exists() else ""
    failures.check(f"Uid:\t{USER}\t{USER}" in status, f"runs as {status}")
    failures.end(f"image {name}")


if __name__ == "__main__":
    main()
