"""The images without a container engine. What can be read off the Dockerfile; then deploy/images/collect makes each CPU
image's root file system from the programs of this build, and the four services train the demo's first steps together, each
in its own root (chroot, read-only, user 65532, with its image's environment and the compose file's command, secrets and
volumes), with `crescendo top` beside them. Training needs root and namespaces; elsewhere the first part is all.

    roots_test.py BIN_FOLDER [--keep]
"""
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile

from deploy_files import DEPLOY, ROOT, SERVICES, Failures, compose, make_certificates, run
from start_image import USER, mounts_of

STEPS = 2
# One machine, so one loopback: every service has the same ports as under compose but for the metrics'.
OVERRIDES = ["--network.metrics=127.0.0.1:0", "--stage.0.groups_per_step=8", "--evaluation.problems=16",
             "--rollout.drain=1s"]

# In namespaces of its own: this and what follows is refused where a container has fewer rights than root.
BEGIN = ["mount --make-rprivate /", "mount -t proc proc /proc", "chroot=$(command -v chroot)",
         # SIOCSIFFLAGS: the loopback goes up.
         "/usr/bin/python3 -c \"import fcntl, socket, struct; "
         "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH22x', b'lo', 0x41))\""]
UNSHARE = ["unshare", "--net", "--mount", "--pid", "--fork", "bash", "-c"]

PREPARE = """
root={root}
mkdir -p $root/etc $root/dev $root/var/lib/crescendo
printf '127.0.0.1 localhost coordinator learner reward rollout {host}\\n' >$root/etc/hosts
mount --bind $root $root
{mounts}
mount --rbind /dev $root/dev
mount -t proc proc $root/proc
mount -t tmpfs tmpfs $root/tmp
mount -o remount,bind,ro $root
run_{name}() {{ exec env -i {environment} "$chroot" --userspec={user}:{user} $root_{name} "$@"; }}
root_{name}=$root
"""

START = """
run_{name} {command} 2>{work}/{name}.log &
pid_{name}=$!
healthy=1
for i in $(seq 300); do
  if (run_{name} {probe}) 2>>{work}/probe.log; then healthy=0; break; fi
  kill -0 $pid_{name} 2>/dev/null || break
  sleep 0.2
done
echo "{name} healthy=$healthy"
grep -E '^(Uid|CapEff)' /proc/$pid_{name}/status >{work}/{name}.status
"""

WATCH = """
{crescendo} top --plain --coordinator 127.0.0.1:7070 --security.directory={secrets} >{work}/top.log 2>&1 &
top=$!
for i in $(seq 600); do
  grep -q '^step {steps}/' {work}/top.log && break
  kill -0 $top 2>/dev/null || break
  sleep 0.2
done
kill $top 2>/dev/null || true
/usr/bin/python3 -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:7080/').read().decode())" >{work}/page.html || true
"""

STOP = """
kill -TERM $pid_{name}
code=0
wait $pid_{name} || code=$?
echo "{name} exit=$code"
"""


