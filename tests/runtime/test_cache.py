"""What is kept between runs."""

import os
import stat

from nc_strategies.runtime import cache


def test_what_is_kept_is_read_again_and_the_last_one_stands(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.read("a.json") is None
    cache.keep("a.json", "one")
    cache.keep("a.json", "two")
    assert cache.read("a.json") == "two"
    assert [path.name for path in (tmp_path / "nc_strategies").iterdir()] == ["a.json"]
    assert not stat.S_IMODE((tmp_path / "nc_strategies" / "a.json").stat().st_mode) & 0o022


def test_without_the_variable_it_is_below_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    cache.keep("a", "text")
    assert (tmp_path / ".cache" / "nc_strategies" / "a").read_text() == "text"


def test_a_cache_that_cannot_be_used_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.keep("a", "text")
    assert cache.read("a") is None


def test_a_text_that_cannot_be_moved_to_its_place_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "nc_strategies" / "a").mkdir(parents=True)
    cache.keep("a", "text")
    assert cache.read("a") is None
    assert os.listdir(tmp_path / "nc_strategies") == ["a"]


def test_what_is_not_text_is_as_good_as_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "nc_strategies").mkdir()
    (tmp_path / "nc_strategies" / "a").write_bytes(b"\xff\xfe\xff")
    assert cache.read("a") is None
