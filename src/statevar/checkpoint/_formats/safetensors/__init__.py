"""The safetensors format: the header, the index of several files, values as bytes, the reader and the writer."""
