"""Parts that several agents use: networks, distributions, replay buffer, rollouts, returns. Imports no agent."""
