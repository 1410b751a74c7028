"""The mathematics of RLHF as pure functions on tensors: no I/O, no model, no configuration.

Token tensors are ``[B, C]`` (batch, completion position) with a bool ``mask`` that is True where a token counts.
Comparison tensors are ``[..., N, K]`` (ensemble members, comparisons, candidates). Every loss is a sum divided by an
explicit ``count`` over the *global* batch, so that micro-batches and ranks add up to the same number.

Left out: anything that needs a model (logprobs, entropies and values come in ready), distributed reduction (the caller
sums counts over ranks), and losses without a reward model (DPO and its kin).
"""
