"""The algorithms of this program, made known to the registry."""

from ablate.algos.a3c.spec import A3C
from ablate.algos.algorithm import register
from ablate.algos.dqn.spec import DQN

register(A3C())
register(DQN())
