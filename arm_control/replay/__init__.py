"""Ways of looking at a controller."""
