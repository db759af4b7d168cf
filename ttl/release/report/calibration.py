"""The reliability diagram: what was predicted against what was found, and how many images say so."""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from ttl.evaluation.reliability import Bin
from ttl.release import svg
from ttl.release.report.roles import Look

SIZE = (400.0, 440.0)


def diagram(
    bins: Mapping[str, Sequence[Bin]],
    *,
    looks: Mapping[str, Look],
    predicted: str,
    found: str,
    counted: str,
    name: str,
    label: str,
) -> str:
    """Return the share found against the mean prediction of each bin, over a histogram of the images.

    `bins` and `looks` are by the networks' names; `predicted` and `found` are the axes' words, and `counted`
    is what is counted. A point's area grows with its images, so that what stands on few looks like it.
    """
    most = max(one.images for rows in bins.values() for one in rows)
    tips: dict[str, str] = {}
    with svg.drawing(*SIZE) as (figure, whole):
        whole.remove()
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        for each in (axes, counts):
            each.patch.set_alpha(0.0)
        axes.plot([0, 1], [0, 1], color=svg.MUTED, lw=0.8)
        for place, (network, rows) in enumerate(bins.items()):
            look = looks[network]
            there = [one for one in rows if one.images]
            axes.plot(
                [one.predicted for one in there],
                [one.found for one in there],
                color=look.colour,
                ls=look.dash,
                lw=1.4,
                label=network,
            )
            for number, one in enumerate(there):
                tips[f"bin-{place}-{number}"] = (
                    f"{network}: {one.images} {counted} from {one.low:.1f} to {one.high:.1f}, predicted "
                    f"{one.predicted:.3f}, found {one.found:.3f}"
                )
                axes.plot(
                    [one.predicted],
                    [one.found],
                    marker=look.marker,
                    ms=3.0 + 7.0 * (one.images / most) ** 0.5,
                    color=look.colour,
                    mec=svg.PAPER,
                    mew=0.6,
                    gid=f"bin-{place}-{number}",
                )
            counts.stairs(
                [one.images for one in rows],
                [one.low for one in rows] + [rows[-1].high],
                color=look.colour,
                ls=look.dash,
                lw=1.4,
            )
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        counts.set_ylim(bottom=0)
        counts.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
        axes.set_ylabel(svg.literal(found))
        counts.set_ylabel(counted)
        counts.set_xlabel(svg.literal(predicted))
        axes.legend(loc="upper left", frameon=False)
        return svg.finish(figure, name=name, label=label, tips=tips)
