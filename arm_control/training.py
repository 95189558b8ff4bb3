"""Training: one loop for every agent, that can be stopped at any moment and gone on with."""

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from arm_control.checkpoint import list_checkpoints, load_latest, save_checkpoint
from arm_control.config import ENVIRONMENTS, TrainConfig
from arm_control.evaluation import (
    TRAINING,
    VALIDATION,
    Observation,
    actions_for,
    derived_seeds,
    environment_maker,
    roll_out,
)
from arm_control.progress import Reporter
from arm_control.run_folder import RunFolder
from arm_control.signals import stop_on_signals
from envs.arm import RADIANS, Arm
from envs.tasks import target_of
from policies.agent import Agent, Spec, Transition, tensors_of
from policies.ddpg import DDPG
from policies.dqn import DQN
from policies.policy_gradient import PolicyGradient
from policies.settings import PolicyGradientSettings

REPORTS = 20  # validations and reports in a run
VALIDATION_GOALS = 50
CHECKPOINT_EVERY_S = 10.0


def make_agent(config: TrainConfig, env: Any) -> Agent:
    """The agent that `config` names, for one environment's sizes, bounds and reward."""
    if env.actions != config.settings.actions:
        wanted = ENVIRONMENTS[config.settings.actions]
        raise ValueError(f"agent {config.agent} wants --env {wanted}, got {config.env}, of {env.action_space}")
    if env.episode_steps % (repeat := config.settings.action_repeat):
        raise ValueError(f"--action-repeat: wanted a divisor of an episode's {env.episode_steps} steps, got {repeat}")
    spaces, limits = env.observation_space.spaces, env.arm.limits
    step_deg = tuple(speed * env.simulation.control_period_s for speed in limits.max_speed_deg_s)
    absolute, box = config.control == "absolute", env.action_space
    low, high = (box.low, box.high) if env.grid is None else (limits.lower_deg, limits.upper_deg)
    spec = Spec(
        observation_size=spaces["observation"].shape[0],
        goal_size=spaces["desired_goal"].shape[0],
        goal_point_size=3,
        action_low=tuple(map(float, low)),
        action_high=tuple(map(float, high)),
        # The angles come first in `observation`; an action that is a change is not measured by anything.
        measured_columns=tuple(range(env.arm.joint_count)) if absolute else None,
        measured_unit=1.0 / RADIANS,
        max_step=step_deg if absolute else None,  # a change has its largest in its space
        kinematics=lambda observation, action: _lead(env, observation, action),
        grid_shape=env.grid.shape if env.grid is not None else None,
    )
    if isinstance(config.settings, PolicyGradientSettings):
        return PolicyGradient(spec, config.settings, config.seed)
    agent: Callable[..., Agent] = {"ddpg": DDPG, "dqn": DQN, "branching-dqn": DQN}[config.agent]
    return agent(spec, config.settings, env.compute_reward, config.seed)


