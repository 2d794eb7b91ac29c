"""The geometry of the page's charts: nothing leaves the drawing, round ticks, nothing that happened is invisible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onerow.faces.http.dashboard.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, spreads, stacked
from onerow.faces.http.dashboard.panels import percent
from onerow.services.overview.figures import Period, spread

COUNTS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=14)
FLOOR = HEIGHT - BOTTOM


@given(COUNTS)
def test_bars_stay_in_the_drawing_and_stand_on_each_other(counts):
    chart = stacked([(f"2026-01-{day + 1:02d}", pair) for day, pair in enumerate(counts)], ["a", "b"])
    assert len(chart.bars) == sum(count > 0 for pair in counts for count in pair), "something that happened is not drawn"
    for bar in chart.bars:
        assert bar.x >= LEFT
        assert bar.x + bar.width <= WIDTH - RIGHT + 0.1
        assert bar.y >= TOP - 0.1
        assert bar.y + bar.height <= FLOOR + 1.1
        assert bar.height >= 1
    assert 2 <= len(chart.ticks) <= 6
    assert chart.ticks[0].y == FLOOR


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_spreads_stay_in_the_drawing_and_in_order(seconds):
    chart = spreads([Period("2026-01-17", duration=spread(seconds))], lambda day: day.duration, limit_s=60.0)
    (found,) = chart.ranges
    assert TOP - 0.1 <= found.p99 <= found.p90 <= found.p50 <= FLOOR
    assert (chart.limit is None) or TOP - 0.1 <= chart.limit <= FLOOR


def test_ticks_are_round_numbers_and_the_last_day_is_named():
    days = [(f"2026-01-{day:02d}", (day * 1000, 0)) for day in range(1, 15)]
    chart = stacked(days, ["a", "b"])
    assert [tick.words for tick in chart.ticks] == ["0", "10 k", "20 k"]
    assert chart.labels[-1][1] == "01-14"
    assert chart.bars[0].words == "2026-01-01: 1,000 a"


def test_the_line_of_a_warning_is_drawn_where_it_is_near():
    near = spreads([Period("d", duration=spread([100.0]))], lambda day: day.duration, limit_s=60.0)
    far = spreads([Period("d", duration=spread([1.0]))], lambda day: day.duration, limit_s=60.0)
    assert near.limit is not None
    assert far.limit is None


@pytest.mark.parametrize(("share", "said"), [(1.0, "100 %"), (0.99999, "99.99 %"), (0.5, "50 %"), (0.0, "0 %")])
def test_a_rate_is_a_hundred_only_if_nothing_failed(share, said):
    assert percent(share) == said
