"""How a run reads its data: labels, names of classes, columns of folders."""
