"""The learner's steps equal those of transformers, autograd and torch.optim.AdamW.

usage: trainer_parity.py TRAIN_STEPS

Random policies of both architectures, random groups; three GRPO steps of two updates each, with and
without KL and clip-higher. Compared after every step: loss, KL, entropy, gradient norm, clip ratio,
|log-prob - rollout's|; at the end all weights. The same with low-rank adapters against peft, which must load them too.
"""

import json
import subprocess
import sys
import tempfile

import peft
import torch
import transformers

VOCABULARY = 61


def make_model(architecture, seed):
    torch.manual_seed(seed)
    sizes = dict(vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=128, rope_theta=100.0, tie_word_embeddings=architecture == "llama",
                 bos_token_id=1, eos_token_id=2, pad_token_id=None, initializer_range=0.15)
    if architecture == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes))


def log_probs_of(model, group, sample, temperature):
    """Log-probs and entropies of a sample's tokens, one plain pass."""
    prompt, tokens = group["prompt"], sample["tokens"]
    logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1:-1].float() / temperature
    log_softmax = logits.log_softmax(-1)
    return (log_softmax.gather(1, torch.tensor(tokens)[:, None])[:, 0], -(log_softmax.exp() * log_softmax).sum(1))


def make_steps(model, count, temperature, generator):
    steps = []
    for _ in range(count):
        groups = []
        for _ in range(4):
            group = {"prompt": torch.randint(0, VOCABULARY, (int(torch.randint(2, 9, (), generator=generator)),),
                                             generator=generator).tolist(), "samples": []}
            for index in range(4):
                length = int(torch.randint(1, 24, (), generator=generator))
                sample = {"tokens": torch.randint(0, VOCABULARY, (length,), generator=generator).tolist(),
                          "reward": float(index % 3 == 0)}
                with torch.no_grad():
                    exact, _ = log_probs_of(model, group, sample, temperature)
                sample["log_probs"] = (exact + 0.15 * torch.randn(length, generator=generator)).tolist()
                group["samples"].append(sample)
            groups.append(group)
        steps.append(groups)
    return steps


