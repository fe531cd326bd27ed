"""A plugin of cl_bench; see README.md."""
