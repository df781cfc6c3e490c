"""The safetensors format: its header, our index of several files, tensors as bytes, reading and writing."""
