"""The file formats, one folder each. So far there is one, safetensors."""
