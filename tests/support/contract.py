"""What every network of a stage must do; the tests of a network derive from one of these classes and name a spec."""

import copy
from functools import cache

import pytest
import torch

from lumbar.bundle.bundle import load_bundle
from lumbar.bundle.network import build_network, noise
from lumbar.bundle.save import Weights, save_bundle
from lumbar.compute.forward import Inputs, asked, mapped, tensors
from lumbar.grading.tasks import task_of
from lumbar.keypoints.answers.registry import answer_of
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec

UNIFORM = [[[1 / 3] * 3] * 5] * 5


def fixed_weights(network: torch.nn.Module) -> torch.nn.Module:
    """Weights that depend on names and shapes only, so that stored outputs hold on every machine and version."""
    state = {}
    for place, (key, value) in enumerate(network.state_dict().items()):
        wave = torch.cos(torch.arange(value.numel(), dtype=torch.float64) * 0.7 + place).reshape(value.shape)
        if not value.is_floating_point():
            state[key] = value
        elif key.endswith("running_var"):
            state[key] = (1 + 0.2 * wave).float()
        elif value.ndim == 1:
            state[key] = ((key.endswith("weight") and 1.0) + 0.1 * wave).float()
        else:
            state[key] = (wave / value[0].numel() ** 0.5).float()
    network.load_state_dict(state)
    return network


@cache
def known(case: "type[NetworkContract]") -> torch.nn.Module:
    """The network of a class of tests with `fixed_weights`, in evaluation mode, built once: to be looked at only."""
    return fixed_weights(build_network(case.spec)).eval()


