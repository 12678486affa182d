"""Detectors of every answer: what every network keeps, what it refuses, and what cannot be built."""

import pytest
import torch

from lumbar.keypoints.answers.registry import answer_of
from lumbar.keypoints.networks.gives import with_neighbours
from lumbar.keypoints.networks.registry import build_detector
from lumbar.keypoints.networks.regressor import expected_place
from lumbar.keypoints.stacks import channel_names
from lumbar.recipe.detector import DetectorSpec
from tests.support.contract import DetectorContract, fixed_weights
from tests.support.small_detectors import CONVNEXT, DECODER, DEEPLAB, HEAD, spec_of


class TestSmallDeepLab(DetectorContract):
    spec = spec_of("sagittal_t2", encoder_args={"channels": [8, 16, 16, 16]}, network_args=DEEPLAB)
    golden = [0.07394, 1.02, -0.44693, -0.26727, -1.05892, 0.24942]


class TestDeepLabOnTransformerStyleEncoder(DetectorContract):
    spec = spec_of("axial_t2", CONVNEXT, encoder="tu-convnext_atto", network_args=DEEPLAB, in_chans=3, num_classes=2)
    golden = [0.04711, 0.18772, 0.01519, 0.12317, 0.05878, 0.09242]


class TestUnetWithAMapForEveryConditionAndLevel(DetectorContract):
    spec = spec_of("sagittal_t1", network="unet", network_args=DECODER, in_chans=1, num_classes=25)
    golden = [-0.43047, 123.67301, -0.03054, 2.86605, -0.03054, 2.47852]


class TestUnetThatIsAskedForSeverities(DetectorContract):
    """The fourth place's axial keypoints, with its auxiliary head."""

    own = {**DECODER, "severities": 2}
    spec = spec_of("axial_t2", network="unet", network_args=own, in_chans=3, num_classes=2)
    golden = [-0.40144, 247.02266, -0.03054, 0.02632, -0.03054, 0.02632]

    def test_severities_are_said_in_training_only(self) -> None:
        network = build_detector(self.spec).train()
        said = network(self.images())
        assert {name: tuple(value.shape) for name, value in said.items()} == {
            "answer": (2, 2, 64, 64),
            "severity": (2, 2, 3),
        }
        assert isinstance(network.eval()(self.images()), torch.Tensor)


UNET_HEAD = {"network": "unet_head", "place": "whole", "network_args": {"channels": [24, 24, 12, 12, 12]}}


class TestUnetHead(DetectorContract):
    """The fourth place's on whole series, on an encoder whose finest map has half the size."""

    spec = spec_of("sagittal_t2", encoder="resnet10t", in_chans=6, **UNET_HEAD)
    golden = [0.48457, 0.22696, 0.47515, 0.47409, 0.47367, 0.50148]


class TestUnetHeadOfFourMaps(DetectorContract):
    """Whose finest map has a quarter of the size; of an image that no map divides."""

    spec = spec_of("sagittal_t1", CONVNEXT, image_size=72, in_chans=3, **UNET_HEAD)
    golden = [0.48735, 0.19728, 0.47558, 0.45896, 0.47558, 0.46745]


