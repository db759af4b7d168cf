import io

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont

from ttl.release.sheet import LIMIT, SIDES, STRONGEST, Picture, draw_sheet, overlay
from ttl.release.sheet import _fitted as fitted
from ttl.release.sheet import _font as font_of
from ttl.release.sheet import _heading as above
from ttl.release.sheet import _legend as legend

STRATEGIES = ("ftl", "lwft", "tf", "ttl")
GREY = np.full((32, 32, 3), 100, dtype=np.uint8)


def values(rows, sample_id="s"):
    one = {"cut": "blocks.3", "layer": "blocks.3", "grid": [4, 4], "area": 0.2, "area_on_common_grid": None}
    one |= {"rank_correlation": -0.07, "absolute_rank_correlation": 0.7}
    one |= {"explains": False, "threshold": 0.4}
    sample = {
        "sample_id": sample_id,
        "label": "finding",
        "kind": "error",
        "target": "finding",
        "predicted": dict.fromkeys(STRATEGIES, "normal"),
        "probabilities": dict.fromkeys(STRATEGIES, 0.1),
        "empty": ["ttl"],
    }
    return {
        "target": "finding",
        "synthetic": False,
        "method": "Grad-CAM",
        "backbone": "resnet50",
        "dataset": "films",
        "strategies": dict.fromkeys(STRATEGIES, one),
        "samples": [sample] * rows,
        "measured_images": 96,
        "unchanged_from": 0.5,
        "notes": ["A note."],
        "alt": "What it shows: −, ×, é.",
    }


def picture(pixels):
    heights = np.linspace(0, 1, pixels.shape[0], dtype=np.float32)[None].repeat(len(pixels), axis=0)
    return Picture(original=pixels, views=dict.fromkeys(STRATEGIES, (pixels, heights)))


def test_a_picture_is_left_as_it_is_where_its_map_is_zero_and_has_the_scales_end_at_its_maximum():
    heights = np.zeros((32, 32), dtype=np.float32)
    np.testing.assert_array_equal(np.asarray(overlay(GREY, heights, 64)), 100)
    heights[8:24, 8:24] = 1
    seen = np.asarray(overlay(GREY, heights, 64))
    top = np.array(matplotlib.colormaps["viridis"](1.0))[:3] * 255
    assert seen[32, 32] == pytest.approx((1 - STRONGEST) * 100 + STRONGEST * top, abs=1)
    assert seen[2, 2].tolist() == [100, 100, 100]
    assert seen[16, 32].tolist() == [255, 255, 255]


def test_the_line_at_half_height_does_not_run_along_the_pictures_border():
    heights = np.zeros((32, 32), dtype=np.float32)
    heights[:16] = 1
    white = (np.asarray(overlay(GREY, heights, 64)) == 255).all(axis=2)
    assert white[:, 1:-1].any(axis=1).nonzero()[0].tolist() == [31]


def test_the_sheet_of_many_noisy_pictures_stays_below_the_limit():
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    content = draw_sheet(values(16), [picture(noise)] * 16)
    assert len(content) <= LIMIT
    with Image.open(io.BytesIO(content)) as sheet:
        assert sheet.info["Description"] == "What it shows: −, ×, é."
        assert sheet.height > 16 * 80


def test_both_correlations_stand_above_the_maps_and_the_legend_says_what_chance_gives():
    heading = [text for text, _, _ in above("ttl", values(1)["strategies"]["ttl"])]
    assert "random 0.70, signed −0.07" in heading
    assert all(fitted(text, font_of(12), SIDES[0]) == text for text in heading)
    # √(2/15π)
    assert "from 0.5 on the maps explain nothing; unlike ones have about 0.21 on 4 × 4" in legend(values(1))


def test_an_id_that_is_too_long_keeps_both_its_ends():
    font = ImageFont.load_default(12)
    long = "hospital-of-the-north/2026-03/patient/study/series/image-000123.dcm"
    shown = fitted(long, font, 168)
    assert font.getlength(shown) <= 168
    assert shown.startswith("hospital")
    assert shown.endswith("123.dcm")
    assert "…" in shown
    assert fitted("short", font, 168) == "short"