class NetworkContract:
    """Forward, backward, shapes, save and load identity."""

    spec: DetectorSpec | GraderSpec
    #: A few numbers of the output for `fixed_weights` and `images`, rounded to 4 digits.
    golden: list[float]

    def images(self, batch: int = 2) -> Inputs:
        raise NotImplementedError

    def shape(self, batch: int) -> tuple[int, ...]:
        raise NotImplementedError

    def test_output_has_the_promised_shape_for_any_batch(self) -> None:
        network = known(type(self))
        for batch in (1, 3):
            with torch.inference_mode():
                output = asked(network, self.images(batch))
            assert tuple(output.shape) == self.shape(batch)
            assert torch.isfinite(output).all()

    def test_every_parameter_learns(self) -> None:
        torch.manual_seed(0)
        network = copy.deepcopy(known(type(self))).train()  # timm starts some scales at zero
        output = asked(network, self.images(4))
        torch.stack([part.square().mean() for part in tensors(output)]).sum().backward()
        idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
        assert not idle

    def test_samples_of_a_batch_do_not_touch_each_other(self) -> None:
        network = known(type(self))
        images = self.images(3)
        with torch.inference_mode():
            together, alone = asked(network, images), asked(network, mapped(lambda value: value[1:2], images))
        scale = max(1.0, float(alone.abs().max()))  # these weights let some networks' outputs grow
        assert torch.allclose(together[1:2], alone, atol=1e-5 * scale)

    def test_a_bundle_gives_the_same_network_back(self, tmp_path) -> None:
        network = known(type(self))
        weights = Weights("a", self.spec, network.state_dict())
        save_bundle(tmp_path / "b", [weights], prior=UNIFORM, precision="float32")
        again = load_bundle(tmp_path / "b").network("a")
        with torch.inference_mode():
            assert torch.equal(asked(again, self.images()), asked(network, self.images()))

    def test_known_weights_give_the_stored_output(self) -> None:
        network = known(type(self))
        with torch.inference_mode():
            output = asked(network, self.images()).double().flatten()
        found = [output.mean().item(), output.std().item(), *output[:: max(1, len(output) // 4)][:4].tolist()]
        assert found == pytest.approx(self.golden, rel=2e-3, abs=2e-4)  # float32 sums differ between machines


class DetectorContract(NetworkContract):
    """A stage-1 network."""

    def images(self, batch: int = 2) -> torch.Tensor:
        size = (batch, self.spec.in_chans, self.spec.image_size, self.spec.image_size)
        return torch.randn(size, generator=torch.Generator().manual_seed(1))

    def shape(self, batch: int) -> tuple[int, ...]:
        return (batch, *answer_of(self.spec).shape(self.spec))


class GraderContract(NetworkContract):
    """A stage-2 network."""

    def images(self, batch: int = 2, slices: int | None = None) -> Inputs:
        if self.spec.task is None:
            return self.own_images(batch, slices)
        names = task_of(self.spec).samples[0].views
        size = (batch, len(names), slices or self.spec.slices, self.spec.image_size, self.spec.image_size)
        drawn = torch.randn(size, generator=torch.Generator().manual_seed(1))
        views = {name: drawn[:, None, place, :, None] for place, name in enumerate(names)}
        return views, torch.ones(batch, 1, len(names), dtype=torch.bool)

    def own_images(self, batch: int, slices: int | None) -> Inputs:
        """Of a spec whose views have forms of their own."""
        views, seen = noise(self.spec, batch)
        if slices is not None:
            views = {name: view[:, :, :1].repeat(1, 1, slices, 1, 1, 1) for name, view in views.items()}
        return views, seen

    def shape(self, batch: int) -> tuple[int, ...]:
        return (batch, 5 if self.spec.levels == "all" else 1, task_of(self.spec).num_conditions, 3)

    def test_levels_are_one_or_five(self) -> None:
        spec = self.spec if self.spec.task is None else self.spec.model_copy(update={"levels": "all"})
        network = known(type(self))
        views, seen = noise(spec.model_copy(update={"levels": "all"}), 2)
        with torch.inference_mode():
            assert tuple(network(views, seen).shape) == (2, 5, *self.shape(2)[2:])
            one = {name: view[:, 2:3] for name, view in views.items()}, seen[:, 2:3]
            assert tuple(network(*one).shape) == (2, 1, *self.shape(2)[2:])

    def test_any_number_of_slices_will_do(self) -> None:
        network = known(type(self))
        with torch.inference_mode():
            for slices in (1, 4):
                assert tuple(asked(network, self.images(2, slices)).shape) == self.shape(2)


class SeeingContract(GraderContract):
    """A stage-2 network that goes by `seen`."""

    def test_what_a_view_that_is_not_there_would_show_does_not_matter(self) -> None:
        network = known(type(self))
        views, seen = self.images(2)
        seen[0, 0, 0] = False
        other = {name: view.clone() for name, view in views.items()}
        first = next(iter(other))
        other[first][0, 0] += 5
        with torch.inference_mode():
            plain, changed = network(views, seen), network(other, seen)
            torch.testing.assert_close(plain, changed)
            assert not torch.allclose(plain, network(other, torch.ones_like(seen)))


class WholeSeriesContract(NetworkContract):
    """A stage-2 network that sees whole series once for all levels."""

    def images(self, batch: int = 2) -> Inputs:
        return noise(self.spec, batch)

    def shape(self, batch: int) -> tuple[int, ...]:
        return (batch, 5, task_of(self.spec).num_conditions, 3)

    @pytest.mark.parametrize("before", [False, True], ids=["behind", "before"])
    def test_slices_without_contrast_at_an_end_change_no_answer(self, before: bool) -> None:
        network = known(type(self))
        views, seen = self.images(2)
        more = {}
        for name, view in views.items():
            empty = torch.full_like(view[:, :, :4], -1.0)
            more[name] = torch.cat([empty, view] if before else [view, empty], dim=2)
        with torch.inference_mode():
            torch.testing.assert_close(network(more, seen), network(views, seen), rtol=1e-4, atol=1e-5)

    def test_a_view_that_is_not_there_says_nothing(self) -> None:
        network = known(type(self))
        views, seen = self.images(2)
        first = next(iter(views))
        seen[0, :, 0] = False
        with torch.inference_mode():
            plain = network(views, seen)
            torch.testing.assert_close(network(views | {first: views[first].flip(2)}, seen)[0], plain[0])
        assert plain.isfinite().all()
