"""Tensors of every type that we dequantise equal gguf-py's bit for bit: blocks of random bytes, and a real model's. What
we write is read by gguf-py, and its quantised bytes are those that gguf-py makes.

usage: gguf_parity.py DEQUANTIZE_GGUF REQUANTIZE_GGUF
"""
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np

import corpus

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]


def compare(name, program, path, tensors):
    """tensors: name to expected floats."""
    done = subprocess.run([program, path, *tensors], stdout=subprocess.PIPE, check=True)
    found = np.frombuffer(done.stdout, np.float32)
    failures, at = 0, 0
    for tensor, expected in tensors.items():
        expected = np.ascontiguousarray(expected, np.float32).reshape(-1)
        mine = found[at:at + expected.size]
        at += expected.size
        same = (mine.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(mine) & np.isnan(expected))
        if mine.size != expected.size or not same.all():
            failures += 1
            where = int(np.argmin(same)) if mine.size == expected.size else -1
            print(f"{name}, {tensor}: element {where}: expected {expected[where]!r}, found {mine[where] if mine.size else None!r}")
    if at != found.size:
        failures += 1
        print(f"{name}: expected {at} floats, found {found.size}")
    print(f"{name}: {len(tensors)} tensors, {at} elements, {failures} differ")
    return failures


def compare_written(program, folder, random):
    path, written = os.path.join(folder, "floats.gguf"), os.path.join(folder, "written.gguf")
    values = random.standard_normal((16, 256), np.float32) * random.choice([1e-4, 1.0, 300.0], (16, 1)).astype(np.float32)
    values[3, :32] = 0
    values[4, :32] = [1, -1] * 16  # two values of the largest magnitude: the first counts
    values[5, :32] = np.arange(32) / 2  # ties of rounding
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("x", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    subprocess.run([program, path, written], check=True)
    reader = gguf.GGUFReader(written)
    expected_fields = {"test.words": ["a", "b\u00e9"], "test.numbers": [1, -2], "test.real": 0.25, "test.flag": True}
    found_fields = {key: reader.fields[key].contents() for key in expected_fields}
    failures = int(found_fields != expected_fields)
    if failures:
        print(f"written metadata: expected {expected_fields}, found {found_fields}")
    for tensor in reader.tensors:
        kind = gguf.GGMLQuantizationType[tensor.name.split(".")[1]]
        expected = gguf.quants.quantize(values, kind)
        same = tensor.tensor_type == kind and list(tensor.shape) == [256, 16] and tensor.data.tobytes() == expected.tobytes()
        failures += not same
        if not same:
            differ = np.flatnonzero(np.frombuffer(tensor.data.tobytes(), np.uint8) != np.frombuffer(expected.tobytes(), np.uint8))
            print(f"written {tensor.name}: {differ.size} bytes differ, the first at {differ[:1]}")
    assert len(reader.tensors) == 5
    print(f"written: {len(reader.tensors)} tensors, {failures} differ")
    return failures


def main():
    program, requantize = sys.argv[1:]
    random = np.random.default_rng(20261122)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "random.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        expected = {}
        for name in TYPES:
            kind = gguf.GGMLQuantizationType[name]
            block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            blocks = 512 if block_elements > 1 else 8192
            data = random.integers(0, 256, (4, blocks * block_bytes), np.uint8)
            # One more row of small scales, so that most values are finite.
            data[1] &= 0x3F
            if name in ("F32", "F16"):
                typed = data.view(np.float32 if name == "F32" else np.float16)
                writer.add_tensor(name, typed)
                expected[name] = typed.astype(np.float32)
            else:
                writer.add_tensor(name, data, raw_dtype=kind)
                with np.errstate(all="ignore"):
                    expected[name] = gguf.quants.dequantize(data, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        failures = compare("random blocks", program, path, expected)
        failures += compare_written(requantize, folder, random)
    wanted = ("token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight", "blk.7.ffn_down.weight", "blk.29.attn_v.weight")
    real = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for tensor in gguf.GGUFReader(corpus.SMOLLM2).tensors if tensor.name in wanted}
    assert len(real) == len(wanted)
    failures += compare("SmolLM2", program, corpus.SMOLLM2, real)
    sys.exit(1 if failures else 0)


main()
