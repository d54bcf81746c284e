"""What `crescendo export` writes, loaded by others: transformers (policy, tokenizer, generation config) and llama.cpp.

  export_parity.py CRESCENDO_EXPORT CRESCENDO_ROLLOUT
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import openai
import safetensors.torch
import torch
import transformers
import xllamacpp

sys.path.append("tests/parity/text")
import corpus  # noqa: E402
import smollm2  # noqa: E402

DEMO = pathlib.Path("deploy/recipes/demo-base")
EXPORT, ROLLOUT = sys.argv[1:3]


def export(*arguments):
    return subprocess.run([EXPORT, *map(str, arguments)], capture_output=True, text=True, timeout=240)


def exported(*arguments):
    result = export(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def logits(folder, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model, model(ids).logits


def hugging_face(work):
    """A folder comes back as it went in."""
    out = work / "demo"
    exported(DEMO, out)
    ids = torch.tensor([[1, 22, 15, 12, 16, 4, 23]])
    model, given = logits(out, ids)
    assert torch.equal(given, logits(DEMO, ids)[1])
    assert model.generation_config.eos_token_id in (2, [2])
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(f) for f in (out, DEMO))
    assert ours("a9b*9c+8d") == theirs("a9b*9c+8d")
    assert (ours.eos_token, ours.pad_token) == (theirs.eos_token, theirs.pad_token)


def checkpoint(work):
    """A checkpoint's weights over the shape and tokenizer of its base; a run's folder means its newest."""
    weights = safetensors.torch.load_file(DEMO / "model.safetensors")
    run = work / "run"
    for step, scale in ((9, 0.5), (10, 1.25)):
        folder = run / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        safetensors.torch.save_file({k: v.float() * scale for k, v in weights.items()}, folder / "weights.safetensors")
        config = f'[run]\nsteps = 0\n[policy]\npath = "{DEMO.absolute()}"\n[[stage]]\ncontext_tokens = 48\n'
        (folder / "checkpoint.json").write_text(json.dumps({"config": config}) + "\ncrc32c 00000000\n")
    exported(run, work / "trained")
    for name, value in safetensors.torch.load_file(work / "trained" / "model.safetensors").items():
        assert torch.equal(value, weights[name].float() * 1.25), name
    transformers.AutoModelForCausalLM.from_pretrained(work / "trained")
    exported(run / "checkpoints" / "step-000009", work / "half", "--dtype", "bfloat16")
    half = safetensors.torch.load_file(work / "half" / "model.safetensors")
    assert all(torch.equal(v, (weights[k].float() * 0.5).bfloat16()) for k, v in half.items())


def from_gguf(work):
    """The tokenizer that a GGUF base carries becomes a tokenizer.json of the same ids."""
    out = work / "smollm2"
    exported(corpus.SMOLLM2, out)
    oracle = smollm2.smollm2_oracle()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    with open(pathlib.Path(corpus.SHARED_DATA) / "train/deepscaler.jsonl", encoding="utf-8") as file:
        problems = [json.loads(next(file))["problem"] for _ in range(300)]
    for text in problems + corpus.AWKWARD:
        ids = oracle.encode(text, add_special_tokens=False).ids
        assert tokenizer(text, add_special_tokens=False).input_ids == ids, text
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=False), text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), chat
    reader = gguf.GGUFReader(corpus.SMOLLM2)
    down = next(t for t in reader.tensors if t.name == "blk.3.ffn_down.weight")
    expected = torch.from_numpy(gguf.dequantize(down.data, down.tensor_type))
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert torch.equal(model.model.layers[3].mlp.down_proj.weight, expected)
    text = model.generate(**tokenizer("The capital of France is", return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(text[0]), text


def llama_cpp(path, prompt, tokens):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_gpu_layers, params.n_parallel = 256, 0, 1
    params.warmup = params.fit_params = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = -1
    answer = xllamacpp.Server(params).handle_completions(
        {"prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "stream": False})
    return answer["choices"][0]["text"]


def crescendo(path, prompt, tokens):
    command = [ROLLOUT, "serve", "--rollout.http=127.0.0.1:0", f"--policy.path={path}", "--rollout.kv_tokens=2048",
               "--policy.chat_template=raw"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        client = openai.OpenAI(base_url=process.stdout.readline().strip(), api_key="none", timeout=240)
        answer = client.completions.create(model=pathlib.Path(path).stem, prompt=prompt, max_tokens=tokens, temperature=0)
        process.terminate()
        return answer.choices[0].text


def llama(work):
    """llama.cpp loads each format and says what Crescendo says of the same file."""
    prompt = "The capital of France is"
    for kind, tokens in (("f16", 12), ("q8_0", 8), ("q4_0", 3)):
        path = work / f"smollm2-{kind}.gguf"
        exported(corpus.SMOLLM2, path, "--as", kind)
        assert llama_cpp(path, prompt, tokens) == crescendo(path, prompt, tokens), kind
        path.unlink()
    exported(DEMO, work / "demo.gguf")
    problem = "a9b*9c+8d*6e*3="
    assert llama_cpp(work / "demo.gguf", problem, 12) == crescendo(work / "demo.gguf", problem, 12)


def refused(work):
    for arguments, words in (((work / "nothing", work / "x"), "does not exist"),
                             ((work, work / "x"), "found none of them there"),
                             ((DEMO, work / "demo"), "is not empty"),
                             ((DEMO, work / "x.gguf", "--as", "hf"), "is to be a folder"),
                             ((DEMO, work / "x", "--as", "q8_0"), "ends with .gguf"),
                             ((DEMO, work / "x.gguf", "--as", "q5_k"), "q5_k"),
                             ((DEMO, work / "x", "--dtype", "float16"), "float16"),
                             ((DEMO,), "target")):
        result = export(*arguments)
        assert result.returncode == 2 and words in result.stderr, (arguments, result)
    assert not (work / "x").exists() and not (work / "x.gguf").exists()


with tempfile.TemporaryDirectory() as folder:
    for part in (hugging_face, checkpoint, from_gguf, llama, refused):
        part(pathlib.Path(folder))
print("transformers and llama.cpp load what is exported")
