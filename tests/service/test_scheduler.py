"""What has to go, and when: the rules as properties over any set of loaded models."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from localfoundry.service.scheduler import Drain, Loaded, Unload, expired, make_room, next_expiry

_times = st.floats(min_value=0, max_value=1e6, allow_nan=False)
_models = st.lists(
    st.builds(
        Loaded,
        id=st.sampled_from("abcdefgh"),
        in_flight=st.integers(0, 3),
        last_used=_times,
        ttl_s=st.sampled_from([0, 1, 10, 600]),
    ),
    unique_by=lambda model: model.id,
)


def _model(name: str, in_flight: int = 0, last_used: float = 0, ttl_s: float = 10) -> Loaded:
    return Loaded(name, in_flight, last_used, ttl_s)


def test_idle_models_go_at_once_and_busy_ones_are_drained_after_them() -> None:
    loaded = [_model("busy", 1, 1), _model("new", 0, 9), _model("old", 0, 2), _model("wanted")]
    assert make_room(loaded, "wanted", retain=False) == [Unload("old"), Unload("new"), Drain("busy")]


@given(_models, st.sampled_from("abcdefgh"))
def test_everything_else_goes_and_nothing_busy_goes_at_once(loaded: list[Loaded], wanted: str) -> None:
    """A model that is answering is never unloaded under its answer, and the wanted one is left alone."""
    actions = make_room(loaded, wanted, retain=False)
    assert {action.id for action in actions} == {model.id for model in loaded} - {wanted}
    busy = {model.id for model in loaded if model.in_flight}
    assert all(isinstance(action, Drain) == (action.id in busy) for action in actions)


@given(_models, st.sampled_from("abcdefgh"))
def test_retain_keeps_all(loaded: list[Loaded], wanted: str) -> None:
    assert make_room(loaded, wanted, retain=True) == []


@given(_models, _times)
def test_only_what_was_idle_for_its_time_to_live_expires(loaded: list[Loaded], now: float) -> None:
    gone = {action.id for action in expired(loaded, now)}
    for model in loaded:
        due = model.ttl_s > 0 and model.in_flight == 0 and now - model.last_used >= model.ttl_s
        assert (model.id in gone) == due


@given(_models)
def test_next_expiry_is_when_the_first_one_expires(loaded: list[Loaded]) -> None:
    """A timer set to it finds something to do, and nothing would have been found a second before."""
    when = next_expiry(loaded)
    if when is None:
        assert not expired(loaded, 1e12)
    else:
        assert expired(loaded, when + 1e-6)
        assert not expired(loaded, when - 1e-6)
