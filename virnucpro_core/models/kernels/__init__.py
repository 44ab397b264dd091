"""Kernels of the packed forward, for inference on a GPU: few and small, in Triton.

Each concept is two modules: the plain torch function, which says what is computed and stands in where Triton
cannot serve, and beside it `*_triton`, imported only where it runs.

| kernel           | what it does                                            | serves                            |
| ---------------- | ------------------------------------------------------- | --------------------------------- |
| add_norm         | residual addition, LayerNorm, cast or fp8               | rows of up to 16,384 values       |
| gelu             | gelu (erf), or gelu and fp8                             | fp16, bf16                        |
| rotate           | rotary embedding of q and k                             | head sizes up to 256              |
| rotary_attention | rotary embedding and attention, segments of up to 384   | head sizes 16, 24, 32, 64, 128    |
| segment_means    | mean over a segment's rows                              | fp16, bf16, fp32                  |
| fp8.Fp8Linear    | matrix product in fp8, scales by row                    | compute capability 9.0            |

A row's or segment's result depends on nothing but that row or segment: not on its place, its neighbours or the
size of the batch, to the last bit. So no kernel splits a sum among programs, none is tuned at run time, and tiles
are counted from the segment's own start.
"""
