"""A3C in one process: RMSProp over shared memory, returns, and workers that share parameters."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from learners import make, random_observation
from torch import Tensor, nn

from policies.a3c.agent import SharedRMSProp, a3c
from policies.a3c.settings import A3CSettings
from policies.agent import OBSERVATION_KEYS, Observation, Spec, Transition
from policies.common.distributions import Gaussian
from policies.common.policy_gradient import PolicyGradient
from policies.common.rollout import Steps

SPEC = Spec(5, 2, (0.0, 10.0), (90.0, 60.0), measured_columns=(1, 2), measured_unit=57.3, max_step=(9.0, 5.0))
NUM_ENVS = 3
SETTINGS = A3CSettings(
    policy="gaussian",
    hidden_units=8,
    fourier_octaves=1,
    learning_starts=30,
    steps_per_update=4,
    scale_advantage=False,
    max_grad_norm=1e9,
    slowing_distance=0.0,
)
RATE = 0.1


def parameters(*values: list[float]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor(value)) for value in values]


def memory_for(of: list[nn.Parameter]) -> Any:
    return np.zeros(SharedRMSProp.bytes_needed(of), np.uint8)


def worker(memory: Any) -> tuple[nn.Parameter, SharedRMSProp]:
    """A worker's copy of a single shared number, and its optimiser."""
    [local] = parameters([0.0])
    return local, SharedRMSProp([local], memory)


def one_number(start: float = 0.0) -> Any:
    """Memory in which workers share a number."""
    [first] = parameters([start])
    memory = memory_for([first])
    SharedRMSProp([first], memory).publish()
    return memory


