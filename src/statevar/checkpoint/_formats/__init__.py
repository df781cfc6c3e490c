"""One folder for each file format. Only safetensors is written."""
