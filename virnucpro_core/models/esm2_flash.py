"""ESM-2 over packed proteins: fair-esm's model and numbers, without padding.

`ESM2WithFlashAttention` wraps fair-esm's `ESM2` and adds `forward_packed`, which computes the same
representations for proteins laid end to end. The standard path, fair-esm's own forward on padded sub-batches,
stays at hand as `v1_compatible`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import esm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro_core.models.attention import (
    Attention,
    Backend,
    Choice,
    compute_dtype,
    packed_choice,
)
from virnucpro_core.models.inputs import packed_inputs
from virnucpro_core.models.kernels.choice import TRITON, Case, Kernels, choose_kernels
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.precision import MakeLinear, same_linear
from virnucpro_core.models.projections import MergedProjections
from virnucpro_core.models.rotary import RotaryTables
from virnucpro_core.options import AUTO

_KEPT_IN_TRAINING = 1 - 0.15 * 0.8
"""ESM-2 was trained with masked tokens zeroed; without masks the embeddings are scaled down to match."""

Product = Callable[[Tensor], Tensor]


class Products(NamedTuple):
    """What computes the matrix products of one layer, each [rows, in] -> [rows, out].

    `qkv` gives the query, key and value of all heads beside each other, [rows, 3 dim]; `out` is of the attended
    values; `fc1` and `fc2` are of the feed-forward.
    """

    qkv: Product
    out: Product
    fc1: Product
    fc2: Product


def esm2_layer(
    x: Tensor, module: Any, products: Products, attend: Attention, cos: Tensor, sin: Tensor
) -> Tensor:
    """One pre-norm transformer layer of ESM-2, over packed rows or, with an `attend` that unfolds them, padded ones.

    Args:
        x: the residual stream, fp32 [rows, dim].
        module: fair-esm's layer, for its two norms and its number of heads.
        products: the layer's matrix products.
        attend: [rows, heads, head size] of q, k and v -> [rows, heads, head size].
        cos, sin: [rows, 1, 1, head size / 2] of each row's position, in the type in which `products` compute.

    Returns:
        the residual stream after the layer, fp32 [rows, dim].
    """
    rows, dim = x.shape
    normed = layer_norm(x, module.self_attn_layer_norm).to(cos.dtype)
    # [rows, 3, heads, head size]: q, k, v
    qkv = products.qkv(normed).view(rows, 3, module.self_attn.num_heads, -1)
    # q and k, each half of a head: [rows, 2, heads, head size / 2]
    first, second = qkv[:, :2].chunk(2, dim=-1)
    # q and k, rotated: [rows, 2, heads, head size]
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    # [rows, heads, head size]
    attended = attend(rotated[:, 0], rotated[:, 1], qkv[:, 2])
    x = x + products.out(attended.reshape(rows, dim))
    # [rows, dim] -> [rows, 4 dim] -> [rows, dim]
    normed = layer_norm(x, module.final_layer_norm).to(cos.dtype)
    return x + products.fc2(F.gelu(products.fc1(normed)))


def token_dropout(x: Tensor, hidden: Tensor, share: Tensor) -> Tensor:
    """ESM-2's token dropout, which acts at inference too.

    Args:
        x: token embeddings, fp32 [..., dim].
        hidden: bool [...], the tokens whose embedding is zeroed: `<mask>`, and padding where there is any.
        share: fp32 [..., 1], the share of masked tokens in each token's protein.

    Returns:
        fp32 [..., dim], scaled so that a protein has the size that it had in ESM-2's training.
    """
    return x.masked_fill(hidden[..., None], 0.0) * _KEPT_IN_TRAINING / (1 - share)


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    """A LayerNorm of fp32 values in fp32, whatever the type of its weights."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)


