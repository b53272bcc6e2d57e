"""Parameters of config.pbtxt: defaults, order of devices, and errors that name the parameter."""

from __future__ import annotations

import pytest

from triton_server.plugin.settings import Settings, SettingsError, read_settings
from triton_server.protocol import DEVICE_VARIABLE


def config(**parameters: str) -> dict[str, object]:
    return {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)


def test_defaults() -> None:
    assert read_settings({}) == Settings()


def test_devices_are_a_list_in_order() -> None:
    assert read_settings(config(device="fpga, cpu:1,auto")).devices == ("fpga", "cpu:1", None)


def test_the_variable_overrides_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "reference")
    assert read_settings(config(device="fpga")).devices == ("reference",)


def test_tritons_own_parameters_pass() -> None:
    read_settings(config(FORCE_CPU_ONLY_INPUT_TENSORS="no"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"devcie": "cpu"}, "'devcie' is unknown"),
        ({"precision": "fp32"}, "'precision': expected int8, came 'fp32'"),
        ({"contract": "jets"}, "'contract': expected finite or constituents or images, came 'jets'"),
        ({"device": "cpu,,x"}, "'device'"),
        ({"device": "cpu,cpu"}, "'device'"),
        ({"self_test_interval_s": "-1"}, "'self_test_interval_s'"),
        ({"device_timeout_s": "nan"}, "'device_timeout_s'"),
        ({"require_hashes": "yes"}, "'require_hashes'"),
    ],
)
def test_errors_name_the_parameter(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(config(**parameters))
