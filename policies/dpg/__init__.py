"""DPG: deterministic policy gradient with compatible critics."""