def descend(optimizer: SharedRMSProp, local: list[nn.Parameter], *gradients: list[float], rate: float = RATE) -> None:
    for parameter, gradient in zip(local, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    optimizer.step(rate)


def shared_of(optimizer: SharedRMSProp) -> list[float]:
    return [float(value) for value in optimizer.state_dict()["shared"]]


def squares_of(optimizer: SharedRMSProp) -> list[float]:
    return [float(value) for value in optimizer.state_dict()["square"]]


def near(wanted: Any) -> Any:
    return pytest.approx(wanted, rel=1e-5)


class TestSharedRMSProp:
    """RMSProp over parameters and statistics in shared memory."""

    def test_rmsprop_by_hand_with_epsilon_inside_the_root(self) -> None:
        """g = 0.99 g + 0.01 d^2, theta -= rate d / sqrt(g + 1e-5), by hand, where epsilon's place matters."""
        local = parameters([1.0])
        optimizer = SharedRMSProp(local)
        theta = 1.0
        for gradient, g in (
            (0.01, 1e-6),
            (0.02, 0.99 * 1e-6 + 4e-6),
            (-0.01, 0.99 * 4.99e-6 + 1e-6),
            (0.0, 0.99 * 5.9401e-6),
        ):
            descend(optimizer, local, [gradient])
            theta -= 0.1 * gradient / math.sqrt(g + 1e-5)
            assert squares_of(optimizer) == near([g])
            assert shared_of(optimizer) == near([theta])
        assert theta == near(1.0 - 0.3015113 - 0.5165700 + 0.2504693)

    def test_each_parameter_has_its_own_statistics(self) -> None:
        """Each number has its own mean square, and each step its own learning rate (computed by hand)."""
        local = parameters([1.0, 2.0], [3.0])
        optimizer = SharedRMSProp(local)
        descend(optimizer, local, [2.0, 0.0], [-4.0], rate=0.5)
        assert squares_of(optimizer) == near([0.04, 0.0, 0.16])
        assert shared_of(optimizer) == near([1.0 - 0.5 * 2.0 / 0.2000250, 2.0, 3.0 + 0.5 * 4.0 / 0.4000125])
        descend(optimizer, local, [0.0, 0.0], [0.0], rate=0.5)
        assert squares_of(optimizer) == near([0.0396, 0.0, 0.1584])

    def test_a_missing_gradient_counts_as_zero(self) -> None:
        """A parameter without a gradient stays, and its statistics decay."""
        local = parameters([1.0], [3.0])
        optimizer = SharedRMSProp(local)
        descend(optimizer, local, [2.0], [2.0])
        before = shared_of(optimizer)
        local[0].grad = None
        local[1].grad = torch.tensor([2.0])
        optimizer.step(RATE)
        assert shared_of(optimizer)[0] == before[0]
        assert shared_of(optimizer)[1] < before[1]
        assert squares_of(optimizer) == near([0.0396, 0.0796])

    def test_copy_restores_shapes(self) -> None:
        """Matrices and scalars are copied back in their own shapes."""
        values = torch.arange(6.0).view(2, 3)
        first, second = nn.Parameter(values.clone()), nn.Parameter(torch.tensor(7.0))
        optimizer = SharedRMSProp([first, second])
        for parameter in (first, second):
            parameter.data.fill_(0.0)
        optimizer.copy()
        assert torch.equal(first, values)
        assert second.item() == 7.0

    def test_steps_move_shared_parameters_only(self) -> None:
        """A step moves the shared parameters; the local ones change only by `copy`."""
        memory = one_number(5.0)
        local, optimizer = worker(memory)
        assert local.item() == 0.0
        optimizer.copy()
        assert local.item() == 5.0
        descend(optimizer, [local], [1.0])
        assert local.item() == 5.0
        optimizer.copy()
        assert local.item() == near(shared_of(optimizer)[0]) == near(5.0 - 0.1 / math.sqrt(0.01001))

    def test_workers_on_the_same_memory_share_parameters_and_statistics(self) -> None:
        """The second worker's step is scaled by the first one's statistics (computed by hand)."""
        memory = one_number(1.0)
        (first_local, first), (second_local, second) = worker(memory), worker(memory)
        for optimizer in (first, second):
            optimizer.copy()
        descend(first, [first_local], [2.0])
        descend(second, [second_local], [-1.0])
        g = 0.99 * 0.04 + 0.01  # the second step is scaled by the first one's statistics
        theta = 1.0 - 0.1 * 2.0 / math.sqrt(0.04001) + 0.1 / math.sqrt(g + 1e-5)
        for optimizer in (first, second):
            assert squares_of(optimizer) == near([g])
            assert shared_of(optimizer) == near([theta])
        second.copy()
        assert second_local.item() == near(theta)
        assert first_local.item() == 1.0

    def test_version_and_staleness(self) -> None:
        """The version counts all updates, staleness those of others since the copy (computed by hand)."""
        memory = one_number()
        (mine, me), (theirs, other) = worker(memory), worker(memory)
        stale = []
        for mine_copies, turns in ((True, 0), (True, 3), (True, 1), (True, 0)):
            if mine_copies:
                me.copy()
            for _ in range(turns):
                other.copy()
                descend(other, [theirs], [1.0])
                assert other.staleness == 0
            descend(me, [mine], [1.0])
            stale.append(me.staleness)
        assert stale == [0, 3, 1, 0]
        assert me.state_dict()["version"] == other.state_dict()["version"] == 8

    def test_without_shared_memory_it_uses_its_own(self) -> None:
        """Without shared memory, an optimiser holds its own copy of the parameters."""
        [local] = parameters([3.0])
        optimizer = SharedRMSProp([local])
        local.data.fill_(0.0)
        optimizer.copy()
        assert local.item() == 3.0

    def test_attaching_does_not_change_shared_memory(self) -> None:
        """Attaching a worker leaves the memory bit for bit, until it publishes."""
        memory = one_number(4.0)
        before = memory.tobytes()
        local, optimizer = worker(memory)
        assert memory.tobytes() == before
        local.data.fill_(6.0)
        optimizer.publish()
        assert shared_of(optimizer) == [6.0]

    def test_it_continues_from_its_state_exactly(self) -> None:
        """Restored from its state, parameters, statistics, version and staleness continue."""

        def steps(optimizer: SharedRMSProp, local: list[nn.Parameter], *gradients: float) -> None:
            for gradient in gradients:
                descend(optimizer, local, [gradient, -gradient])

        whole, local = parameters([1.0, 2.0]), parameters([8.0, 9.0])
        first, second = SharedRMSProp(whole), SharedRMSProp(local)
        steps(first, whole, 1.0, 2.0)
        first.copy()
        steps(first, whole, 3.0)
        second.load_state_dict({key: torch.as_tensor(value).clone() for key, value in first.state_dict().items()})
        steps(first, whole, 4.0)
        steps(second, local, 4.0)
        assert shared_of(second) == shared_of(first)
        assert squares_of(second) == squares_of(first)
        assert second.state_dict()["version"] == 4
        assert second.staleness == first.staleness == 1


def losses(weight: nn.Parameter) -> list[Callable[[], Tensor]]:
    """Losses of one parameter, whose gradients are 1, 2 and 3 wherever it is."""
    return [lambda slope=slope: slope * weight.sum() for slope in (1.0, 2.0, 3.0)]  # type: ignore[misc]


class TestGradientAliasing:
    """Explicit copies of gradients, compared with aliased ones."""

    def test_the_shared_parameters_move_by_the_true_gradients(self) -> None:
        """With gradients reset to None before each backward pass, the shared parameters move by 1, 2 and 3."""
        memory = one_number()
        local, optimizer = worker(memory)
        applied = []
        for loss in losses(local):
            optimizer.copy()
            before, square = shared_of(optimizer)[0], squares_of(optimizer)[0]
            local.grad = None
            loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step(RATE)
            scale = math.sqrt(squares_of(optimizer)[0] + 1e-5) / RATE
            applied.append((before - shared_of(optimizer)[0]) * scale)
            assert squares_of(optimizer)[0] == near(0.99 * square + 0.01 * applied[-1] ** 2)
        assert applied == pytest.approx([1.0, 2.0, 3.0], rel=1e-4)

    @pytest.mark.parametrize(
        ("zeroed", "wrong"), [("shared", [1.0, 3.0, 6.0]), ("local", [1.0, 1.0, 1.0])], ids=["shared", "local"]
    )
    def test_aliased_gradients_are_wrong(self, zeroed: str, wrong: list[float]) -> None:
        """Aliasing `_grad`, common since PyTorch 0.2, accumulates 1, 3, 6 or repeats 1, 1, 1 instead."""
        local, shared = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([shared], lr=1.0)
        cleaner = optimizer if zeroed == "shared" else torch.optim.SGD([local], lr=1.0)
        applied = []
        for loss in losses(local):
            local.data.copy_(shared.data)
            cleaner.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            if shared.grad is None:
                shared._grad = local.grad
            before = shared.item()
            optimizer.step()
            applied.append(before - shared.item())
        assert applied == wrong


def steps_of(reward: list[list[float]], terminated: list[list[float]], ended: list[list[float]]) -> Steps:
    """Steps from one line per environment."""
    r, t, e = (torch.tensor(rows).T for rows in (reward, terminated, ended))
    return Steps((), (), torch.zeros(*r.shape, 1), r, t, e, torch.zeros_like(r))


class TestReturns:
    """n-step returns."""

    def test_returns_by_hand(self) -> None:
        """Returns of four environments with gamma = 0.5, terminated and truncated at different steps, by hand."""
        steps = steps_of(
            reward=[[1, 2, 4, 8], [1, 2, 4, 8], [1, 2, 4, 8], [1, 2, 4, 8]],
            terminated=[[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
            ended=[[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1]],
        )
        value = torch.tensor([[3.0, 1, 5, 7], [3, 1, 5, 7], [3, 1, 5, 7], [3, 1, 5, 7]]).T
        next_value = torch.tensor([[1.0, 5, 7, 16], [1, 500, 7, 16], [1, 20, 7, 700], [40, 5, 7, 24]]).T
        credit = a3c(steps, value, next_value, replace(SETTINGS, discount=0.5))
        wanted = [
            [
                1 + 0.5 * 8,
                2 + 0.5 * 12,
                4 + 0.5 * 16,
                8 + 0.5 * 16,
            ],  # the value after the last step stands for the rest
            [1 + 0.5 * 2, 2, 4 + 0.5 * 16, 8 + 0.5 * 16],  # nothing comes after the second
            [1 + 0.5 * 12, 2 + 0.5 * 20, 4 + 0.5 * 8, 8],  # the value where it was cut off
            [1 + 0.5 * 40, 2 + 0.5 * 14, 4 + 0.5 * 20, 8 + 0.5 * 24],
        ]
        assert credit.value_target.T.tolist() == wanted
        assert torch.equal(credit.advantage, credit.value_target - value)
        assert torch.equal(credit.mask, torch.ones(4, 4))


def draw(seed: tuple[int, ...]) -> Observation:
    """Random observations of all environments, from a seed."""
    return random_observation(SPEC, NUM_ENVS, np.random.default_rng(seed))


def step(agent: PolicyGradient, number: int, *, ended: tuple[int, ...] = (), terminated: tuple[int, ...] = ()) -> None:
    """Act and observe a random transition; the episodes of these environments end."""
    before = draw((number, 0))
    action = agent.act(before, explore=True)
    reward = np.random.default_rng((number, 2)).normal(size=NUM_ENVS).astype(np.float32)
    flags = [np.isin(np.arange(NUM_ENVS), which) for which in (terminated, ended + terminated)]
    agent.observe(Transition(before, action, reward, draw((number, 1)), *flags))


def agent_of(settings: A3CSettings = SETTINGS, **options: Any) -> PolicyGradient:
    """An agent past its random steps, with parameters moved away from the initial ones."""
    agent = make(SPEC, settings, 0, **options)
    while not agent.normalizer_fitted:
        step(agent, 1000 + len(agent._rollout))
        assert agent.update(0.0) == {}
    move(agent)
    return agent


def move(agent: PolicyGradient, seed: int = 0) -> None:
    """Move its parameters at random, and publish them."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in agent._parameters:
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    assert agent.shared is not None
    agent.shared.publish()


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def gradient_of(agent: PolicyGradient) -> Tensor:
    """The gradient of the agent's last update."""
    return flat(parameter.grad for parameter in agent._parameters)


def by_loops(agent: PolicyGradient, steps: Steps, discount: float) -> Tensor:
    """The gradient of Algorithm S3 at the agent's parameters: step by step, environment by environment.

    dtheta <- dtheta + grad log pi(a|s) (R - V(s)) and dtheta_v <- dtheta_v + grad (R - V(s))^2 / 2, here of their mean.
    """
    count, num_envs = steps.reward.shape
    loss = torch.zeros(())
    for index in range(num_envs):
        for t in range(count):
            observed = tuple(part[t, index][None] for part in steps.observation)
            features = agent._policy.encoder(*observed)
            value = agent._value(features)[0, 0]
            r, weight = 0.0, 1.0
            for k in range(t, count):
                r += weight * steps.reward[k, index].item()
                weight *= discount
                if steps.terminated[k, index]:
                    break
                if steps.ended[k, index] or k == count - 1:
                    following = tuple(part[k, index][None] for part in steps.next_observation)
                    r += weight * agent._value(agent._policy.encoder(*following)).item()
                    break
            drawn = agent._policy.distribution(features, observed[0])
            assert isinstance(drawn, Gaussian)
            normal = torch.distributions.Normal(drawn.mean[0], drawn.std[0])
            log_prob: Tensor = normal.log_prob(steps.sample[t, index]).sum()  # type: ignore[no-untyped-call]
            loss = loss - log_prob * (r - value.item()) + 0.5 * (r - value) ** 2
    return flat(torch.autograd.grad(loss / (count * num_envs), agent._parameters))


def filled(agent: PolicyGradient) -> Steps:
    """The pending steps of the agent's rollout, which keeps them."""
    state = agent._rollout.state_dict()
    steps = agent._rollout.take()
    agent._rollout.load_state_dict(state)
    return steps


@pytest.fixture
def two_workers() -> tuple[PolicyGradient, PolicyGradient]:
    """Two agents on the same shared parameters; the second changes them."""
    memory: list[Any] = []

    def shared_memory(size: int) -> Any:
        """The same memory for both."""
        memory[:] = memory or [np.zeros(size, np.uint8)]
        return memory[0]

    agent = agent_of(shared_memory=shared_memory)
    other = make(SPEC, SETTINGS, 1, shared_memory=shared_memory, first=False)
    other.join(agent.state_dict())
    return agent, other


class TestSeveralWorkers:
    """Workers that share parameters."""

    def test_parameters_are_copied_at_the_start_of_each_rollout(
        self,
        two_workers: tuple[PolicyGradient, PolicyGradient],
    ) -> None:
        """Parameters are copied before the first step of a rollout and stay constant until its end."""
        agent, other = two_workers
        assert agent.shared is not None
        copies = []
        for number in range(12):
            move(other, number)
            agent.act(draw((0, 0)), explore=False)  # copies nothing
            before = flat(agent._parameters)
            step(agent, number)
            after = flat(agent._parameters)
            copies.append(not torch.equal(before, after))
            if copies[-1]:
                assert after.tolist() == shared_of(agent.shared)
            agent.update(0.0)
            assert torch.equal(flat(agent._parameters), after)  # an update moves what is shared alone
        assert copies == [True, False, False, False] * 3

    def test_actions_use_the_copied_parameters(self, two_workers: tuple[PolicyGradient, PolicyGradient]) -> None:
        """Changes by another worker affect actions from the next rollout on."""
        agent, other = two_workers
        seen = draw((5, 0))
        seen["observation"][:, 1:3] = np.array([40.0, 30.0]) / 57.3  # between the bounds, to which actions are clipped
        agent.act(seen, explore=True)
        copied = agent.act(seen, explore=False)
        step(agent, 0)
        move(other, 1)
        step(agent, 1)
        assert np.array_equal(agent.act(seen, explore=False), copied)
        for number in (2, 3):
            step(agent, number)
        assert agent.update(0.0)["updates"] == 1
        step(agent, 4)
        assert not np.array_equal(agent.act(seen, explore=False), copied)

    def test_gradients_at_the_copy_move_the_current_shared_parameters(
        self,
        two_workers: tuple[PolicyGradient, PolicyGradient],
    ) -> None:
        """The gradient is that of the copied parameters, and is applied to the shared ones of now (staleness 2)."""
        agent, other = two_workers
        assert agent.shared is not None
        assert other.shared is not None
        for number in range(4):
            step(agent, number, terminated=(number % 3,))
            if number == 1:
                for seed in range(2):  # updates of the other worker within this one's rollout
                    other.shared.copy()
                    for parameter in other._parameters:
                        parameter.grad = torch.full_like(parameter, 0.3 + seed)
                    other.shared.step(0.5)
        wanted = by_loops(agent, filled(agent), SETTINGS.discount)
        assert flat(agent._parameters).tolist() != shared_of(agent.shared)
        before, square = torch.tensor(shared_of(agent.shared)), torch.tensor(squares_of(agent.shared))
        metrics = agent.update(0.0)
        assert metrics["staleness"] == 2
        torch.testing.assert_close(gradient_of(agent), wanted, rtol=1e-4, atol=1e-6)
        square = 0.99 * square + 0.01 * wanted**2
        moved = before - metrics["learning_rate"] * wanted / (square + 1e-5).sqrt()
        torch.testing.assert_close(torch.tensor(shared_of(agent.shared)), moved, rtol=1e-5, atol=1e-6)

    def test_policy_uses_the_shared_parameters(self, two_workers: tuple[PolicyGradient, PolicyGradient]) -> None:
        """`policy()` has the shared parameters, including other workers' updates."""
        agent, other = two_workers
        seen = [torch.from_numpy(draw((9, 0))[name]) for name in OBSERVATION_KEYS]
        before = agent.policy()(*seen)
        move(other, 3)
        after = agent.policy()(*seen)
        assert not torch.equal(after, before)
        assert torch.equal(after, other.policy()(*seen))

    def test_join_takes_the_normaliser_and_changes_nothing_shared(
        self,
        two_workers: tuple[PolicyGradient, PolicyGradient],
    ) -> None:
        """A joining worker takes over normaliser and parameters, and the shared memory stays as it is."""
        agent, other = two_workers
        assert agent.shared is not None
        before = shared_of(agent.shared)
        for parameter in other._parameters:
            parameter.data += 1.0
        other.join(agent.state_dict())
        assert shared_of(agent.shared) == before == flat(other._parameters).tolist()
        assert other.normalizer_fitted
        assert torch.equal(other._policy.encoder.normalizer.mean, agent._policy.encoder.normalizer.mean)
        assert torch.equal(other._policy.encoder.normalizer.std, agent._policy.encoder.normalizer.std)


class TestSingleWorker:
    """One worker alone."""

    def test_it_follows_the_n_step_actor_critic_gradient(self) -> None:
        """Gradients equal Algorithm S3 of Mnih et al. (2016), written as loops, and the step equals RMSProp's."""
        agent = agent_of()
        assert agent.shared is not None
        square: Any = 0.0
        for update, progress in enumerate((0.0, 0.75)):
            before = torch.tensor(shared_of(agent.shared))
            for number, kinds in enumerate(({}, {"ended": (0,)}, {"terminated": (1,)}, {})):
                step(agent, 10 * update + number, **kinds)
                if number < 3:
                    assert agent.update(progress) == {}
            wanted = by_loops(agent, filled(agent), SETTINGS.discount)
            metrics = agent.update(progress)
            assert (metrics["updates"], metrics["staleness"]) == (1, 0)
            torch.testing.assert_close(gradient_of(agent), wanted, rtol=1e-4, atol=1e-6)
            square = 0.99 * square + 0.01 * wanted**2
            moved = before - (1.0 - progress) * SETTINGS.learning_rate * wanted / (square + 1e-5).sqrt()
            torch.testing.assert_close(torch.tensor(shared_of(agent.shared)), moved, rtol=1e-5, atol=1e-6)

    def test_an_update_follows_every_t_max_steps(self) -> None:
        """An update follows every four steps, which are then dropped."""
        agent = agent_of()
        learned = []
        for number in range(12):
            step(agent, number, ended=(number % 3,))
            learned.append(agent.update(0.0).get("updates", 0))
        assert learned == [0, 0, 0, 1] * 3

    def test_whole_episodes_wait_for_every_environment(self) -> None:
        """With `whole_episodes`, an update waits until each environment has ended an episode."""
        agent = agent_of(replace(SETTINGS, whole_episodes=True, steps_per_update=1))
        ends: list[dict[str, tuple[int, ...]]] = [{}, {"ended": (0,)}, {}, {"terminated": (2,)}, {"ended": (0,)}, {}]
        for number, kinds in enumerate(ends):
            step(agent, number, **kinds)
            assert agent.update(0.0) == {}
        step(agent, 6, terminated=(1,))
        assert agent.update(0.0)["updates"] == 1
        step(agent, 7)
        assert agent.update(0.0) == {}
        step(agent, 8, ended=(0, 1, 2))
        assert agent.update(0.0)["updates"] == 1

    def test_gradients_are_clipped_separately(self) -> None:
        """The policy's and the value's gradients are each clipped to the largest norm."""
        agent = agent_of(replace(SETTINGS, max_grad_norm=0.01))
        for number in range(4):
            step(agent, number)
        assert agent.update(0.0)["gradient_norm"] > 0.01
        # The policy's and the value's separately.
        for network in (agent._policy, agent._value):
            gradient = flat(parameter.grad for parameter in network.parameters() if parameter.grad is not None)
            assert float(gradient.norm()) == near(0.01)


class TestSettings:
    """Validation of settings."""

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"workers": 0}, "workers: expected from 1 to 64, got 0"),
            ({"workers": 65}, "workers: expected from 1 to 64, got 65"),
            ({"steps_per_update": 0}, "steps-per-update: expected a positive number, got 0"),
            ({"learning_rate": -1.0}, "learning-rate: expected a positive number"),
        ],
    )
    def test_rejects_invalid_settings_by_name(self, wrong: dict[str, Any], message: str) -> None:
        """Values out of range raise an error that begins with the flag's name."""
        with pytest.raises(ValueError, match=message):
            replace(SETTINGS, **wrong)


