from __future__ import annotations

import pytest

from metalserve.catalogue.dcgm_metrics import load_dcgm_metrics
from metalserve.catalogue.models import CatalogueError
from metalserve.releases import load_release
from metalserve.releases.model import release_names


def test_every_field_is_there_once_under_all_its_names() -> None:
    table = load_dcgm_metrics()
    names = [name for field in table.fields for name in field.spellings]
    assert len(set(names)) == len(names)
    assert len({field.id for field in table.fields}) == len(table.fields)
    assert table.field("DCGM_FI_DEV_GPU_TEMP_CELSIUS") is table.field("DCGM_FI_DEV_GPU_TEMP")
    with pytest.raises(CatalogueError, match="no DCGM field 'DCGM_FI_DEV_GPU_TMP'"):
        table.field("DCGM_FI_DEV_GPU_TMP")


def test_every_release_has_an_exporter_for_its_dcgm() -> None:
    table = load_dcgm_metrics()
    for name in release_names():
        assert table.exporter_for(load_release(name).dcgm.version)
    assert table.exporter_for("1:4.5.3-1") == "4.8.2"
    with pytest.raises(CatalogueError, match=r"4\.9\.9"):
        table.exporter_for("4.9.9")
