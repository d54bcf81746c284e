"""The loss of fixed logits, rewards and masks, and its gradient, equal those of trl's GRPOTrainer and of the formulas
written out in double precision.

usage: loss_parity.py LOSS_OF_LOGITS

trl takes part with GRPOTrainer._compute_loss itself, on a model that returns the logits. What trl has no word for
(decoupled importance weights, CISPO, the entropy bonus) is compared with the formulas alone.
"""

import importlib.machinery
import json
import subprocess
import sys
import tempfile
import types
from unittest import mock

import torch

# trl imports its data libraries at once and needs none of them for a loss.
for name in ("pyarrow", "pyarrow.compute", "pyarrow.types", "pandas"):
    sys.modules[name] = mock.MagicMock(__spec__=importlib.machinery.ModuleSpec(name, None))
datasets = types.ModuleType("datasets")
datasets.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
for name in ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict"):
    setattr(datasets, name, type(name, (), {}))
sys.modules["datasets"] = datasets
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402

VOCABULARY = 13
CONTEXT = 12
TRL_LOSS = {"token_mean": "dapo", "sequence_mean": "grpo", "fixed_length": "dr_grpo"}
DEFAULTS = dict(temperature=1.0, aggregation="token_mean", ratio="token", clip_low=0.2, clip_high=0.2, dual_clip=0.0,
                kl_coefficient=0.0, off_policy="none", importance_cap=0.0, entropy_coefficient=0.0,
                context_tokens=CONTEXT, microbatch_tokens=20, masks=False)


def make_case(seed, **settings):
    generator = torch.Generator().manual_seed(seed)
    case = {**DEFAULTS, **settings, "groups": []}
    for _ in range(3):
        group = []
        for index in range(4):
            length = int(torch.randint(1, CONTEXT + 1, (), generator=generator))
            logits = 2 * torch.randn(length, VOCABULARY, generator=generator)
            tokens = torch.randint(0, VOCABULARY, (length,), generator=generator)
            own = (logits / case["temperature"]).log_softmax(-1).gather(1, tokens[:, None])[:, 0]

            def near(spread):
                return (own + spread * torch.randn(length, generator=generator)).tolist()

            behavior = near(0.3)
            group.append({"tokens": tokens.tolist(), "logits": logits.tolist(), "behavior": behavior,
                          "old": behavior if case["off_policy"] == "none" else near(0.3), "reference": near(0.4),
                          "reward": float(torch.rand((), generator=generator) < 0.5),
                          "masked": bool(case["masks"]) and index == 3})
        group[0]["reward"], group[1]["reward"] = 1.0, 0.0  # something to learn in every group
        case["groups"].append(group)
    return case


def samples_of(case):
    """(sample, advantage) of all, in double."""
    for group in case["groups"]:
        kept = torch.tensor([s["reward"] for s in group if not s["masked"]], dtype=torch.float64)
        for sample in group:
            advantage = (sample["reward"] - kept.mean()) / (kept.std() + 1e-6)
            yield sample, 0.0 if sample["masked"] else float(advantage)


def reference_loss(case, logits):
    """The papers' formulas over a list of [length, vocabulary] leaves in double."""
    samples = list(samples_of(case))
    decided = [s for s, _ in samples if not s["masked"]]
    tokens = sum(len(s["tokens"]) for s in decided)
    loss = torch.zeros((), dtype=torch.float64)
    for (sample, advantage), leaf in zip(samples, logits):
        if sample["masked"]:
            continue
        log_softmax = (leaf / case["temperature"]).log_softmax(-1)
        new = log_softmax.gather(1, torch.tensor(sample["tokens"])[:, None])[:, 0]
        old, behavior, base = (torch.tensor(sample[k], dtype=torch.float32).double()
                               for k in ("old", "behavior", "reference"))
        log_ratio = new - old
        if case["ratio"] == "sequence":
            log_ratio = log_ratio.mean().expand_as(log_ratio)
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - case["clip_low"], 1 + case["clip_high"])
        if case["ratio"] == "cispo":
            gain = clipped.detach() * advantage * new
        else:
            gain = torch.minimum(ratio * advantage, clipped * advantage)
            if case["dual_clip"] > 0 and advantage < 0:
                gain = gain.clamp(min=case["dual_clip"] * advantage)
        weight = torch.ones_like(old)
        if case["off_policy"] != "none":
            weight = (old - behavior).exp()
            if case["off_policy"] == "truncated":
                weight = weight.clamp(max=case["importance_cap"])
            elif case["importance_cap"] > 0:
                weight = weight * (weight <= case["importance_cap"])
        difference = base - new
        kl = difference.exp() - difference - 1
        entropy = -(log_softmax.exp() * log_softmax).sum(-1)
        terms = -weight * gain + case["kl_coefficient"] * kl - case["entropy_coefficient"] * entropy
        divisor = {"token_mean": tokens, "sequence_mean": len(decided) * len(old),
                   "fixed_length": len(decided) * CONTEXT}[case["aggregation"]]
        loss = loss + terms.sum() / divisor
    return loss


