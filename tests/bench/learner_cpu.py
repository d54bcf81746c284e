"""learner_cpu: one GRPO step of SmolLM2-135M against plain transformers with the same loss, in one run.

usage: tests/parity/oracle-test tests/bench/learner_cpu.py LEARNER_BENCH GGUF [--samples 16] [--tokens 512] [--threads 2]
           [--micro 2] [--learner-micro 1] [--dtypes float32,bfloat16]

One JSON line for each dtype. transformers computes micro-batches of --micro sequences, in bfloat16 under autocast; the
learner packs the same tokens into its micro-batches. Each side is a process of its own, so that the peak memory is its own;
the clock is the process's CPU time beside the wall's, which other programs on the machine disturb. `products` is the CPU time
of the step's matrix products alone: the bound.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("gguf")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro", type=int, default=2, help="sequences of a micro-batch of transformers")
    parser.add_argument("--learner-micro", type=int, default=1, help="... and of the learner")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--child", choices=["transformers", "products"])
    return parser.parse_args()


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peer(options):
    """GRPO's step in plain transformers and autograd: clipped surrogate over the token mean, AdamW, clipped gradient."""
    import torch
    import transformers
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.dirname(options.gguf), gguf_file=os.path.basename(options.gguf), dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    tokens = torch.randint(3, model.config.vocab_size, (options.samples, options.tokens + 1))
    old = torch.full((options.samples, options.tokens), -2.0)
    advantages = torch.tensor([1.0, -1.0] * (options.samples // 2))
    count = options.samples * options.tokens
    begin, cpu_begin = time.monotonic(), cpu_seconds()
    for first in range(0, options.samples, options.micro):
        part = slice(first, first + options.micro)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.dtypes == "bfloat16"):
            logits = model(tokens[part, :-1], use_cache=False).logits
        new = logits.float().log_softmax(-1).gather(-1, tokens[part, 1:, None])[..., 0]
        ratio = (new - old[part]).exp()
        a = advantages[part, None]
        (-torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).sum() / count).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return {"wall_seconds": time.monotonic() - begin, "cpu_seconds": cpu_seconds() - cpu_begin,
            "tokens": count, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def products(options):
    """The matrix products of the learner's step, forward and both backward ones, and nothing else."""
    import torch
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtypes)
    rows = options.learner_micro * options.tokens
    shapes = [(30, 960, 576), (30, 576, 576), (30, 3072, 576), (30, 576, 1536), (1, 49152, 576)]
    total = 0.0
    for count, n, k in shapes:
        x, w, d = (torch.randn(*s).to(dtype) for s in ((rows, k), (n, k), (rows, n)))
        for _ in range(2):  # the second time counts
            begin = cpu_seconds()
            x @ w.t()
            d @ w
            d.t() @ x
            seconds = cpu_seconds() - begin
        total += count * seconds
    return {"cpu_seconds": total * options.samples / options.learner_micro}


def child(kind, options, dtype):
    command = [sys.executable, os.path.abspath(__file__), options.bench, options.gguf, "--child", kind, "--dtypes", dtype]
    for key in ("samples", "tokens", "threads", "micro", "learner_micro"):
        command += ["--" + key.replace("_", "-"), str(getattr(options, key))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def learner(options, dtype):
    # In bf16 the weights' fp32 masters, moments and gradients are 2.2 of transformers' 4.4 GB: 20 layers are recomputed.
    recomputed = 20 if dtype == "bfloat16" else 0
    # A sequence is packed without its last token: prompt 1 and `tokens` sampled ones are as many rows.
    command = [options.bench, "--policy", options.gguf, "--dtype", dtype, "--threads", str(options.threads), "--groups", "1",
               "--samples", str(options.samples), "--prompt", "1", "--tokens", str(options.tokens), "--minibatches", "1",
               "--microbatch-tokens", str(options.learner_micro * options.tokens), "--steps", "1", "--cold", "1",
               "--recompute-layers", str(recomputed)]
    line = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return {"wall_seconds": line["step_seconds_best"], "cpu_seconds": line["step_cpu_seconds_best"],
            "tokens": line["packed_tokens"], "peak_mib": line["peak_rss_mib"],
            "recomputed_layers": recomputed}


def main():
    options = parse()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    if options.child:
        print(json.dumps({"transformers": peer, "products": products}[options.child](options)))
        return
    for dtype in options.dtypes.split(","):
        ours, theirs = learner(options, dtype), child("transformers", options, dtype)
        bound = child("products", options, dtype)
        print(json.dumps({
            "bench": "learner_cpu", "dtype": dtype, "samples": options.samples, "tokens": options.tokens,
            "threads": options.threads, "learner": ours, "transformers": theirs,
            "ratio_tokens_per_cpu_second": theirs["cpu_seconds"] / ours["cpu_seconds"],
            "ratio_tokens_per_second": theirs["wall_seconds"] / ours["wall_seconds"],
            "ratio_peak_memory": ours["peak_mib"] / theirs["peak_mib"],
            "products_cpu_seconds": bound["cpu_seconds"],
            "share_of_products": bound["cpu_seconds"] / ours["cpu_seconds"]}), flush=True)


if __name__ == "__main__":
    main()