def dockerfile():
    """The stages by name: (base, lines), continued lines joined."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "images" / "Dockerfile").read_text())
    stages, name = {}, ""
    for line in text.splitlines():
        begin = re.fullmatch(r"FROM (\S+) AS (\S+)", line)
        if begin:
            name = begin[2]
            stages[name] = (begin[1], [])
        elif name and line and not line.startswith("#"):
            stages[name][1].append(line)
    return stages


def setting(stage, word):
    return [line.split(" ", 1)[1] for line in stage[1] if line.startswith(word + " ")]


def check_dockerfile(failures):
    stages = dockerfile()
    services = compose()["services"]
    targets = {s["build"]["target"] for s in services.values() if "build" in s}
    failures.check(targets <= set(stages), f"compose builds {targets}, the Dockerfile has {set(stages)}")
    packages = set()
    for line in setting(stages["toolchain"], "RUN"):
        match = re.search(r"--no-install-recommends ([^&]*)", line)
        packages |= set(match[1].split() if match else [])
    listed = (ROOT / "deploy" / "setup").read_text()
    known = set(re.search(r"^readonly PACKAGES=\((.*?)\)", listed, re.M | re.S)[1].split())
    failures.check(packages and packages <= known, f"packages that deploy/setup does not name: {packages - known}")
    for name, stage in stages.items():
        for line in setting(stage, "COPY"):
            match = re.search(r"--from=(\S+)", line)
            failures.check(match is None or match[1] in stages, f"{name}: COPY {line}")
    for target in sorted(targets):
        stage, component = stages[target], target.removesuffix("-cpu")
        failures.check(setting(stage, "USER") == [f"{USER}:{USER}"], f"{target}: user")
        failures.check(setting(stage, "ENTRYPOINT") == [f'["crescendo-{component}"]'], f"{target}: entry point")
        failures.check(f'"crescendo-probe", "{component}"' in setting(stage, "HEALTHCHECK")[0], f"{target}: healthcheck")
        states = [line.split()[-1] for line in setting(stage, "COPY") if f"--chown={USER}:{USER}" in line]
        failures.check(setting(stage, "WORKDIR")[0] in states, f"{target}: a volume for its state would be root's")


def service_of(component, services):
    return services.get(f"{component}-cpu") or services[component]


def prepare(component, services, bin_folder, work):
    root = work / f"root-{component}"
    programs = [bin_folder / f"crescendo-{component}", bin_folder / "crescendo-probe"]
    status, out = run(DEPLOY / "images" / "collect", root, *programs)
    assert status == 0, out
    state = work / f"{component}-run"
    state.mkdir()
    os.chown(state, USER, USER)
    service = dict(service_of(component, services))
    service["volumes"] = [v for v in service["volumes"] if not v.startswith("gpus:")]
    stage = dockerfile()[component if component in ("coordinator", "reward") else f"{component}-cpu"]
    return root, PREPARE.format(
        root=shlex.quote(str(root)), host=socket.gethostname(), name=component, user=USER,
        mounts=mounts_of(service, work / "certs", state), environment=" ".join(setting(stage, "ENV")))


def script_of(services, bin_folder, work):
    lines = ["set -e", *BEGIN]
    folder = shlex.quote(str(work))
    for component in SERVICES:
        lines.append(prepare(component, services, bin_folder, work)[1])
    for component in ("coordinator", "reward", "learner", "rollout"):
        service = service_of(component, services)
        probe = service["healthcheck"]["test"][1:]
        command = ["/usr/local/bin/crescendo-" + component, *service["command"], *OVERRIDES]
        if component != "rollout":
            command.remove("--rollout.drain=1s")
        lines.append(START.format(name=component, work=folder, command=shlex.join(command),
                                  probe=shlex.join(["/usr/local/bin/" + probe[0], *probe[1:]])))
    lines.append(WATCH.format(crescendo=shlex.quote(str(bin_folder / "crescendo")), steps=STEPS,
                              secrets=shlex.quote(str(work / "certs")), work=folder))
    for component in ("rollout", "learner", "reward", "coordinator"):
        lines.append(STOP.format(name=component))
    return "\n".join(lines)


def text_of(path):
    return path.read_text(errors="replace") if path.exists() else ""


def train(bin_folder, work, failures):
    make_certificates(bin_folder, work / "certs")
    script = script_of(compose()["services"], bin_folder, work)
    done = subprocess.run([*UNSHARE, script], text=True, timeout=400,
                          cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    for component in SERVICES:
        log = "\n".join(text_of(work / f"{component}.log").splitlines()[-15:])
        for said in (f"{component} healthy=0", f"{component} exit=0"):
            failures.check(said in done.stdout, f"not {said}:\n{done.stdout}\n{log}")
        status = text_of(work / f"{component}.status")
        failures.check(f"Uid:\t{USER}\t{USER}" in status and re.search(r"^CapEff:\t0+$", status, re.M),
                       f"{component} runs as {status}")
    failures.check(f"step {STEPS}/" in text_of(work / "top.log"), f"no step: {text_of(work / 'top.log')}")
    failures.check("<title>" in text_of(work / "page.html"), "the run's page does not answer where compose publishes it")
    checkpoints = list((work / "learner-run" / "checkpoints").glob("step-*/checkpoint.json"))
    failures.check(checkpoints, "the learner left no checkpoint in its volume")


def main():
    failures, bin_folder = Failures(), pathlib.Path(sys.argv[1]).resolve()
    check_dockerfile(failures)
    allowed = "set -e\n" + "\n".join([*BEGIN, "mount --rbind /dev /mnt", "$chroot / true"])
    if os.geteuid() != 0 or subprocess.run([*UNSHARE, allowed], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        print("training in root file systems left out: needs root and namespaces")
        failures.end("roots")
    work = pathlib.Path(tempfile.mkdtemp(prefix="crescendo-roots-"))
    work.chmod(0o755)
    try:
        train(bin_folder, work, failures)
    finally:
        if "--keep" not in sys.argv:
            shutil.rmtree(work, ignore_errors=True)
    failures.end("roots")


main()
