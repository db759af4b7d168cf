"""A figure as it stands in a page."""

import re

from ttl.release.svg import drawing, finish


def test_coordinates_are_rounded_and_what_is_written_is_not():
    with drawing(300, 200) as (figure, axes):
        axes.plot([1, 2, 3], [0.975, 0.9861, 0.995], gid="line")
        axes.set_yticks([0.975, 0.985, 0.995])
        text = finish(figure, name="one", label="a line", tips={"line": "AUROC 0.9961"})
    written = re.findall(r">([^<>]*)<", text)
    assert {"0.975", "0.985", "0.995", "AUROC 0.9961"} <= set(written)
    path = re.search(r'<path d="(M[^"]*)"[^>]*clip-path', text)[1]
    assert not re.search(r"\d\.\d{3}", path)