def trl_loss(case, logits):
    samples = list(samples_of(case))

    def padded(key):
        return torch.tensor([s[key] + [0.0] * (CONTEXT - len(s[key])) for s, _ in samples])

    ids = padded("tokens").long()
    mask = torch.tensor([[float(i < len(s["tokens"]) and not s["masked"]) for i in range(CONTEXT)] for s, _ in samples])
    stacked = torch.stack([torch.cat([leaf, torch.zeros(CONTEXT - len(leaf), VOCABULARY)]) for leaf in logits])

    def model(**inputs):
        # One token of prompt: the logits of the last position predict nothing.
        return types.SimpleNamespace(logits=torch.cat([stacked, torch.zeros(len(samples), 1, VOCABULARY)], 1))

    args = types.SimpleNamespace(delta=case["dual_clip"] or None, report_to=[])
    trainer = types.SimpleNamespace(
        top_entropy_quantile=1.0, beta=case["kl_coefficient"], importance_sampling_level=case["ratio"], args=args,
        epsilon_low=case["clip_low"], epsilon_high=case["clip_high"], loss_type=TRL_LOSS[case["aggregation"]],
        use_vllm=case["off_policy"] != "none", vllm_importance_sampling_correction=True, temperature=case["temperature"],
        current_gradient_accumulation_steps=1, max_completion_length=CONTEXT, model_kwarg_keys=set(),
        model=types.SimpleNamespace(training=True), _metrics={"train": __import__("collections").defaultdict(list)},
        accelerator=types.SimpleNamespace(num_processes=1, gather=lambda x: x))
    trainer._get_per_token_logps_and_entropies = types.MethodType(
        GRPOTrainer._get_per_token_logps_and_entropies, trainer)
    inputs = dict(prompt_ids=torch.zeros(len(samples), 1, dtype=torch.long),
                  prompt_mask=torch.ones(len(samples), 1), completion_ids=ids, completion_mask=mask,
                  advantages=torch.tensor([a for _, a in samples]), old_per_token_logps=padded("old"),
                  ref_per_token_logps=padded("reference"), num_items_in_batch=mask.sum(),
                  importance_sampling_ratio=(padded("old") - padded("behavior")).exp().clamp(
                      max=case["importance_cap"] or 1e9))
    return GRPOTrainer._compute_loss(trainer, model, inputs)


def with_gradients(function, case, dtype):
    logits = [torch.tensor(s["logits"], dtype=dtype, requires_grad=True) for s, _ in samples_of(case)]
    loss = function(case, logits)
    loss.backward()
    return float(loss.detach()), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in logits]


def check(program, name, case, with_trl=True):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(case, file)
        file.flush()
        found = json.loads(subprocess.run([program, file.name], check=True, capture_output=True, text=True).stdout)
    ours = [torch.tensor(sample) for group in found["gradients"] for sample in group]
    assert found["micro_batches"] > 1, "the case must be cut into micro-batches"
    peers = {"double": with_gradients(reference_loss, case, torch.float64)}
    if with_trl:
        peers["trl"] = with_gradients(trl_loss, case, torch.float32)
    worst = {}
    for peer, (loss, gradients) in peers.items():
        errors = [abs(found["loss"] - loss)]
        errors += [float((a - b).abs().max()) for a, b in zip(ours, gradients)]
        worst[peer] = max(errors)
        assert worst[peer] <= 1e-5, f"{name}: {peer} differs by {worst[peer]} (loss {found['loss']} and {loss})"
    assert max(float(g.abs().max()) for g in ours) > 1e-3, f"{name}: no gradient"
    print(f"{name}: within " + ", ".join(f"{value:.1e} of {peer}" for peer, value in worst.items()))


def main():
    program = sys.argv[1]
    torch.set_num_threads(1)
    for aggregation in TRL_LOSS:
        check(program, aggregation, make_case(1, aggregation=aggregation, temperature=0.6))
    check(program, "masked samples", make_case(2, masks=True))
    check(program, "clip-higher", make_case(3, clip_high=0.28))
    check(program, "dual clip", make_case(4, dual_clip=1.5))
    check(program, "sequence ratio (GSPO)", make_case(5, ratio="sequence", clip_low=0.05, clip_high=0.08))
    check(program, "KL", make_case(6, kl_coefficient=0.3))
    check(program, "truncated importance weights", make_case(7, off_policy="truncated", importance_cap=1.1))
    check(program, "everything at once", make_case(8, temperature=0.8, masks=True, clip_high=0.28, dual_clip=2.0,
                                                   kl_coefficient=0.1, off_policy="truncated", importance_cap=1.2))
    check(program, "decoupled", make_case(9, off_policy="decoupled"), with_trl=False)
    check(program, "decoupled, bounded", make_case(10, off_policy="decoupled", importance_cap=1.2), with_trl=False)
    check(program, "CISPO", make_case(11, ratio="cispo"), with_trl=False)
    check(program, "entropy bonus", make_case(12, entropy_coefficient=0.2, temperature=0.7), with_trl=False)


if __name__ == "__main__":
    main()