def train(model, reference, settings):
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=0.01)
    for groups in settings["steps"]:
        sums = dict(loss=0.0, kl=0.0, entropy=0.0, clipped=0.0, tokens=0)
        grad_norm, mismatch = 0.0, 0.0
        updates = settings["minibatches"]
        for update in range(updates):
            part = groups[update * len(groups) // updates:(update + 1) * len(groups) // updates]
            normaliser = sum(len(s["tokens"]) for g in part for s in g["samples"])
            loss = torch.zeros((), dtype=torch.float64)
            for group in part:
                rewards = torch.tensor([s["reward"] for s in group["samples"]], dtype=torch.float64)
                advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
                for sample, advantage in zip(group["samples"], advantages):
                    new, entropy = log_probs_of(model, group, sample, settings["temperature"])
                    old = torch.tensor(sample["log_probs"])
                    ratio = (new - old).exp()
                    clipped = ratio.clamp(1 - 0.2, 1 + settings["clip_high"])
                    terms = -torch.minimum(ratio * advantage, clipped * advantage)
                    sums["clipped"] += float((clipped * advantage < ratio * advantage).sum())
                    if settings["kl_coefficient"] > 0:
                        with torch.no_grad():
                            base, _ = log_probs_of(reference, group, sample, settings["temperature"])
                        difference = base - new
                        kl = difference.exp() - difference - 1
                        sums["kl"] += float(kl.detach().sum())
                        terms = terms + settings["kl_coefficient"] * kl
                    loss = loss + terms.sum() / normaliser
                    sums["entropy"] += float(entropy.detach().sum())
                    sums["tokens"] += len(old)
                    if update == 0:
                        mismatch = max(mismatch, float((new - old).detach().abs().max()))
            optimizer.zero_grad()
            loss.backward()
            grad_norm = max(grad_norm, float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            optimizer.step()
            sums["loss"] += float(loss.detach()) / updates
        yield {"loss": sums["loss"], "kl": sums["kl"] / sums["tokens"], "entropy": sums["entropy"] / sums["tokens"],
               "grad_norm": grad_norm, "clip_ratio": sums["clipped"] / sums["tokens"], "mismatch_max": mismatch}


def compare(program, architecture, seed, kl_coefficient, clip_high, temperature):
    generator = torch.Generator().manual_seed(seed)
    model = make_model(architecture, seed)
    reference = make_model(architecture, seed)
    settings = {"learning_rate": 1e-3, "kl_coefficient": kl_coefficient, "clip_high": clip_high, "minibatches": 2,
                "microbatch_tokens": 60, "temperature": temperature,
                "steps": make_steps(model, 3, temperature, generator)}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder + "/policy")
        with open(folder + "/batches.json", "w") as file:
            json.dump(settings, file)
        output = subprocess.run([program, folder + "/policy", folder + "/batches.json", folder + "/out"], check=True,
                                capture_output=True, text=True).stdout
        ours = [json.loads(line) for line in output.splitlines()]
        weights = type(model).from_pretrained(folder + "/out").state_dict()
    assert len(ours) == 3
    for step, (expected, found) in enumerate(zip(train(model, reference, settings), ours)):
        for key, value in expected.items():
            error = abs(value - found[key])
            assert error <= 1e-5 + 2e-4 * abs(value) * (key == "grad_norm"), (
                f"{architecture}, step {step}: {key} is {found[key]}, expected {value}")
    worst = max(float((weights[name] - tensor).abs().max()) for name, tensor in model.state_dict().items())
    # Adam turns the rounding of a gradient near 0 into a part of the learning rate.
    assert worst <= 2e-4, f"{architecture}: weights differ by {worst}"
    print(f"{architecture}, KL {kl_coefficient}, clip_high {clip_high}, temperature {temperature}: "
          f"weights within {worst:.1e} after 6 updates")


def run(program, folder, settings, out):
    with open(folder + "/batches.json", "w") as file:
        json.dump(settings, file)
    output = subprocess.run([program, folder + "/policy", folder + "/batches.json", folder + out], check=True,
                            capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def compare_lora(program, architecture, seed):
    """The adapters' steps equal peft's from the same start; peft loads the adapter, transformers the merged policy."""
    generator = torch.Generator().manual_seed(seed)
    model = make_model(architecture, seed)
    settings = {"learning_rate": 1e-3, "kl_coefficient": 0.0, "clip_high": 0.2, "minibatches": 2, "microbatch_tokens": 60,
                "temperature": 1.0, "lora_rank": 3, "lora_alpha": 12.0, "lora_targets": "q_proj,v_proj,down_proj",
                "recompute_layers": 1, "steps": []}
    steps = make_steps(model, 3, 1.0, generator)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder + "/policy")
        run(program, folder, settings, "/start")
        ours = run(program, folder, {**settings, "steps": steps}, "/out")
        adapted = peft.PeftModel.from_pretrained(type(model).from_pretrained(folder + "/policy"), folder + "/start/adapter",
                                                 is_trainable=True)
        for step, (expected, found) in enumerate(zip(train(adapted, None, {**settings, "steps": steps}), ours)):
            for key, value in expected.items():
                error = abs(value - found[key])
                assert error <= 1e-5 + 2e-4 * abs(value) * (key == "grad_norm"), (
                    f"LoRA, step {step}: {key} is {found[key]}, expected {value}")
        loaded = peft.PeftModel.from_pretrained(type(model).from_pretrained(folder + "/policy"), folder + "/out/adapter")
        merged = type(model).from_pretrained(folder + "/out")
        tokens = torch.arange(20)[None] % VOCABULARY
        with torch.no_grad():
            of_peft, of_adapter, of_merged = (m(tokens).logits for m in (adapted, loaded, merged))
            of_base = type(model).from_pretrained(folder + "/policy")(tokens).logits
    assert float((of_adapter - of_merged).abs().max()) <= 1e-5, "the adapter and the merged policy differ"
    worst = float((of_peft - of_adapter).abs().max())
    assert worst <= 1e-3, f"logits after training differ from peft's by {worst}"
    moved = float((of_merged - of_base).abs().max())
    assert moved > 10 * worst, f"training moved the logits by {moved} only"
    print(f"LoRA, {architecture}: logits within {worst:.1e} of peft's after 6 updates that moved them by {moved:.1e}")


def main():
    program = sys.argv[1]
    torch.set_num_threads(1)
    compare(program, "qwen2", 1, 0.0, 0.2, 1.0)
    compare(program, "llama", 2, 0.05, 0.28, 0.6)
    compare_lora(program, "qwen2", 3)


if __name__ == "__main__":
    main()
