"""The service: coordinator, workers, ledger, reduce. The only room that imports Ray."""

from pcace_dist.service import search_path

search_path.libraries_first()  # before any other module of this room imports anything
