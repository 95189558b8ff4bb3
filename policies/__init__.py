"""What is learned, and how. PyTorch, NumPy and plain arrays: nothing here knows the arm or its environment."""
