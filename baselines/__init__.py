"""The methods under test, one file each."""

if __name__ != "floe_bench.baselines":  # from the checkout's root Python would find it under a second name
    raise ImportError("import floe_bench.baselines, not baselines")