class TestUnetHeadWhereChannelsComeLast(DetectorContract):
    SWIN = {
        "encoder": "swinv2_cr_tiny_ns_224",
        "encoder_args": {"img_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
    }
    spec = spec_of("sagittal_t2", SWIN, in_chans=2, **UNET_HEAD)
    golden = [0.49281, 0.03499, 0.47225, 0.47897, 0.46991, 0.471]


class TestFrames(DetectorContract):
    spec = spec_of("sagittal_t1", CONVNEXT, network="frames", answer="points", place="whole", in_chans=4)
    golden = [0.5278, 0.28172, 0.78628, 0.61955, 0.86542, 0.82526]

    def test_slices_without_contrast_have_no_say(self) -> None:
        network, stacks = fixed_weights(build_detector(self.spec)).eval(), self.images()
        stacks[:, 0], other = 0, stacks.clone()
        other[:, 0] = 7
        with torch.inference_mode():
            torch.testing.assert_close(network(stacks), network(other))
            assert not torch.allclose(network(stacks), network(self.images()))
            assert network(torch.zeros_like(stacks)).isfinite().all()


class TestFramesOfPointsWithSlices(DetectorContract):
    spec = spec_of("sagittal_t2", network="frames", answer="points", depth=True, in_chans=3)
    golden = [0.55132, 0.49329, 1.0, 0.0, 1.0, 0.99999]


class TestRegressor(DetectorContract):
    spec = spec_of("sagittal_t2", CONVNEXT, network="regressor", answer="points")
    golden = [0.48052, 0.19064, 0.25288, 0.34822, 0.28635, 0.30129]


class TestRegressorOfFeaturesWithoutTheHeadsNorm(DetectorContract):
    spec = spec_of(
        "axial_t2",
        CONVNEXT,
        network="regressor",
        answer="points",
        in_chans=1,
        num_classes=2,
        network_args={"pool": "features"},
    )
    golden = [0.49251, 0.34387, 0.94075, 0.12194, 0.69796, 0.31787]

    def test_the_encoder_has_no_norm_behind_its_last_stage(self) -> None:
        assert not [name for name, _ in build_detector(self.spec).encoder.named_parameters() if name.startswith("head")]


class TestRegressorOfAWholeMapAndSlices(DetectorContract):
    pooled = {"pool": "flatten"}
    spec = spec_of(
        "sagittal_t1", CONVNEXT, network="regressor", answer="points", depth=True, in_chans=7, network_args=pooled
    )
    golden = [0.50398, 0.02446, 0.49281, 0.46202, 0.47503, 0.51649]


class TestRegressorByExpectation(DetectorContract):
    pooled = {"pool": "expectation"}
    spec = spec_of("sagittal_t1", CONVNEXT, network="regressor", answer="points", depth=True, network_args=pooled)
    golden = [0.48981, 0.1704, 0.28603, 0.48596, 0.67357, 0.34811]


class TestSliceScores(DetectorContract):
    spec = spec_of("sagittal_t1", network="slice_scores", answer="slices", in_chans=6)
    golden = [-0.12515, 0.86471, -0.7774, 2.09897, -1.10969, 0.71348]


class TestSliceScoresByTransformer(DetectorContract):
    """The second place's."""

    own = {"along": "transformer", "features": "gem", "heads": 4}
    spec = spec_of("sagittal_t1", network="slice_scores", answer="slices", in_chans=6, network_args=own)
    golden = [0.01442, 0.64, 0.6369, -0.82322, 0.66557, -0.73858]

    def test_slices_without_contrast_are_not_looked_at(self) -> None:
        network, features = fixed_weights(build_detector(self.spec)).eval(), torch.randn(1, 6, 16)
        there = torch.tensor([[True] * 5 + [False]])
        other = torch.where(there[..., None], features, features + 5)
        with torch.inference_mode():
            assert torch.equal(*(network.along(each, there)[..., :5] for each in (features, other)))
            assert not torch.equal(network.along(other, there), network.along(other, torch.ones_like(there)))
            assert network(torch.zeros(1, 6, 64, 64)).isfinite().all()


class TestSliceScoresWithDistances(DetectorContract):
    """The second place's, which is told how far each slice lies from the canal points."""

    own = {"along": "transformer", "features": "gem", "heads": 4}
    given = {"network": "slice_scores", "answer": "slices", "place": "whole", "points": "series", "network_args": own}
    spec = spec_of("axial_t2", in_chans=6, num_classes=10, canal_distances=True, **given)
    golden = [0.01095, 0.48866, -0.00576, 0.12785, -0.07595, 0.19481]

    def images(self, batch: int = 2) -> torch.Tensor:
        return torch.cat([super().images(batch), super().images(batch) + 1], 1)

    def test_a_slices_own_distances_count_and_padding_is_told_by_its_slice(self) -> None:
        network, stacks = fixed_weights(build_detector(self.spec)).eval(), self.images(1)
        alone = self.spec.model_copy(update={"network_args": {"along": "alone"}})
        by_itself, farther = fixed_weights(build_detector(alone)).eval(), stacks.clone()
        farther[:, 6 + 2] += 1
        with torch.inference_mode():
            moved = (by_itself(farther) != by_itself(stacks)).any(1)
            assert moved.tolist() == [[False, False, True, False, False, False]]
            stacks[:, 5] = 0
            stacks[:, 6 + 5] += torch.arange(64.0)[:, None]  # of a slice that is not there
            others = network(stacks)[..., :5]
            stacks[:, 6 + 5] += 1
            assert torch.equal(network(stacks)[..., :5], others)


class TestLevelScores(DetectorContract):
    """The seventh place's: left and right of every level."""

    spec = spec_of(
        "axial_t2",
        network="level_scores",
        answer="slices",
        place="whole",
        points="series",
        num_classes=10,
        in_chans=6,
        network_args={"hidden": 16, "inner": 24},
    )
    golden = [-0.04354, 0.42136, -0.4397, -0.15732, -0.47826, -0.20767]

    def test_in_training_it_says_the_level_of_every_slice_too(self) -> None:
        said = build_detector(self.spec).train()(self.images(2))
        assert {name: tuple(value.shape) for name, value in said.items()} == {"answer": (2, 10, 6), "levels": (2, 5, 6)}


class TestCenterNetOfMaps(DetectorContract):
    spec = spec_of("sagittal_t2", CONVNEXT, network="centernet", stride=4, network_args=HEAD)
    golden = [0.50371, 0.07654, 0.473, 0.48219, 0.48897, 0.50106]


class TestCenterNetOfBoxes(DetectorContract):
    spec = spec_of(
        "axial_t2", network="centernet", answer="boxes", stride=2, num_classes=2, in_chans=3, network_args=HEAD
    )
    golden = [143.28814, 1213.468, 0.38987, 0.54069, 0.42093, 0.54823]


class TestPointer(DetectorContract):
    spec = spec_of(
        "sagittal_t1", network="pointer", depth=True, in_chans=6, network_args={**DECODER, "pointer_hidden": 16}
    )
    golden = [0.27208, 0.20395, 0.27213, 0.26676, 0.2565, 0.30168]


class TestPointerWithAnEncoderOfItsOwn(DetectorContract):
    own = {"pointer_hidden": 16, "pointer_encoder": "tu-resnet18", "pointer_args": {"channels": [8, 8, 8, 8]}}
    spec = spec_of("sagittal_t1", network="pointer", depth=True, in_chans=3, network_args={**DECODER, **own})
    golden = [0.27116, 0.19962, 0.19428, 0.30192, 0.2199, 0.43188]


class TestPointerOnSomeMapsOfAnEfficientNet(DetectorContract):
    """All that is built is read: `test_every_parameter_learns`."""

    args = {"encoder_depth": 4, "decoder_channels": [8] * 4, "pointer_hidden": 8, "pointer_encoder": "tu-resnet18"}
    spec = spec_of(
        "sagittal_t2",
        {"encoder": "tu-tf_efficientnet_lite0"},
        network="pointer",
        depth=True,
        in_chans=2,
        network_args={**args, "pointer_args": {"channels": [8, 8, 8, 8]}},
    )
    golden = [0.24558, 0.06136, 0.24365, 0.24211, 0.23284, 0.23487]


class TestPointerByTransformer(DetectorContract):
    own = {"pointer": "transformer", "pointer_hidden": 16, "pointer_heads": 2}
    spec = spec_of("sagittal_t1", network="pointer", depth=True, in_chans=4, network_args={**DECODER, **own})
    golden = [0.26173, 0.21183, 0.2223, 0.34005, 0.21687, 0.33552]

    def test_slices_that_are_not_there_are_not_looked_at(self) -> None:
        network = fixed_weights(build_detector(self.spec)).eval()
        stacks, other = self.images(1), torch.randn(1, 4, 64, 64)
        features, there = torch.randn(1, 4, 16), torch.tensor([[True, True, True, False]])
        changed = torch.where(there[..., None], features, features + 5)
        with torch.inference_mode():
            along = [network.along(each, there)[:, :, :3] for each in (features, changed)]
            assert torch.equal(*along)
            assert not torch.equal(network.along(changed, there), network.along(changed, torch.ones_like(there)))
            stacks[:, 3] = 0
            assert not network(stacks)[:, :, 3].any()
            assert network(torch.zeros_like(other)).isfinite().all()


def test_an_expected_place_is_the_middle_of_the_cell_that_is_seen():
    scores = torch.full((1, 1, 2, 2), -100.0)
    scores[0, 0, 1, 0] = 100.0
    assert expected_place(scores, 64, 64)[0, 0].tolist() == pytest.approx([15.5 / 64, 47.5 / 64])


def test_of_25_maps_a_stack_fills_its_own():
    spec = DetectorSpec(series_type="sagittal_t1", num_classes=25)
    left, right = channel_names(spec, "left"), channel_names(spec, "right")
    assert [place for place, name in enumerate(left) if name] == [5, 6, 7, 8, 9]
    assert [place for place, name in enumerate(right) if name] == [10, 11, 12, 13, 14]
    assert left[5] == ("left_neural_foraminal_narrowing", "l1_l2")


@pytest.mark.parametrize(
    "case",
    [
        TestSliceScores,
        TestSliceScoresByTransformer,
        TestLevelScores,
        TestCenterNetOfMaps,
        TestRegressor,
        TestPointer,
        TestUnetHead,
        TestFrames,
    ],
)
def test_two_series_beside_each_other_are_one_input(case):
    beside = {
        "place": "whole",
        "points": "series",
        "beside": "sagittal_t2",
        "num_classes": 15,
        "series_type": "sagittal_t1",
    }
    spec = case.spec.model_copy(update=beside)
    stacks = torch.randn(2, 2 * spec.in_chans, 64, 64)
    with torch.inference_mode():
        answer = build_detector(spec).eval()(stacks)
    assert tuple(answer.shape) == (2, *answer_of(spec).shape(spec))


def test_a_slice_stands_between_its_neighbours_series_by_series():
    stacks = torch.arange(1.0, 7).view(1, 6, 1, 1)
    assert with_neighbours(stacks[:, :3]).flatten(1).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 0]]
    both = [[0, 1, 2, 0, 4, 5], [1, 2, 3, 4, 5, 6], [2, 3, 0, 5, 6, 0]]
    assert with_neighbours(stacks, 2).flatten(1).tolist() == both
