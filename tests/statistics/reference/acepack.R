# Runs acepack's ACE on the cases that make_acepack.py wrote. Usage: Rscript acepack.R FOLDER
#
# A case is FOLDER/NAME.bin: int32 n, m, C, p; then float64 y (n), held-out y (m), and per channel and component
# x (n), held-out x (m). The result is FOLDER/NAME.csv: one line per channel with the correlation of the transforms,
# |correlation| of the first component's transform with theta(y), and the correlation on the held-out rows, where the
# transforms are interpolated linearly and held constant beyond the ends.

library(acepack)

at <- function(x, f, where) approx(x, f, xout = where, rule = 2, ties = mean)$y
safe <- function(a, b) if (sd(a) > 0 && sd(b) > 0) cor(a, b) else 0

for (path in list.files(commandArgs(TRUE)[1], pattern = "[.]bin$", full.names = TRUE)) {
  file <- file(path, "rb")
  size <- readBin(file, "integer", 4, size = 4)
  n <- size[1]; m <- size[2]; p <- size[4]
  y <- readBin(file, "double", n)
  held_y <- readBin(file, "double", m)
  lines <- character()
  for (channel in seq_len(size[3])) {
    x <- matrix(0, n, p)
    held_x <- matrix(0, m, p)
    for (i in seq_len(p)) {
      x[, i] <- readBin(file, "double", n)
      held_x[, i] <- readBin(file, "double", m)
    }
    found <- ace(x, y)
    total <- rep(0, m)
    for (i in seq_len(p)) if (sd(x[, i]) > 0) total <- total + at(x[, i], found$tx[, i], held_x[, i])
    theta <- at(y, found$ty, held_y)
    values <- c(safe(found$ty, rowSums(found$tx)), abs(safe(found$ty, found$tx[, 1])), safe(theta, total))
    lines <- c(lines, paste(sprintf("%.6f", values), collapse = ","))
  }
  close(file)
  writeLines(lines, sub("[.]bin$", ".csv", path))
}
cat(as.character(packageVersion("acepack")), file = file.path(commandArgs(TRUE)[1], "version"))
