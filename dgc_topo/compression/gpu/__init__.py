"""DGC's step on GPUs: a few Triton kernels with the same results, bit for bit, as on a CPU.

Importing its modules needs Triton, which comes with torch where there are GPUs.  One step::

    norm          one pass over the gradients: their L2 norm, and whether they are finite
    accumulation  one pass over gradient, velocity and residual, which lists candidates
    candidates    radix select: exactly the largest candidates, in ascending order
    accumulation  take the sent elements: mask velocity and residual
    wire          measure and write the message

`FusedStep` launches all of it as one CUDA graph, and waits for the GPU once, at the end.
"""
