"""The cells of a grid: Dagster's own multi-partitions, made once."""

from datetime import datetime

import dagster as dg
import pytest

from quant_assets.defs.grid import Cells

DATES = dg.TimeWindowPartitionsDefinition(
    start="2024-01-01", end="2024-01-06", fmt="%Y-%m-%d", cron_schedule="0 0 * * *"
)
NAMES = dg.StaticPartitionsDefinition(["b", "a", "c"])
OURS, PARENT = Cells({"date": DATES, "symbol": NAMES}), dg.MultiPartitionsDefinition({"date": DATES, "symbol": NAMES})

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def test_cells_are_those_of_dagsters_own_class():
    assert OURS.get_partition_keys() == PARENT.get_partition_keys()
    assert [key.keys_by_dimension for key in OURS.get_partition_keys()] == [
        key.keys_by_dimension for key in PARENT.get_partition_keys()
    ]
    assert OURS.get_partition_keys() is OURS.get_partition_keys()
    assert OURS == PARENT


def test_cells_of_an_instant_are_those_that_it_has():
    growing = dg.DailyPartitionsDefinition(start_date="2024-01-01")
    ours = Cells({"date": growing, "symbol": NAMES})
    early = dg.MultiPartitionsDefinition({"date": growing, "symbol": NAMES})
    for day in (3, 5, 3):
        moment = datetime(2024, 1, day)
        assert ours.get_partition_keys(current_time=moment) == early.get_partition_keys(current_time=moment)


@pytest.mark.parametrize("last", ["2024-01-02|b", "2024-01-04|c"])
def test_cells_of_a_range_are_those_of_dagsters_own_class(last: str):
    cells = dg.PartitionKeyRange("2024-01-02|b", last)
    assert OURS.get_partition_keys_in_range(cells) == PARENT.get_partition_keys_in_range(cells)
    assert OURS.get_partition_keys_in_range(cells) is OURS.get_partition_keys_in_range(cells)
