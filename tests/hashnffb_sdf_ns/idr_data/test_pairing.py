"""Files are paired by the numbers that tell them apart, and by order only if nothing contradicts it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hashnffb_sdf_ns.idr_data.pairing import Undecided, paired_by_agreement, paired_by_names, readings


@pytest.mark.parametrize(
    ("images", "masks", "positions", "rule"),
    [
        (["a.png", "b.jpg"], ["b.png", "c.png", "a.png"], [2, 0], "name"),
        (["1.jpg", "2.jpg"], ["1.jpg.png", "2.jpg.png"], [0, 1], "name"),
        (["000000.png", "000001.png"], ["000.png", "001.png"], [0, 1], "number"),
        (["img_0001_crop256.png", "img_0002_crop256.png"], ["mask_2.png", "mask_1.png"], [1, 0], "number"),
        (["view_3_mask.png", "view_4_mask.png"], ["4.png", "3.png", "2.png"], [1, 0], "number"),
        (["c0_f1.png", "c1_f0.png", "c0_f0.png"], ["0-0m.png", "0-1m.png", "1-0m.png"], [1, 2, 0], "number"),
        (["1_1700.png", "2_1733.png"], ["0001.png", "0002.png"], [0, 1], "number"),
        (["IMG.png", "IMG_2.png"], ["IMG.png", "IMG_2.png"], [0, 1], "name"),
        (["7.png"], ["m7.png", "m8.png"], [0], "number"),
    ],
)
def test_names_and_numbers(images, masks, positions, rule):
    found = paired_by_names(images, masks)
    assert found is not None and (found.positions, found.rule) == (positions, rule)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["1.png", "2.png"], ["0.png", "1.png"]),
        (["a.png", "b.png"], ["1.png", "2.png"]),
        (["1.png", "2.png"], ["1.png"]),
    ],
)
def test_numbers_that_do_not_agree(images, masks):
    assert paired_by_names(images, masks) is None


def test_numbers_are_read_in_all_ways_the_likeliest_first():
    assert list(readings(["s1_a5_256.png", "s1_a6_256.png"])) == [[(5,), (6,)]]
    assert list(readings(["1_9.png", "2_8.png"])) == [[(1, 9), (2, 8)], [(9,), (8,)], [(1,), (2,)]]
    assert list(readings([])) == list(readings(["a.png", "1.png"])) == list(readings(["1a.png", "1b.png"])) == []


def shifted(truth: int):
    """Agreement of masks whose position is that of the image plus `truth`."""

    def score(images: Sequence[int], masks: Sequence[int]) -> float:
        right = sum(mask == image + truth for image, mask in zip(images, masks))
        return 0.7 + 0.25 * right / len(images)

    return score


IMAGES, MASKS = [f"{i}.png" for i in range(1, 14)], [f"{i:03d}.png" for i in range(13)]


def test_what_contradicts_itself_is_decided_by_agreement():
    found = paired_by_agreement(IMAGES, MASKS, shifted(0))
    assert (found.positions, found.rule) == (list(range(13)), "order")
    with pytest.raises(Undecided) as error:
        paired_by_agreement(IMAGES, MASKS, shifted(1))  # masks of the same number: that of the last image is not there
    assert error.value.by_number
    for score in (None, lambda images, masks: 0.9, lambda images, masks: 0.6):
        with pytest.raises(Undecided) as error:
            paired_by_agreement(IMAGES, MASKS, score)
        assert not error.value.by_number


def test_numbers_that_have_nothing_in_common_are_taken_in_order():
    names = [f"IMG_{i}.jpg" for i in range(100, 113)]
    for score in (None, lambda images, masks: 0.5, shifted(0)):
        assert paired_by_agreement(names, MASKS, score).positions == list(range(13))
    with pytest.raises(Undecided):
        paired_by_agreement(names, MASKS, shifted(1))


def test_more_masks_than_images_are_shifted_by_what_agrees():
    names = [f"{i}.png" for i in range(5, 14)]
    found = paired_by_agreement(names, [f"{i}.png" for i in range(11)], shifted(1))
    assert (found.positions, found.rule) == (list(range(1, 10)), "offset")
    for others in (MASKS[:5], [f"{i}.png" for i in range(100, 500)]):  # too few; too many to try
        with pytest.raises(Undecided):
            paired_by_agreement(names, others, shifted(0))
