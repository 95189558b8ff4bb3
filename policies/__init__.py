"""What is learned, and how. PyTorch, NumPy and plain arrays: nothing here knows the arm or its environment."""

DISTRIBUTION = "arm-control"  # tells this package from others of the same name: arm_control/process/own_packages.py
