"""Values of independent programs, computed once by the scripts here and stored beside them."""
