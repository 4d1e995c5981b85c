"""Training mixes (`mixes`), evaluations (`evals`), and the rows embedded for a machine without the hub."""

if __name__ != "floe_bench.tasks":  # from the checkout's root Python would find it under a second name
    raise ImportError("import floe_bench.tasks, not tasks")
