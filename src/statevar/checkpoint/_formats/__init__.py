"""The file formats: safetensors, which is written too, and those of other programs, which are only read."""
