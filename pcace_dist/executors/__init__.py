"""Who runs tasks: Ray's actors, threads of this process, the caller itself. The only room that imports Ray."""

from pcace_dist.executors import search_path

search_path.libraries_first()  # before any other module of this room imports anything
