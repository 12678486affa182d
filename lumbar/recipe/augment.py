"""How training samples are changed at random, as checked data. No torch."""

from typing import Literal

from pydantic import Field

from lumbar.recipe.strict import Strict


class Augment(Strict):
    """Random changes to a training sample. Zero switches a change off.

    The first five are the original ninth place's; the others help where training and target scanners differ.
    """

    LATER = frozenset(
        {
            "holes_p",
            "holes",
            "hole_size",
            "distort",
            "reverse_p",
            "flip_columns_p",
            "flip_rows_p",
            "front_back_p",
            "mix",
            "mix_p",
            "mix_alpha",
            "mix_on",
            "mixup_p",
        }
    )

    rotate_deg: float = Field(15.0, ge=0, le=180)
    shear_deg: float = Field(15.0, ge=0, lt=90)
    #: One of sharpening and motion blur, with this probability.
    sharpen_or_blur_p: float = Field(0.5, ge=0, le=1)
    #: Slices change places, with this probability (stage 2: axial views only).
    channel_shuffle_p: float = Field(0.5, ge=0, le=1)
    #: The study as seen in a mirror, sides swapped, with this probability.
    mirror_p: float = Field(0.0, ge=0, le=1)
    #: Zoom by a factor between 1 - zoom and 1 + zoom.
    zoom: float = Field(0.0, ge=0, lt=1)
    #: Shift by up to this share of the image (stage 2: of the region), each axis.
    shift: float = Field(0.0, ge=0, le=0.5)
    #: Intensities raised to a power between 1 / (1 + gamma) and 1 + gamma.
    gamma: float = Field(0.0, ge=0, le=10)
    #: Standard deviation of added noise, up to this share of the image's own.
    noise: float = Field(0.0, ge=0, le=10)
    #: A smooth bias field of up to this strength (log scale), as of a surface coil.
    shading: float = Field(0.0, ge=0, le=10)
    #: Half of the images lose resolution, down to this share of it.
    coarsen: float = Field(0.0, ge=0, lt=1)
    #: Height and width stretched against each other by up to this factor (pixels that are not square, other matrices).
    stretch: float = Field(0.0, ge=0, lt=1)
    #: Half of the images get dark bands along their borders, up to this share of a side wide (padded images).
    bands: float = Field(0.0, ge=0, lt=0.5)
    #: Every slice is the middle one, with this probability (series of a single slice).
    repeat_p: float = Field(0.0, ge=0, le=1)
    #: Dark holes in the image (coarse dropout), with this probability: one to `holes` of them, each side up to the
    #: share `hole_size` of the image's.
    holes_p: float = Field(0.0, ge=0, le=1)
    holes: int = Field(1, ge=1, le=64)
    hole_size: float = Field(0.25, gt=0, le=1)
    #: Half of the images are bent smoothly, places moved by up to this share of a side (elastic distortion).
    distort: float = Field(0.0, ge=0, le=0.05)
    #: Slices in opposite order, with this probability. Sagittal ones: the study's mirror image, sides swap by name;
    #: axial ones: head and feet change places, sides stay.
    reverse_p: float = Field(0.0, ge=0, le=1)
    #: Columns in opposite order, with this probability. Axial pictures: the study's mirror image, sides swap by name;
    #: sagittal ones: front and back change places, sides stay.
    flip_columns_p: float = Field(0.0, ge=0, le=1)
    #: Rows in opposite order, with this probability; sides stay.
    flip_rows_p: float = Field(0.0, ge=0, le=1)
    #: Front and back change places, with this probability: columns of sagittal, rows of axial pictures; sides stay.
    front_back_p: float = Field(0.0, ge=0, le=1)
    #: Samples are mixed with a partner, labels in equal parts: as a weighted mean (mixup, Zhang et al. 2018), or with a
    #: box of it (cutmix, Yun et al. 2019); features of slices instead of pictures, where `mix_on` says so. sides: one
    #: half of a sagittal series, the features of its slices and the labels of its side, is the partner's; the canal,
    #: which lies on both, is not asked then (second place).
    mix: Literal["none", "mixup", "cutmix", "sides"] = "none"
    mix_p: float = Field(1.0, gt=0, le=1)
    #: The share of the sample itself is drawn from Beta(mix_alpha, mix_alpha).
    mix_alpha: float = Field(1.0, gt=0, le=100)
    mix_on: Literal["images", "features"] = "images"
    #: Samples that `mix` leaves as they are are mixed by mixup, with this probability (second place).
    mixup_p: float = Field(0.0, ge=0, le=1)
