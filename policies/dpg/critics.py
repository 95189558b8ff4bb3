"""The critics of DPG: linear in compatible features, and a network."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.functional import mse_loss

from policies.common.networks import mlp


class CompatibleCritic(nn.Module):
    """Q(s, a) = (a - mu(s)) . (grad mu(s))^T w + V(s), section 4.3 (compatible by Theorem 3)."""

    def __init__(self, actor: nn.Module, features: int, hidden: int) -> None:
        super().__init__()
        self.w = nn.ParameterList([torch.zeros_like(parameter) for parameter in actor.parameters()])
        self.value = mlp(features, hidden, 1, layer_norm=True)

    def slope(self, actor: nn.Module, s: Tensor) -> tuple[Tensor, Tensor]:
        """mu(s) and dQ(s, a)/da = (grad mu(s))^T w, (batch, actions) each, by one forward-mode derivative along w."""
        theta = {name: parameter.detach() for name, parameter in actor.named_parameters()}
        direction = {name: part.detach() for name, part in zip(theta, self.w, strict=True)}

        def mu_of(parameters: dict[str, Tensor]) -> Tensor:
            """mu(s) as a function of the actor's parameters."""
            output: Tensor = functional_call(actor, parameters, (s,))
            return output

        mu, slope = jvp(mu_of, (theta,), (direction,))[:2]
        return mu, slope

    def forward(self, actor: nn.Module, s: Tensor, a: Tensor) -> Tensor:
        """Q(s, a) (batch,), with gradients of V only."""
        mu, slope = self.slope(actor, s)
        q: Tensor = ((a - mu) * slope).sum(-1) + self.value(s).squeeze(-1)
        return q

    def learn(self, actor: nn.Module, s: Tensor, a: Tensor, y: Tensor) -> Tensor:
        """Set the gradients of w and v; return delta = y - Q(s, a), (batch,).

        The gradients are the negative means over the batch of delta phi(s, a), equation (21), and delta dV/dv, (22).
        """
        # Equation (22): the gradient of (y - Q)^2 / 2 by v
        q = self(actor, s, a)
        delta: Tensor = (y - q).detach()
        (0.5 * mse_loss(q, y)).backward()  # type: ignore[no-untyped-call]
        # Equation (21): phi(s, a) = grad mu(s) (a - mu(s)), so that delta phi is the gradient by theta of
        # delta (a - mu) . mu(s), where delta (a - mu) is constant
        mu = actor(s)
        weighted = (delta[:, None] * (a - mu).detach() * mu).sum(-1).mean()
        gradients = torch.autograd.grad(-weighted, list(actor.parameters()))
        for part, gradient in zip(self.w, gradients, strict=True):
            part.grad = gradient
        return delta


class NetworkCritic(nn.Module):
    """Q(s, a) as a network."""

    def __init__(self, features: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp(features + actions, hidden, 1, layer_norm=True)

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        """Q(s, a) (batch,)."""
        q: Tensor = self.net(torch.cat([s, a], -1)).squeeze(-1)
        return q
