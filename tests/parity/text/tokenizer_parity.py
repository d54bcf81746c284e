"""Token ids, and text decoded from them, equal those of the PyPI package `tokenizers`.

usage: tokenizer_parity.py TOKENIZE_LINES
"""
import json
import os
import subprocess
import sys

import tokenizers

import corpus
from smollm2 import smollm2_oracle


def ours(program, kind, path, texts, *options):
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run([program, kind, path, *options], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(name, program, kind, path, oracle, texts, specials=(True, False)):
    failures = 0
    for special in specials:
        oracle.encode_special_tokens = not special
        options = [] if special else ["--no-special"]
        expected = oracle.encode_batch(texts, add_special_tokens=False)
        found = ours(program, kind, path, texts, *options)
        assert len(found) == len(texts), (len(found), len(texts))
        for text, one, mine in zip(texts, expected, found):
            decoded = oracle.decode(one.ids, skip_special_tokens=True)
            if one.ids != mine["ids"] or decoded != mine["text"]:
                failures += 1
                if failures <= 10:
                    print(f"{name}, special={special}: {ascii(text[:200])}\n  expected {one.ids[:50]} {ascii(decoded[:80])}\n"
                          f"  found    {mine['ids'][:50]} {ascii(mine['text'][:80])}")
    print(f"{name}: {len(texts)} texts, {failures} differ")
    return failures


def main():
    program = sys.argv[1]
    awkward = corpus.AWKWARD + corpus.random_text(4000)
    failures = 0
    if os.path.isdir(corpus.SHARED_DATA):
        path = os.path.join(corpus.SHARED_DATA, "tokenizer/qwen2/tokenizer.json")
        qwen2 = tokenizers.Tokenizer.from_file(path)
        failures += compare("qwen2, awkward text", program, "hf", path, qwen2, awkward + corpus.code_points())
        failures += compare("qwen2, DeepScaleR", program, "hf", path, qwen2, corpus.problems("train/deepscaler.jsonl"), [True])
    else:
        print(f"not compared: Qwen2's tokenizer; no folder {corpus.SHARED_DATA}")
    smollm2 = smollm2_oracle()
    failures += compare("smollm2, awkward text", program, "gguf", corpus.SMOLLM2, smollm2, awkward + corpus.code_points()[::3])
    if os.path.isdir(corpus.SHARED_DATA):
        failures += compare("smollm2, GSM8K", program, "gguf", corpus.SMOLLM2, smollm2, corpus.problems("train/gsm8k.jsonl"), [True])
    demo = "deploy/recipes/demo-base/tokenizer.json"
    oracle = tokenizers.Tokenizer.from_file(demo)
    failures += compare("demo", program, "hf", demo, oracle, ["<bos>a6b*9c-5d-0=", "b*9=4c-5=9d-0=9\\boxed{99}<eos>", "?~ A", *awkward[:100]])
    sys.exit(1 if failures else 0)


main()
