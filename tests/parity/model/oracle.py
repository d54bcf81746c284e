"""What transformers says of models: logits of a token sequence and greedy continuations.

    oracle-python oracle.py random OUT       random small models of every architecture, each a folder OUT/<name>
    oracle-python oracle.py folder OUT DIR   an existing Hugging Face folder DIR; writes OUT/expected.safetensors
    oracle-python oracle.py gguf OUT FILE PROMPTS   a GGUF file: 16 greedy tokens of each prompt of PROMPTS, JSON of token ids

expected.safetensors holds tokens [T], logits [T, V] (of the whole sequence at once), prompt<i> [P], greedy<i> [N].
"""
import json
import os
import sys

import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file

torch.set_num_threads(1)  # threads that wait for each other are slow where others work too
torch.manual_seed(0)


def greedy(model, prompt, count):
    """The most probable token again and again, with the model's own cache; stop tokens do not stop it."""
    out, past, ids = [], None, prompt[None]
    with torch.no_grad():
        for _ in range(count):
            step = model(ids, past_key_values=past, use_cache=True)
            past = step.past_key_values
            ids = step.logits[:, -1:].argmax(-1)
            out.append(int(ids))
    return torch.tensor(out)


def expect(model, out, prompts, count, length=70):
    tokens = torch.randint(model.config.vocab_size, (length,))
    with torch.no_grad():
        logits = model(tokens[None]).logits[0].float()
    tensors = {"tokens": tokens, "logits": logits.contiguous()}
    for i, prompt in enumerate(prompts):
        tensors[f"prompt{i}"] = prompt
        tensors[f"greedy{i}"] = greedy(model, prompt, count)
    save_file(tensors, os.path.join(out, "expected.safetensors"))


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
COMMON = dict(vocab_size=211, max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, initializer_range=0.15)
CASES = {
    "llama": ("Llama", dict(hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
                            num_key_value_heads=2, tie_word_embeddings=False)),
    "llama_tied_scaled": ("Llama", dict(hidden_size=72, intermediate_size=100, num_hidden_layers=2,
                                        num_attention_heads=9, num_key_value_heads=3, head_dim=16, rope_theta=5e5,
                                        rope_scaling=LLAMA3, tie_word_embeddings=True)),
    "llama_linear": ("Llama", dict(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=3,
                                   num_key_value_heads=1, rope_scaling={"rope_type": "linear", "factor": 2.0})),
    "qwen2": ("Qwen2", dict(hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
                            num_key_value_heads=2, rope_theta=100.0, tie_word_embeddings=False)),
    "qwen2_tied_sharded": ("Qwen2", dict(hidden_size=80, intermediate_size=90, num_hidden_layers=3,
                                         num_attention_heads=5, num_key_value_heads=5, tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
                            num_key_value_heads=2, head_dim=40, rope_theta=1e6, tie_word_embeddings=True)),
    "qwen3_bf16": ("Qwen3", dict(hidden_size=56, intermediate_size=72, num_hidden_layers=2, num_attention_heads=7,
                                 num_key_value_heads=7, head_dim=10)),
}


def random_models(out):
    for name, (kind, options) in CASES.items():
        config = getattr(transformers, kind + "Config")(**COMMON, **options)
        model = getattr(transformers, kind + "ForCausalLM")(config).eval()
        with torch.no_grad():  # biases and norms that count
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        folder = os.path.join(out, name)
        if name.endswith("bf16"):
            model = model.bfloat16()
        model.save_pretrained(folder, max_shard_size="100KB" if name.endswith("sharded") else "5GB")
        # Read again: .bfloat16() has rounded the RoPE frequencies too, which no loaded model has.
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        expect(model, folder, [torch.randint(211, (n,)) for n in (9,)], 256)


NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def load_llama_gguf(path):
    """transformers' model with gguf-py's dequantised weights (its own GGUF loader wants `accelerate`)."""
    reader = GGUFReader(path)
    field = lambda name: reader.fields[name].contents()
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    weights = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            if parts[2] in ("attn_q", "attn_k"):  # convert_hf_to_gguf.py interleaves the halves of a head
                n = heads if parts[2] == "attn_q" else kv_heads
                rows, columns = values.shape
                values = values.reshape(n, rows // n // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
            weights[f"model.layers.{parts[1]}.{NAMES[parts[2]]}.{parts[3]}"] = values
        else:
            weights[{"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight",
                     "output": "lm_head.weight"}[parts[0]]] = values
    tied = "lm_head.weight" not in weights
    if tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    config = transformers.LlamaConfig(
        vocab_size=weights["model.embed_tokens.weight"].shape[0], hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"), num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads, num_key_value_heads=kv_heads, rope_theta=field("llama.rope.freq_base"),
        rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"), tie_word_embeddings=tied,
        max_position_embeddings=field("llama.context_length"))
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict(weights)
    return model


def gguf(out, path, prompts_path):
    model = load_llama_gguf(path)
    with open(prompts_path, encoding="utf-8") as file:
        prompts = [torch.tensor(ids) for ids in json.load(file)]
    expect(model, out, prompts, 16, length=20)


def main():
    command, out = sys.argv[1], sys.argv[2]
    os.makedirs(out, exist_ok=True)
    if command == "random":
        random_models(out)
    elif command == "folder":
        model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[3], dtype=torch.float32).eval()
        expect(model, out, [torch.randint(model.config.vocab_size, (4,))], 256)
    elif command == "gguf":
        gguf(out, sys.argv[3], sys.argv[4])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
