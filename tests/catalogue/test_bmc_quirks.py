"""The catalogue of what BMCs do otherwise."""

from __future__ import annotations

import sushy

from metalserve.catalogue.bmc_quirks import load_bmc_quirks


def test_settings_come_together_and_the_last_that_fits_counts() -> None:
    quirks = load_bmc_quirks()
    supermicro = quirks.of("Supermicro", "SYS-221H")
    assert supermicro.cd_targets == ("UsbCd", "Cd")
    assert supermicro.send_mode
    assert any("lost the disk" in each for each in supermicro.cautions)
    dell = quirks.of("Dell Inc.", "PowerEdge XE9680")
    assert not dell.http_boot_uri
    assert dell.not_ready == ("SYS518",)
    assert quirks.of("NVIDIA", "DGX H100").off_settle_s > quirks.of("NVIDIA", "HGX").off_settle_s > 0
    assert quirks.of("", "").serial_fields == ("SerialNumber",)
    assert quirks.of("Sushy Emulator", "").boot_back == "Hdd"


def test_baseboards_are_no_hosts() -> None:
    quirks = load_bmc_quirks()
    assert quirks.is_baseboard("HGX_Baseboard_0")
    assert not quirks.is_baseboard("System_0")
    assert not quirks.is_baseboard("1")


def test_every_quirk_says_what_and_where_from_and_does_something() -> None:
    for quirk in load_bmc_quirks().quirks:
        assert quirk.what, quirk.id
        assert len(quirk.source) > 10, quirk.id
        says = quirk.model_dump(exclude={"id", "when", "what", "source"}, exclude_none=True, exclude_defaults=True)
        assert says or quirk.id == "dgx-baseboard", f"{quirk.id} changes nothing"


def test_words_of_targets_are_those_of_the_client() -> None:
    known = {each.value for each in sushy.BootSource}
    for quirk in load_bmc_quirks().quirks:
        assert set(quirk.cd_targets or ()) <= known
        assert quirk.boot_back is None or quirk.boot_back in known
