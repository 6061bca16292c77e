"""A run that crashes, in either process, says nothing of the secrets it was given."""

import signal

import pytest

TOKEN = "very-secret-token-42"
SECRET = {"SIGOPT_API_TOKEN": TOKEN, "SIGOPT_DEV_TOKEN": f"dev-{TOKEN}"}


def assert_untold(lab, *texts):
    for text in texts:
        assert TOKEN not in text
    told = [path for path in lab.folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert told == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segfault", "tell"])
def test_a_worker_that_crashes(lab, kind):
    pytest.importorskip("nc_strategies_sigopt")
    status, out, err = lab.run(
        *lab.toy(
            "strategy=sigopt",
            "strategy.driver=local",
            f"backend.faults={kind}",
            "backend.share=40",
            "tuning.max_trials=8",
            "run_dir=run",
        ),
        env=SECRET,
    )
    assert status in (0, 3), err
    assert lab.result()["trials"]["failed"] > 0
    assert_untold(lab, out, err)


@pytest.mark.parametrize("stage", ["load", "save"])
def test_a_worker_that_tells_all_it_knows(lab, stage):
    status, out, err = lab.run(
        *lab.toy("backend.faults=tell", f"backend.stage={stage}", "tuning.max_trials=2", "run_dir=run"), env=SECRET
    )
    assert status in (1, 2)
    assert "environment: " in err
    assert_untold(lab, out, err)


def test_a_command_that_fails_with_its_environment_in_the_error(lab):
    status, out, err = lab.run(*lab.toy("strategy=leaky", "tuning.max_trials=6", "run_dir=run"), env=SECRET)
    assert status == 1
    assert "internal error: RuntimeError: environment: " in err
    assert "KeyError: '***'" in lab.log()
    assert len(lab.journal()) == 2
    assert_untold(lab, out, err)


def test_a_command_that_is_aborted(lab, tools):
    pytest.importorskip("nc_strategies_sigopt")
    # Without a core file, which holds all memory: that is the system's doing, and the user's to allow.
    process = lab.start(
        *lab.toy("strategy=sigopt", "strategy.driver=local", "backend.trial_seconds=0.2", "run_dir=run"),
        env=SECRET,
        preexec_fn=_no_core,
    )
    tools.wait_for(lambda: len(lab.journal()) >= 2)
    process.send_signal(signal.SIGABRT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGABRT
    assert_untold(lab, out, err)


def _no_core():
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
