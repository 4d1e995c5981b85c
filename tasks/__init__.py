"""What methods are trained on (`mixes`), scored by (`evals`), and the rows embedded for a machine with no hub."""

if __name__ != "floe_bench.tasks":  # from the checkout's root Python would find it under a second name
    raise ImportError("import floe_bench.tasks, not tasks")
