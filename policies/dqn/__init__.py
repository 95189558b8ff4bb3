"""DQN over the degree grid."""
