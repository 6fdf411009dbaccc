"""Settings of the host: written down before they change, put back whatever ends the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thp_env.live import settings
from thp_env.live.errors import LiveError
from thp_env.live.settings import restore, temporary_settings


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A folder that stands for sysfs, and a state folder of one's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    sysfs = tmp_path / "sysfs"
    (sysfs / "hugepages-64kB").mkdir(parents=True)
    (sysfs / "enabled").write_text("always [madvise] never\n")
    (sysfs / "hugepages-64kB/enabled").write_text("always inherit madvise [never]\n")
    for name, value in (("THP", sysfs), ("ROOTS", (sysfs, tmp_path / "cgroup")), ("LOCK", tmp_path / "lock"),
                        ("MEMORY_CGROUPS", tmp_path / "cgroup")):  # fmt: skip
        monkeypatch.setattr(settings, name, value)
    (tmp_path / "cgroup").mkdir()
    return sysfs


def _shown(host):
    return [(host / name).read_text() for name in ("enabled", "hugepages-64kB/enabled")]


def test_what_was_set_is_put_back(host):
    with temporary_settings({"enabled": "always"}) as run:
        assert run.write("hugepages-64kB/enabled", "always") == 0
        assert run.write("hugepages-64kB/enabled", "inherit") == 0
        assert _shown(host) == ["always", "inherit"]
        assert run.cgroup("mine").is_dir()
        written = json.loads(settings.journal().read_text())
        assert [undo["value"] for undo in written["undo"]] == ["madvise", "never", ""]
    assert _shown(host) == ["madvise", "never"]
    assert not settings.journal().exists()
    assert not (settings.MEMORY_CGROUPS / "mine").exists()
    assert not restore()


def test_an_error_and_ctrl_c_put_back_too(host):
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), temporary_settings({"enabled": "always"}):
            raise error
        assert _shown(host)[0] == "madvise"
        assert not settings.journal().exists()


def test_what_a_killed_run_left_is_told_and_restored(host, monkeypatch):
    run = temporary_settings({"enabled": "always"})
    run.__enter__()
    left = settings.journal().read_text()
    with pytest.raises(LiveError, match="another live run is under way"), temporary_settings({}):
        pass
    with pytest.raises(LiveError, match="another live run is under way"):
        restore()
    run.__exit__(None, None, None)
    (host / "enabled").write_text("always")
    settings.journal().write_text(left)
    monkeypatch.setenv("XDG_STATE_HOME", str(host / "elsewhere"))  # the lock says where the journal is
    with pytest.raises(LiveError, match=r"an earlier run was killed .*thp-env live --restore"), temporary_settings({}):
        pass
    assert restore()
    assert _shown(host)[0] == "madvise"
    assert not restore()


def test_after_a_restart_of_the_host_nothing_is_put_back(host):
    with temporary_settings({"enabled": "always"}):
        left = settings.journal().read_text()
    settings.journal().write_text(left.replace(json.loads(left)["boot"], "another"))
    (host / "enabled").write_text("never")
    assert restore()
    assert _shown(host)[0] == "never"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[", "malformed|cut off|JSON"),
        ('{"boot": "x", "undo": [{"kind": "write", "name": "/etc/passwd", "value": "x"}]}', "passwd is no setting"),
        ('{"boot": "x", "undo": [{"kind": "zram", "name": "../0", "value": ""}]}', "no zram device"),
        ('{"boot": "x", "undo": [{"kind": "nice", "name": "khugepaged", "value": "x"}]}', "no priority"),
        ('{"boot": "x", "undo": [{"kind": "run", "name": "x", "value": "x"}]}', "run"),
    ],
)
def test_a_file_that_is_no_journal_changes_nothing(host, content, reason):
    settings.journal().parent.mkdir(parents=True)
    settings.journal().write_text(content)
    with pytest.raises(LiveError, match=reason):
        restore()
    assert settings.journal().read_text() == content
    assert _shown(host) == ["always [madvise] never\n", "always inherit madvise [never]\n"]


def test_a_journal_names_no_path_with_a_nul_byte(host):
    settings.journal().parent.mkdir(parents=True)
    undo = {"kind": "cgroup", "name": f"{settings.MEMORY_CGROUPS}/a\0", "value": ""}
    settings.journal().write_text(json.dumps({"boot": settings._boot(), "undo": [undo]}))
    with pytest.raises(LiveError, match="is no setting"):
        restore()


def test_what_is_no_setting_is_refused(host):
    with temporary_settings({}) as run:
        for name in ("/etc/hostname", "../../etc/hostname"):
            with pytest.raises(LiveError, match="is no setting"):
                run.write(name, "x")
        with pytest.raises(LiveError, match="no name of a control group"):
            run.cgroup("../x")
    message = r"cannot write 'x' to .*/nowhere/enabled: No such file"
    with pytest.raises(LiveError, match=message), temporary_settings({}) as run:
        run.require({"nowhere/enabled": "x"})


def test_prctl_holds_for_the_block_and_needs_no_root(host, monkeypatch):
    monkeypatch.setattr(settings, "LOCK", Path("/nowhere/lock"))
    before = settings.thp_disabled()
    with temporary_settings(disable=(1, 0)) as run:
        assert settings.thp_disabled() == (1, 0)
        with pytest.raises(LiveError, match="nothing of the whole host"):
            run.write("enabled", "always")
    assert settings.thp_disabled() == before
    with pytest.raises(LiveError, match="only root can change this host's settings"), temporary_settings({}):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_any_signal_ends_with_settings_as_they_were(host, number):
    code = (
        "import sys, time; from pathlib import Path; from thp_env.live import settings; root = Path(sys.argv[1])\n"
        "settings.THP, settings.ROOTS, settings.LOCK = root, (root,), root.parent / 'lock'\n"
        "with settings.temporary_settings({'enabled': 'always'}):\n    print('x', flush=True); time.sleep(60)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(host)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           env={**os.environ})  # fmt: skip
    assert run.stdout.readline() == b"x\n"
    assert _shown(host)[0] == "always"
    run.send_signal(number)
    run.communicate()
    assert restore() == (number == signal.SIGKILL)
    assert _shown(host)[0] == "madvise"
    assert not settings.journal().exists()
