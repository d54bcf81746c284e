"""A GGUF file's tensors dequantised to F32 or BF16, its metadata kept: the same weights for llama.cpp."""
import gguf
import numpy
from gguf.quants import dequantize


def write_gguf(source, target, dtype):
    reader = gguf.GGUFReader(source)
    kind = gguf.GGMLQuantizationType.BF16 if dtype == "bfloat16" else gguf.GGMLQuantizationType.F32
    arch = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(target, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == gguf.Keys.General.ARCHITECTURE:
            continue
        if name == gguf.Keys.General.FILE_TYPE:
            writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if dtype == "bfloat16" else gguf.LlamaFileType.ALL_F32)
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        small = values.ndim == 1  # norms stay F32 in every GGUF
        writer.add_tensor(tensor.name, values if small else gguf.quants.quantize(values, kind),
                          raw_dtype=gguf.GGMLQuantizationType.F32 if small else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
