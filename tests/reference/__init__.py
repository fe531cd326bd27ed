"""The training of methods as a careful person writes it who needs nothing else: one loop for each.

Images are floats in memory; nothing is logged, saved or configurable, and what is known of the experiment is used:
two classes a task in the order of the outputs, mini-batches of 128, one pass, linear layers, a fresh optimizer for
each task (so an entry without a gradient stays where it is). Everything that a method does is done, and every random
number is the one that ours draws. `test_reference.py` holds our methods to them;
`tests/benchmarks/speed.py` times both. Whoever puts them on a GPU calls them in `with torch.device("cuda")`.
"""
