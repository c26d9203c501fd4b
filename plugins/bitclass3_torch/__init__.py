"""The HF model in torch, for every plugin that computes with it: a library, no plugin of its own.

    model               the loaded HF model, and the place of each ggml tensor in it
    hf_layouts          which HF parameter holds a tensor: of those that may by name and shape (fused, stacked, transposed), the one
                        whose values are the GGUF's; a new layout of experts goes here
    places              rows read from and written to a part of a parameter, and its powers
    products            every product with a parameter, seen or with changed inputs
    tokens, loss        chunks of a text, and the loss whose gradients make the Fisher matrix
    statistics          in_power, out_power and in_fisher of every tensor, out of these sums:
      dense_powers          of parameters that every token meets
      expert_powers         of stacked experts
      embedding_powers      of looked-up rows
    estimate            a calibration text turned into a sensitivity
    moments             second moments of inputs and gradients, for rounding with feedback; moment_sums adds them up
    activations         how llama.cpp rounds the inputs of products, and what that costs
    predictions         the source's likeliest tokens, and the divergence from them
    sums                sums of squares and of products, which the others share

``estimate``, ``model`` and ``tokens`` import torch and the modules that do inside functions, so that a list of plugins or a help page
does without it: plugins import those three at once, the others after a model is loaded.
"""

WEIGHT_BYTES = 6  # memory of a weight in torch: float32, and half as much again for what passes through the model
