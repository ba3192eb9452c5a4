"""All-reduces of Open MPI and MPICH beside ours and Gloo's: ``python -m benchmarks.mpi``."""
