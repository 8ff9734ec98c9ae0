"""The life of one run, on the driver: prepare, plan, main pass, reduce, publish."""
