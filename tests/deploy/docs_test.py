"""What the pages name is there: links with their anchors, files, commands and their options, keys of the configuration,
metrics, alerts.

    docs_test.py BIN_FOLDER
"""
import json
import pathlib
import re
import subprocess
import sys

from deploy_files import DEPLOY, ROOT, Failures, load, run

SECTIONS = ("run|policy|data|curriculum|rollout|reward|objective|optimizer|learner|evaluation|coordinator|cost|network|"
            "security|log")
KEY = re.compile(rf"(?<![\w/.-])({SECTIONS})\.([a-z_0-9]+)\b(?![/(.])")
# After a service's name these are endings of files.
ENDINGS = {"proto", "pem", "key", "token", "log", "toml", "yaml", "md", "h", "cc", "sqlite", "jsonl", "json", "html", "gguf",
           "safetensors"}
METRIC = re.compile(r"\bcrescendo_(?:coordinator|learner|rollout|reward)_[a-z0-9_]+")
PATH = re.compile(r"`((?:common|deploy|proto|services|tests)/[\w./-]+)`")
# Of other programs, on lines that call ours.
FOREIGN_OPTIONS = {"--from-file", "--build", "--profile", "--scale"}


def pages():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False).stdout.split()
    found = [ROOT / name for name in listed]
    return found or [p for p in ROOT.rglob("*.md") if not p.relative_to(ROOT).parts[0].startswith((".", "build"))]


def slug(heading):
    words = re.sub(r"[`*]", "", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def anchors(page):
    return {slug(line.lstrip("#")) for line in page.read_text().splitlines() if line.startswith("#")}


def check_links(page, text, failures):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if failures.check(there.exists(), f"{page.relative_to(ROOT)}: link {target}") and anchor:
            failures.check(anchor in anchors(there), f"{page.relative_to(ROOT)}: no heading for {target}")


class Programs:
    """Help texts of the programs and of their commands, asked once."""

    def __init__(self, bin_folder):
        self.bin, self.helps = bin_folder, {}
        self.commands = set(re.findall(r"^  crescendo ([a-z]+)", self.help("crescendo"), re.M))

    def help(self, program, *command):
        line = (program, *command)
        if line not in self.helps:
            status, out = run(self.bin / program, *command, "--help")
            self.helps[line] = out if status == 0 else ""
        return self.helps[line]


def check_command(where, words, programs, failures):
    """A line that begins with one of our programs."""
    program, command = pathlib.PurePath(words[0]).name, []
    if not failures.check((programs.bin / program).exists(), f"{where}: no program {program}"):
        return
    if program == "crescendo" and len(words) > 1 and re.fullmatch("[a-z]+", words[1]):
        command = [words[1]]
        if not failures.check(words[1] in programs.commands, f"{where}: no command {' '.join(words[:2])}"):
            return
    elif program == "crescendo-rollout" and words[1:2] == ["serve"]:
        command = ["serve"]
    elif program == "crescendo-reward" and words[1:2] and words[1] in ("grade", "check-dataset", "audit"):
        command = [words[1]]
    text = programs.help(program, *command)
    if not failures.check(text, f"{where}: {program} {' '.join(command)} --help"):
        return
    for word in words[1:]:
        option = re.match(r"--[a-z-]+(?![\w.-])", word.strip("[]()"))
        if option and option[0] not in FOREIGN_OPTIONS | {"--help", "--version"}:
            failures.check(option[0] in text, f"{where}: {program} {' '.join(command)} does not know {option[0]}")


def code_of(text):
    """Lines of code blocks and what stands in backticks."""
    for block in re.findall(r"```\w*\n(.*?)```", text, re.S):
        yield from block.splitlines()
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S)))


def check_commands(page, text, programs, failures):
    for line in code_of(text):
        for part in re.split(r"&&|\||;|#| & ", line):
            words = part.replace("sudo ", "").removeprefix("$ ").split()
            if words and re.fullmatch(r"(build/bin/)?crescendo(-[a-z]+)*", words[0]) and len(words) > 1:
                check_command(f"{page.relative_to(ROOT)}: `{part.strip()}`", words, programs, failures)


def keys(programs):
    status, out = run(programs.bin / "crescendo", "train", DEPLOY / "recipes" / "demo.toml", "--dry-run", "--out", "runs/none")
    assert status == 0, out
    found, section = set(), ""
    for line in out.splitlines():
        head = re.fullmatch(r"\[+([\w.]+)\]+", line)
        if head:
            section = head[1]
            found.add(section)
        elif "=" in line and not line.startswith("#"):
            found.add(f"{section}.{line.split('=')[0].strip()}")
    return found


def main():
    failures, programs = Failures(), Programs(pathlib.Path(sys.argv[1]).resolve())
    known = keys(programs) | {"cost.gpu_hour_price"}
    metrics = set(METRIC.findall((ROOT / "common/metrics/README.md").read_text()))
    alerts = {r["alert"] for g in load(DEPLOY / "prometheus/rules/alerts.yml")["groups"] for r in g["rules"]}
    found = pages()
    failures.check(len(found) > 10, f"only {len(found)} pages")
    for page in found:
        text, name = page.read_text(), page.relative_to(ROOT)
        check_links(page, text, failures)
        check_commands(page, text, programs, failures)
        for metric in METRIC.findall(text):
            plain = re.sub(r"_(bucket|count|sum)$", "", metric)
            failures.check(metric in metrics or plain in metrics, f"{name}: no metric {metric}")
        for section, key in KEY.findall(text):
            if key not in ENDINGS:
                failures.check(f"{section}.{key}" in known, f"{name}: no key {section}.{key}")
        for alert in re.findall(r"\bCrescendo[A-Z]\w+", text):
            failures.check(alert in alerts, f"{name}: no alert {alert}")
        for path in PATH.findall(text):
            failures.check((ROOT / path).exists(), f"{name}: no file {path}")
    # Panels and rules: what they ask for.
    for path in [*(DEPLOY / "grafana/dashboards").glob("*.json"), *(DEPLOY / "prometheus/rules").glob("*.yml")]:
        for metric in METRIC.findall(json.dumps(path.read_text())):
            plain = re.sub(r"_(bucket|count|sum)$", "", metric)
            failures.check(metric in metrics or plain in metrics, f"{path.name}: no metric {metric}")
    failures.end("docs")


main()
