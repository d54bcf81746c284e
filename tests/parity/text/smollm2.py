"""SmolLM2's tokenizer as the PyPI package `tokenizers` builds it."""
import gguf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

import corpus


def smollm2_oracle():
    """What SmolLM2's own tokenizer.json holds, from the GGUF's metadata."""
    fields = gguf.GGUFReader(corpus.SMOLLM2).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    oracle = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    oracle.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    oracle.decoder = decoders.ByteLevel()
    oracle.add_special_tokens([token for token, kind in zip(tokens, types) if kind == 3])
    return oracle
