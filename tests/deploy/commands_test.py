"""Every command of crescendo is there, tells its use, refuses what it does not know with status 2 and the nearest right
word, and completion offers it.

    commands_test.py BIN_FOLDER
"""
import pathlib
import subprocess
import sys
import tempfile

from deploy_files import Failures, run

COMMANDS = ("train", "top", "stage", "drain", "checkpoint", "export", "eval", "ask", "grade", "data", "estimate", "compare",
            "certs", "trace", "completion")


def offers(script, words):
    """What bash's completion offers for the words, of which the last is being typed."""
    done = subprocess.run(["bash", "-c", f"source {script}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
                           "_crescendo; echo \"${COMPREPLY[@]}\""], text=True, stdout=subprocess.PIPE, check=False)
    return done.stdout.split()


def main():
    failures, crescendo = Failures(), pathlib.Path(sys.argv[1]) / "crescendo"
    status, overview = run(crescendo, "--help")
    failures.check(status == 0, f"--help: {status}")
    failures.check(run(crescendo)[0] == 2, "without a command: not status 2")
    status, out = run(crescendo, "trian")
    failures.check(status == 2 and "did you mean train" in out, f"trian: {status} {out}")
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder) / "completion.bash"
        status, out = run(crescendo, "completion", "bash")
        failures.check(status == 0, f"completion: {out}")
        script.write_text(out)
        offered = offers(script, "crescendo ''")
        for command in COMMANDS:
            status, out = run(crescendo, command, "--help")
            failures.check(status == 0 and command in out.splitlines()[0], f"{command} --help: {status} {out[:200]}")
            failures.check(f"crescendo {command}" in overview, f"{command} is not in crescendo --help")
            failures.check(command in offered, f"completion does not offer {command}")
            status, out = run(crescendo, command, "--no-such-option")
            failures.check(status == 2 and out.strip(), f"{command} --no-such-option: {status} {out[:200]}")
        failures.check("--out" in offers(script, "crescendo train --o"), "completion of train --o")
    status, out = run(crescendo, "stage", "advnce", "no-such-run")
    failures.check(status == 2 and "did you mean advance" in out, f"stage advnce: {status} {out}")
    # Without a run there is nothing to act on, which is told with status 2.
    for command in (("drain", "rollout-0", "no-such-run"), ("checkpoint", "no-such-run"), ("top", "no-such-run")):
        status, out = run(crescendo, *command)
        failures.check(status == 2 and "no-such-run" in out, f"{' '.join(command)}: {status} {out[:200]}")
    # A port where nobody listens: told after a few seconds, and the end after ten.
    status, out = run(crescendo, "top", "--coordinator", "127.0.0.1:1")
    failures.check(status == 2 and "no answer for 5 s" in out and "no coordinator answers" in out, f"top: {status} {out}")
    failures.end("commands")


main()
