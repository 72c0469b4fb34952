"""Which aten operator is which work. What is in no table, and is not pointwise by torch's own tag, cannot be recorded."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALIAS = _names("""view _unsafe_view reshape _reshape_alias t transpose permute unsqueeze squeeze expand alias detach lift_fresh
    view_as_real view_as_complex _conj movedim""")
"""All elements of one tensor, seen otherwise: no work."""

PART = _names("slice select split split_with_sizes unbind chunk narrow as_strided diagonal real imag")
"""Some elements of one tensor: no work."""

MOVE = _names("""clone cat stack _to_copy copy constant_pad_nd repeat flip index index_select gather repeat_interleave
    scatter slice_scatter select_scatter index_put index_copy pixel_shuffle pixel_unshuffle col2im unfold reflection_pad1d
    replication_pad1d reflection_pad2d fill zero empty_like zeros_like ones_like full_like new_zeros new_empty new_ones new_full
    masked_fill tril triu where channel_shuffle take_along_dim""")
"""Copies; they ride along with the arithmetic beside them."""

LOOKUP = _names("index index_select gather take_along_dim")
"""Moves that choose rows by an index."""

PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2), "_grouped_mm": (0, 1), "_scaled_mm": (0, 1), "_int_mm": (0, 1),
            "mv": (0, 1), "addmv": (1, 2), "dot": (0, 1)}
"""Matrix products: which arguments are the operands."""

VECTOR = _names("""native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm
    _fused_rms_norm rms_norm _softmax _safe_softmax _log_softmax softmax
    sum mean var var_mean std amax amin max min prod any all argmax argmin logsumexp norm linalg_vector_norm cumsum cumprod topk argsort
    index_add scatter_add scatter_reduce embedding_renorm native_dropout histc bincount searchsorted one_hot _prelu_kernel glu celu
    hardswish softplus threshold leaky_relu gelu silu mish elu logit erf erfc bernoulli multinomial""")
"""Arithmetic on elements, reductions included."""

POOLS = _names("""avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_max_pool2d""")
MOVED = _names("roll im2col sort grid_sampler_2d upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d")
"""Data movement that is an operator by itself."""

ACTIVATIONS = {
    "silu": ("silu", "mish", "hardswish", "elu"),
    "sigmoid": ("sigmoid",),
    "softplus": ("softplus",),
    "gelu": ("gelu", "erf"),
    "relu": ("relu", "threshold", "leaky_relu", "clamp_min"),
    "tanh": ("tanh",),
    "exp": ("exp", "log", "pow", "sin", "cos"),
}
"""Operators by the activation that they are or cost as much as."""
NORMS = {
    "layernorm": ("native_layer_norm",),
    "groupnorm": ("native_group_norm",),
    "batchnorm": ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
    "rmsnorm": ("_fused_rms_norm", "rms_norm"),
}
SOFTMAX = ("_softmax", "_safe_softmax", "_log_softmax", "softmax")
SUMS = ("sum", "index_add", "scatter_add", "scatter_reduce")


def work(op: str, pointwise: bool) -> str | None:
    """Class of an aten operator: alias, part, or the `work` of a Node; None where it has none."""
    for name, table in (("alias", ALIAS), ("part", PART), ("move", MOVE), ("product", PRODUCTS), ("vector", VECTOR), ("pool", POOLS),
                        ("moved", MOVED)):
        if op in table:
            return name
    named = {"convolution": "conv", "embedding": "embedding", "_fft_c2c": "fft", "_fft_r2c": "fft", "_fft_c2r": "fft"}
    return named.get(op, "vector" if pointwise else None)
