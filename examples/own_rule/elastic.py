"""Elastic averaging: ranks are pulled towards a centre that follows them (EASGD).

S. Zhang, A. Choromanska, Y. LeCun: Deep learning with elastic averaging SGD, NeurIPS 2015.
"""

import dgc_topo as dt


class Elastic(dt.AveragingRule):
    """Every rank keeps parameters of its own, and moves *pull* of the way to the centre."""

    over = ("all-reduce",)
    alike = ("centre",)

    every: int = 10
    pull: float = 0.5

    def start(self):
        """Begin the centre where all ranks are."""
        self.state["centre"] = {name: p.detach().clone() for name, p in self.parameters.items()}

    def send(self):
        """Return what is averaged, by name."""
        return self.parameters

    def receive(self, mean):
        """Move the centre to the mean, and the rank to where the centre was."""
        for name, parameter in self.parameters.items():
            centre = self.state["centre"][name]
            apart = parameter - centre
            centre.lerp_(mean[name], self.pull)
            parameter.sub_(apart, alpha=self.pull)

    def evaluated(self):
        """Return the model that is evaluated and saved."""
        return self.state["centre"]
