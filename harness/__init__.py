"""The engine: one way from a profile and some names to records and tables."""

if __name__ != "floe_bench.harness":  # from the checkout's root Python would find it under a second name
    raise ImportError("import floe_bench.harness, not harness")
