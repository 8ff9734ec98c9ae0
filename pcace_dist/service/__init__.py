"""The service: coordinator, workers, ledger, reduce. The only room that imports Ray."""
