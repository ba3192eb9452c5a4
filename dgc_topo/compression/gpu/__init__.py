"""DGC's step on GPUs: a few Triton kernels that do, bit for bit, what the plain operations do.

Importing its modules needs Triton, which comes with torch where there are GPUs.  One step::

    norm          one pass over the gradients: are they finite, and how long
    accumulation  one pass over gradient, velocity and residual, which lists candidates
    candidates    radix select among them: exactly the largest, in ascending order
    accumulation  take what is sent: mask velocity and residual
    wire          measure and write the message

`FusedStep` launches all of it as one CUDA graph, and waits for the GPU once, at the end.
"""
