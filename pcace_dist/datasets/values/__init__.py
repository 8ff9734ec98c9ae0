"""What the values of columns mean: labels as class indices, names of classes, folders that are columns."""