class TestAverage:
    """The average of the shared parameters, to which every worker's updates contribute."""

    def test_two_workers_updates_by_hand(self) -> None:
        """The first update replaces the initial parameters, the second has 20 / 21 of the weight."""
        memory = one_number(start=5.0)
        (first, one), (second, other) = worker(memory), worker(memory)
        values = []
        for local, optimizer in ((first, one), (second, other)):
            descend(optimizer, [local], [1.0])
            values += shared_of(optimizer)
        [copied] = parameters([0.0])
        for optimizer in (one, other):
            optimizer.copy_average([copied])
            assert copied.item() == near((values[0] + 20.0 * values[1]) / 21.0)

    def test_it_is_what_was_published_until_the_first_update(self) -> None:
        """Before any update the average is what was published, so that a loaded policy is unchanged."""
        [copied] = parameters([0.0])
        worker(one_number(start=5.0))[1].copy_average([copied])
        assert copied.item() == 5.0

    def test_a_prefix_of_the_parameters_can_be_copied(self) -> None:
        """The policy's parameters, which come first, can be copied without the value's."""
        local = parameters([1.0, 2.0], [3.0])
        optimizer = SharedRMSProp(local)
        copied = parameters([0.0, 0.0])
        optimizer.copy_average(copied)
        assert copied[0].tolist() == [1.0, 2.0]

    def test_a_restored_optimiser_continues_the_average(self) -> None:
        """The number of updates, on which the weights depend, is part of the state."""
        local = parameters([1.0])
        whole = SharedRMSProp(local)
        descend(whole, local, [1.0])
        descend(whole, local, [1.0])
        resumed = SharedRMSProp(parameters([0.0]))
        resumed.load_state_dict(whole.state_dict())
        for optimizer in (whole, resumed):
            optimizer._local[0].grad = torch.tensor([2.0])
            optimizer.step(RATE)
        assert resumed.state_dict()["average"].tolist() == whole.state_dict()["average"].tolist()