class ESM2WithFlashAttention(nn.Module):
    """fair-esm's ESM-2 with a packed forward.

    Args:
        model: the model to wrap, of any size. Its weights are used, not copied. Its rotary `inv_freq` must be
            fp32 and stays so: `.half()` and `.to(dtype)` of the wrapper leave it alone.
        backend: "auto", or the name of the only attention back-end that may serve.
        v1_attention: True or False decides for every call whether the standard path is taken; None leaves it
            to the call's `v1_compatible`.
        linear: makes what computes each product of the packed path from the layer that has its weights; see
            `virnucpro_core.models.precision`. The standard path keeps fair-esm's own.
        kernels: "auto" (Triton's where they can serve), "triton" or "torch", for the packed path without
            gradients.

    Raises:
        ValueError: the model's `inv_freq` was cast, or differs between layers.
    """

    def __init__(
        self,
        model: esm.ESM2,
        backend: str = AUTO,
        v1_attention: bool | None = None,
        linear: MakeLinear = same_linear,
        kernels: str = AUTO,
    ) -> None:
        super().__init__()
        self.model = model
        self.backend_name = backend
        self.v1_attention = v1_attention
        self.kernels_name = kernels
        self.num_layers: int = model.num_layers
        self.dim: int = model.embed_dim
        self.heads: int = model.attention_heads
        self._choices: dict[tuple[torch.device, torch.dtype], Choice | None] = {}
        self._kernels: dict[tuple[torch.device, torch.dtype], Kernels] = {}
        self._rotary = RotaryTables([layer.self_attn.rot_emb for layer in model.layers])
        self._linear = linear
        self._projections = MergedProjections((layer.self_attn for layer in model.layers), linear)
        self._products = self._make_products()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.embed_tokens.weight.device
        return device

    def choice(self, device: torch.device, dtype: torch.dtype) -> Choice | None:
        """The attention back-end for this device and precision; None if only the standard path can serve.

        Raises:
            BackendUnavailable: the one that was asked for by name cannot serve.
        """
        key = (device, dtype)
        if key not in self._choices:
            self._choices[key] = packed_choice(self.backend_name, device, dtype, self.dim // self.heads)
        return self._choices[key]

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Kernels:
        """The kernels of the packed path for this device and precision.

        Raises:
            ValueError: unknown name.
            KernelsUnavailable: they were asked for by name and cannot serve.
        """
        key = (device, dtype)
        if key not in self._kernels:
            head_dim = self.dim // self.heads
            chosen = choose_kernels(self.kernels_name, Case(device, dtype, self.dim, head_dim))
            if chosen.fused_attention and self.backend_name != AUTO:
                reason = f"the attention back-end {self.backend_name} is asked for by name"
                refusals = chosen.refusals | {"rotary_attention": reason}
                chosen = replace(chosen, fused_attention=False, refusals=refusals)
            self._kernels[key] = chosen
        return self._kernels[key]

    def forward(self, tokens: Tensor, repr_layers: Sequence[int] = ()) -> dict[str, Any]:
        """fair-esm's own forward on padded `tokens` [batch, length], int64; its own result."""
        with self._rotary.lent_to_fair_esm(tokens.shape[1], self._compute_dtype()):
            result: dict[str, Any] = self.model(tokens, repr_layers=repr_layers)
        return result

    def forward_packed(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor | PackedLayout,
        max_seqlen: int,
        repr_layers: Sequence[int] | None = None,
        v1_compatible: bool = False,
    ) -> dict[str, dict[int, Tensor]]:
        """Representations of proteins laid end to end.

        Args:
            input_ids: int32 or int64 [tokens], each protein as `<cls>` residues `<eos>`. Ids on the host are
                checked; ids already on the device cannot be without waiting for it.
            cu_seqlens: int32 [proteins + 1] on the host: 0, l1, l1 + l2, ..., tokens; or the `PackedLayout`
                built from it, on the model's device.
            max_seqlen: tokens of the longest protein, or more.
            repr_layers: as fair-esm counts them: 0 the embeddings, i the output of layer i, num_layers after
                the final norm (the default).
            v1_compatible: take the standard path, unless `v1_attention` decides otherwise.

        Returns:
            {"representations": {layer: [tokens, dim]}}. A protein's rows do not depend on the others.

        Raises:
            ValueError: an argument is not as described; the message says which.
            BackendUnavailable: the attention back-end that was asked for by name cannot serve.
        """
        layers = (self.num_layers,) if repr_layers is None else tuple(repr_layers)
        for layer in layers:
            if not 0 <= layer <= self.num_layers:
                raise ValueError(f"repr_layers: there is no layer {layer}, only 0 to {self.num_layers}")
        ids, layout = packed_inputs(
            input_ids, cu_seqlens, max_seqlen, self.model.alphabet_size, self.model.padding_idx, self.device
        )
        choice = (
            None if self.takes_v1_path(v1_compatible) else self.choice(self.device, self._compute_dtype())
        )
        if choice is None:
            return self._forward_packed_fallback(ids, layout, layers)
        return self._forward_packed(ids, layout, layers, choice.backend)

    def on_path(self, v1: bool) -> ESM2WithFlashAttention:
        """This model on the standard path (True) or the packed one, whatever a call says; shares everything."""
        twin = copy.copy(self)
        twin.v1_attention = v1
        return twin

    def takes_v1_path(self, v1_compatible: bool = False) -> bool:
        """Whether the standard path is asked for."""
        return v1_compatible if self.v1_attention is None else self.v1_attention

    def _forward_packed(
        self, ids: Tensor, layout: PackedLayout, layers: Sequence[int], backend: Backend
    ) -> dict[str, dict[int, Tensor]]:
        """The packed path. ids [rows].

        The residual stream and its norms are in fp32 whatever the model's type: rounding it to 16 bits twice a
        layer would be the largest error of the whole forward. Matrix products and attention are in that type.
        """
        dtype = self._compute_dtype()
        kernels = self.kernels(self.device, dtype)
        if kernels.name == TRITON and not torch.is_grad_enabled():
            with torch.cuda.device(self.device):
                return self._forward_by_kernels(ids, layout, layers, backend, kernels)
        attend = backend.bind(layout, dtype)
        cos, sin = self._rotary.packed(layout, dtype)
        x = self._embed(ids, layout)
        kept = {0: x} if 0 in layers else {}
        for number, module in enumerate(self.model.layers, start=1):
            x = esm2_layer(x, module, self._layer_products(number - 1), attend, cos, sin)
            if number in layers:
                kept[number] = x
        if self.num_layers in layers:
            kept[self.num_layers] = layer_norm(x, self.model.emb_layer_norm_after)
        weight_dtype = self.model.embed_tokens.weight.dtype
        return {"representations": {layer: kept[layer][: layout.total].to(weight_dtype) for layer in layers}}

    def _forward_by_kernels(
        self, ids: Tensor, layout: PackedLayout, layers: Sequence[int], backend: Backend, kernels: Kernels
    ) -> dict[str, dict[int, Tensor]]:
        """The packed path without gradients. As `esm2_layer`, but a sub-layer's addition to the stream and the norm
        after it are one step, and the stream is changed in place.
        """
        dtype, weight_dtype = self._compute_dtype(), self.model.embed_tokens.weight.dtype
        attend = kernels.attention(layout, dtype, *self._rotary.by_position(layout.max_seqlen), backend)
        x = self._embed(ids, layout)  # float32 [rows, dim], the residual stream
        kept = {0: x.clone()} if 0 in layers else {}
        norms = [layer.self_attn_layer_norm for layer in self.model.layers[1:]]
        h = _add_norm(kernels, x, None, self.model.layers[0].self_attn_layer_norm, dtype)
        for number, (layer, norm) in enumerate(
            zip(self.model.layers, [*norms, self.model.emb_layer_norm_after], strict=True), start=1
        ):
            products = self._layer_products(number - 1)
            qkv = products.qkv(h)  # [rows, 3 dim]
            attended = attend(qkv.view(len(x), 3, self.heads, -1))  # [rows, dim]
            h = _add_norm(kernels, x, products.out(attended), layer.final_layer_norm, dtype)
            fed = products.fc2(kernels.gelu(products.fc1(h)))  # [rows, dim], through [rows, 4 dim]
            last = number == self.num_layers
            h = _add_norm(kernels, x, fed, norm, weight_dtype if last else dtype)
            if number in layers:
                kept[number] = h if last else x.clone()
        return {"representations": {layer: kept[layer][: layout.total].to(weight_dtype) for layer in layers}}

    def _forward_packed_fallback(
        self, ids: Tensor, layout: PackedLayout, layers: Sequence[int]
    ) -> dict[str, dict[int, Tensor]]:
        """The standard path: fair-esm's own forward on sub-batches padded with the alphabet's padding index.

        Proteins of like length go together, `PADDED_TOKENS` at a time, padded to the length of their
        bucket: a long protein costs the others nothing, and their numbers do not depend on it. Its forward
        waits for the device once per sub-batch.
        """
        plan = layout.padded_tokens
        outputs: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for bucket in plan.buckets:
            tokens = ids[bucket.gather].masked_fill(~bucket.valid, self.model.padding_idx)
            representations = self.forward(tokens, layers)["representations"]
            for layer, parts in outputs.items():
                parts.append(representations[layer])
        return {"representations": {layer: plan.repack(parts) for layer, parts in outputs.items()}}

    def _embed(self, ids: Tensor, layout: PackedLayout) -> Tensor:
        """Token embeddings, fp32 [rows, dim], after token dropout."""
        x: Tensor = self.model.embed_scale * self.model.embed_tokens(ids).float()
        if not self.model.token_dropout:
            return x
        masked = ids == self.model.mask_idx
        # Sums of ones are exact in any order, so adding them up in parallel changes no bit.
        counts = torch.zeros(len(layout.cu_seqlens) - 1, device=ids.device)
        counts = counts.index_add(0, layout.segment_ids, masked.to(counts.dtype))
        share = (counts / layout.cu_seqlens.diff())[layout.segment_ids, None]
        return token_dropout(x, masked, share)

    def _layer_products(self, index: int) -> Products:
        """Of layer `index`, from 0."""
        return Products(self._projections.of_layer(index), *self._products[index])

    def _make_products(self) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
        """What the precision puts in place of each layer's `out_proj`, `fc1` and `fc2`."""
        return [
            (self._linear(layer.self_attn.out_proj), self._linear(layer.fc1), self._linear(layer.fc2))
            for layer in self.model.layers
        ]

    def _compute_dtype(self) -> torch.dtype:
        return compute_dtype(self.model.embed_tokens.weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ESM2WithFlashAttention:
        """Move or cast the model, but leave `inv_freq` in fp32, and merge the projections again."""
        kept = self._rotary.frequencies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._rotary.restore(kept)
        self._projections.merge()
        self._products = self._make_products()
        return self


def _add_norm(kernels: Kernels, x: Tensor, y: Tensor | None, norm: Any, dtype: torch.dtype) -> Tensor:
    """x += y; the LayerNorm of x in `dtype`."""
    return kernels.add_norm(x, y, norm.weight, norm.bias, norm.eps, dtype)