def _lead(env: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Where the tip is (batch, 3) once the joints are where actions (batch, joints) ask for."""
    measured, _, previous_target = (observation / RADIANS).chunk(3, -1)
    tip: torch.Tensor = env.arm.forward_kinematics(target_of(action, env.control, measured, previous_target), torch)
    return tip


def load_policy(path: str | Path) -> tuple[TrainConfig, torch.nn.Module]:
    """A run's configuration and the policy of its latest checkpoint."""
    run, values = RunFolder.open(path)
    config = TrainConfig.from_json(values)
    _, state = load_latest(run.checkpoints)
    env: Any = environment_maker(config)().unwrapped
    try:
        _check_arm(env.arm, state["arm_urdf"])
        agent = make_agent(config, env)
        _fit(lambda: agent.load_state_dict(state["agent"]), str(run.config))
    finally:
        env.close()
    return config, agent.policy()


def _fit(load: Callable[[], None], what: str) -> None:
    """Load a state. Raises ValueError if it is of other networks, where PyTorch has many lines to say."""
    try:
        load()
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{what} does not fit the checkpoint, of other settings or another arm: {reason}") from None


def _check_arm(arm: Arm, urdf_text: str) -> None:
    """Raise ValueError if the run's arm has changed since its training."""
    if not arm.moves_like(Arm(arm.urdf, text=urdf_text)):
        raise ValueError(
            f"the arm in {arm.urdf} is not the one that the run was trained on: its joints or lengths differ"
        )


class PolicyController:
    """A PyTorch policy as a controller for `arm_control.evaluation`."""

    def __init__(self, policy: torch.nn.Module) -> None:
        self._policy = policy

    @torch.no_grad()
    def __call__(self, observation: Observation, arms: list[Any]) -> Any:
        """The policy's actions."""
        return actions_for(self._policy(*tensors_of(observation)).numpy(), arms)


def train(config: TrainConfig, out: str | Path, *, quiet: bool = False) -> Path:
    """Train from the start into the new folder `out`; returns it."""
    use_one_thread()
    if config.arm is not None:  # so that the run can be gone on with from any folder
        config = dataclasses.replace(config, arm=str(Path(config.arm).resolve()))
    with Training(config) as training:  # made first: what is wrong with the configuration leaves no folder behind
        if config.init is not None:
            _, state = load_latest(RunFolder.open(config.init)[0].checkpoints)
            _fit(lambda: training.agent.load_networks(state["agent"]), f"--init {config.init}")
        run = RunFolder.create(out, config.to_json())
        try:
            training.run(run, quiet=quiet)
        except OSError:
            if not list_checkpoints(run.checkpoints):
                shutil.rmtree(run.path, ignore_errors=True)  # not even the first checkpoint could be written
            raise
    return run.path


def resume(path: str | Path, *, quiet: bool = False) -> Path:
    """Go on with an interrupted run; a run of `--steps` then ends bit for bit as if it had not been interrupted."""
    use_one_thread()
    run, values = RunFolder.open(path)
    config = TrainConfig.from_json(values)
    step, state = load_latest(run.checkpoints)
    with Training(config) as training:
        _fit(lambda: training.load_state_dict(state), str(run.config))
        run.cut_metrics(step)
        training.run(run, quiet=quiet)
    return run.path


class Training:
    """The arms, the agent and the counters of one run."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._make_env = environment_maker(config)
        self.arms = SyncVectorEnv([self._make_env] * config.arms, autoreset_mode=AutoresetMode.SAME_STEP)
        self._bare_arms: list[Any] = [arm.unwrapped for arm in self.arms.envs]
        self.agent = make_agent(config, self._bare_arms[0])
        seeds = derived_seeds(config.seed, TRAINING, config.arms)
        self.observation: Observation = self.arms.reset(seed=[*seeds])[0]
        self.step = 0
        self.updates = 0
        self.elapsed_s = 0.0

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        self.arms.close()

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end."""
        return self.config.progress(self.step, self.elapsed_s)

    def state_dict(self) -> dict[str, Any]:
        """All that the training to come depends on."""
        return {
            "agent": self.agent.state_dict(),
            "arm_urdf": self._bare_arms[0].arm.urdf_text,
            "arms": [arm.save_state() for arm in self._bare_arms],
            "step": self.step,
            "updates": self.updates,
            "elapsed_s": self.elapsed_s,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        _check_arm(self._bare_arms[0].arm, state["arm_urdf"])
        self.agent.load_state_dict(state["agent"])
        if len(state["arms"]) != len(self.arms.envs):
            raise ValueError(f"the checkpoint is of {len(state['arms'])} arms, config.json says {len(self.arms.envs)}")
        rows = [arm.restore_state(s) for arm, s in zip(self._bare_arms, state["arms"], strict=True)]
        self.observation = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        self.step, self.updates, self.elapsed_s = state["step"], state["updates"], state["elapsed_s"]

    def run(self, run: RunFolder, *, quiet: bool) -> None:
        """Train to the end, or to Ctrl-C and raise KeyboardInterrupt; either way with a last checkpoint."""
        last_checkpoint = time.monotonic()
        next_report = (int(self.progress * REPORTS + 1e-9) + 1) / REPORTS
        metrics: dict[str, float] = {}
        with run.locked(), stop_on_signals() as stopped:
            reporter = Reporter(run, self.config, self.step, self.elapsed_s, quiet=quiet)
            if self.step == 0 and not run.read_metrics():
                self._save(run, reporter)  # so that a run can be gone on with from its first moment
                self._report(reporter, {})
            while self.progress < 1.0 and not stopped():
                begin = time.monotonic()
                metrics |= self._advance()
                self.elapsed_s += time.monotonic() - begin
                if self.progress >= next_report:
                    next_report = (int(self.progress * REPORTS + 1e-9) + 1) / REPORTS
                    self._report(reporter, metrics)
                elif not quiet:
                    reporter.tick(self.step, self.updates, self.elapsed_s, self.progress)
                if time.monotonic() - last_checkpoint > CHECKPOINT_EVERY_S:
                    self._save(run, reporter)
                    last_checkpoint = time.monotonic()
            self._save(run, reporter)
            reporter.close(self.step, self.elapsed_s, finished=self.progress >= 1.0)
            if self.progress < 1.0:
                raise KeyboardInterrupt

    def _advance(self) -> dict[str, float]:
        """One action of every arm, which may last several steps, and the agent's updates for it."""
        action = self.agent.act(self.observation, explore=True)
        for _ in range(self.config.settings.action_repeat):
            following, reward, terminated, truncated, info = self.arms.step(action)
        ended = terminated | truncated
        next_observation = following
        if ended.any():
            # An arm that was reset within the step: the transition ends in what it saw before.
            next_observation = {key: value.copy() for key, value in following.items()}
            for index in np.flatnonzero(ended):
                for key, value in next_observation.items():
                    value[index] = info["final_obs"][index][key]
        self.agent.observe(
            Transition(self.observation, action, reward.astype(np.float32), next_observation, terminated, ended)
        )
        self.observation = following
        self.step += self.config.arms * self.config.settings.action_repeat
        metrics = self.agent.update(self.progress)
        self.updates += int(metrics.pop("updates", 0))
        return metrics

    def _report(self, reporter: Reporter, metrics: dict[str, float]) -> None:
        seeds = derived_seeds(self.config.seed, VALIDATION, VALIDATION_GOALS)
        rollouts = roll_out(PolicyController(self.agent.policy()), self._make_env, seeds)
        error = rollouts.error_mm
        reporter.report(
            {
                "step": self.step,
                "updates": self.updates,
                "elapsed_s": round(self.elapsed_s, 3),
                "progress": self.progress,
                "mean_error_mm": float(error.mean()),
                "success": float((error <= 1000 * self.config.goal_tolerance_m).mean()),
                "return": float(rollouts.returns.mean()),
                **metrics,
            }
        )

    def _save(self, run: RunFolder, reporter: Reporter) -> None:
        reporter.flush()
        save_checkpoint(run.checkpoints, self.step, self.state_dict())


def use_one_thread() -> None:
    """Use one thread: the networks are small, and a second one costs more than it gives."""
    torch.set_num_threads(1)
