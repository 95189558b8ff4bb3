"""What several agents share: networks, distributions, replay, rollouts, returns. Imports no agent."""
