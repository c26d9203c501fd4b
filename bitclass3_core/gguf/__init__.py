"""GGUF files: read, written, guarded; ggml's kernels, names and recipes."""
