"""What the libraries that models come from know of them: which library, class names, preprocessing."""
