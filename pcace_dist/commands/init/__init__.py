"""`pcace init`: a commented job file, from what a model and a data set say of themselves."""
