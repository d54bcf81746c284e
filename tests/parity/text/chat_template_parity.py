"""Prompts equal those that transformers renders from the models' own Jinja templates, in text and in tokens.

usage: chat_template_parity.py RENDER_CHATS
"""
import json
import os
import subprocess
import sys

import gguf
import transformers

import corpus
from smollm2 import smollm2_oracle

CHATS = [
    [{"role": "user", "content": "What is 1+1?"}],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": "\n\n  leading and trailing  \n\n"}],
    [{"role": "user", "content": "caf\u0065\u0301 \U0001f600 {{ x }} {% y %}"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}],
    [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
    [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "\nA\n"}, {"role": "user", "content": "R"}],
    [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"},
     {"role": "user", "content": "R"}, {"role": "assistant", "content": "B"}],
]


def compare(name, program, kind, path, oracle):
    chats = [{"messages": messages, "prompt": prompt} for messages in CHATS for prompt in (True, False)]
    done = subprocess.run([program, kind, path], input="".join(json.dumps(chat) + "\n" for chat in chats).encode(),
                          stdout=subprocess.PIPE, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    failures = abs(len(found) - len(chats))
    for chat, mine in zip(chats, found):
        text = oracle.apply_chat_template(chat["messages"], tokenize=False, add_generation_prompt=chat["prompt"])
        ids = oracle.apply_chat_template(chat["messages"], tokenize=True, add_generation_prompt=chat["prompt"])
        if text != mine["text"] or ids != mine["ids"]:
            failures += 1
            print(f"{name}: {chat}\n  expected {text!r} {ids}\n  found    {mine['text']!r} {mine['ids']}")
    print(f"{name}: {len(chats)} prompts, {failures} differ")
    return failures


def main():
    program = sys.argv[1]
    failures = 0
    qwen2 = os.path.join(corpus.SHARED_DATA, "tokenizer/qwen2")
    if os.path.isdir(qwen2):
        with open(os.path.join(qwen2, "tokenizer_config.json"), encoding="utf-8") as file:
            config = json.load(file)
        oracle = transformers.PreTrainedTokenizerFast(tokenizer_file=os.path.join(qwen2, "tokenizer.json"))
        oracle.chat_template = config["chat_template"]
        failures += compare("qwen2", program, "hf", qwen2, oracle)
    else:
        print(f"not compared: Qwen2's template; no folder {qwen2}")
    fields = gguf.GGUFReader(corpus.SMOLLM2).fields
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_object=smollm2_oracle())
    oracle.chat_template = fields["tokenizer.chat_template"].contents()
    failures += compare("smollm2", program, "gguf", corpus.SMOLLM2, oracle)
    sys.exit(1 if failures else 0)


main()
